/**
 * Runs the test suites and ends with one line of totals, `N passed, N failed[, N skipped]`.
 * usage: bun scripts/test.ts [--lab | --all] [PATTERN...]: the host's suites, those of the lab, or both.
 * Files run in parallel, each in a process of its own; tests within a file do not, so at most `workers` files boot VMs at once.
 */
import os from "node:os"
import path from "node:path"

const root = path.join(import.meta.dirname, "..")
const [flags, patterns] = [true, false].map((flag) =>
  process.argv.slice(2).filter((word) => word.startsWith("-") === flag)
)
const unknown = flags!.find((flag) => flag !== "--lab" && flag !== "--all")
if (unknown !== undefined) {
  console.error(`scripts/test.ts: unknown option ${unknown}; --lab and --all are known`)
  process.exit(2)
}

/** Emulated VMs keep a core busy each; above this many a machine's disk is what tests wait for. */
const workersMax = 8
const workers = Math.min(workersMax, Math.max(2, os.availableParallelism()))
/** Per test, in milliseconds: generous, since everything may wait for two emulated VMs. Suites with VMs set their own. */
const testTimeoutMs = 60_000

interface Totals {
  readonly passed: number
  readonly failed: number
  readonly skipped: number
}

/** Reads the lines that `bun test` ends with. A suite that ends badly without a failed test counts as one. */
const totalsOf = (output: string, exitCode: number): Totals => {
  const plain = Bun.stripANSI(output)
  const count = (what: string): number =>
    [...plain.matchAll(new RegExp(`^\\s*(\\d+) ${what}$`, "gm"))].reduce((sum, match) => sum + Number(match[1]), 0)
  const failed = count("fail")
  return {
    passed: count("pass"),
    failed: failed === 0 && exitCode !== 0 ? Math.max(1, count("errors?")) : failed,
    skipped: count("skip") + count("todo")
  }
}

/** Copies a command's output through and reads its totals. */
const suites = async (command: ReadonlyArray<string>, env: Readonly<Record<string, string>> = {}): Promise<Totals> => {
  const child = Bun.spawn([...command], {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"]
  })
  let output = ""
  const copy = async (from: ReadableStream<Uint8Array>, to: NodeJS.WriteStream) => {
    const decoder = new TextDecoder()
    for await (const bytes of from) {
      to.write(bytes)
      output += decoder.decode(bytes, { stream: true })
    }
  }
  await Promise.all([copy(child.stdout, process.stdout), copy(child.stderr, process.stderr)])
  return totalsOf(output, await child.exited)
}

const build = Bun.spawn([process.execPath, "scripts/build.ts", "--if-stale"], {
  cwd: root,
  stdio: ["ignore", "inherit", "inherit"]
})
if ((await build.exited) !== 0) process.exit(1)

const results: Array<Totals> = []
if (!flags!.includes("--lab")) {
  const options = [`--parallel=${workers}`, "--timeout", String(testTimeoutMs)]
  results.push(await suites([process.execPath, "test", ...options, ...patterns!]))
}
if (flags!.length > 0) results.push(await suites(["test/lab/run.sh", ...(flags!.includes("--lab") ? patterns! : [])]))

const sum = (of: (totals: Totals) => number): number => results.reduce((total, each) => total + of(each), 0)
const [passed, failed, skipped] = [sum((each) => each.passed), sum((each) => each.failed), sum((each) => each.skipped)]
console.log(`\n${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`)
process.exit(failed > 0 || passed === 0 ? 1 : 0)
