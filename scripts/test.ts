/**
 * Runs the test suites and ends with one line of totals, `N passed, N failed[, N skipped]`.
 * usage: bun scripts/test.ts [--check] [--lab] [PATTERN...]: the host's suites; before them the checks, after them the lab's suites.
 * Files run in parallel, each in a process of its own; tests within a file do not, so at most `workers` files boot VMs at once.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync } from "node:fs"
import os, { tmpdir } from "node:os"
import path from "node:path"

const root = path.join(import.meta.dirname, "..")
const words = process.argv.slice(2)
const patterns = words.filter((word) => !word.startsWith("-"))
const unknown = words.find((word) => word.startsWith("-") && word !== "--check" && word !== "--lab")
if (unknown !== undefined) {
  console.error(`scripts/test.ts: unknown option ${unknown}; --check and --lab are known`)
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
  /** What failed, each with the lines that were printed before it, to be said once more at the end. */
  readonly failures?: ReadonlyArray<string>
}

/** Lines kept of what a failed test printed: the end of a long output is all that some readers see. */
const failureLinesMax = 30

/** Finds the tests that failed, and the errors outside of tests, in what `bun test` printed. */
const failuresOf = (plain: string): ReadonlyArray<string> => {
  // By the last line: `bun test` lists the names of failed tests once more at its end.
  const found = new Map<string, string>()
  let lines: Array<string> = []
  for (const line of plain.split("\n").filter((each) => each.trim() !== "")) {
    if (line.startsWith("# Unhandled error")) lines = []
    lines.push(line)
    // An error outside of tests stands between two rules, below its title.
    const isErrorsEnd = /^-{10,}$/.test(line) && lines.length > 2 && lines.at(0)?.startsWith("# Unhandled") === true
    const isEnd = isErrorsEnd || line.startsWith("(fail) ")
    const key = isErrorsEnd ? lines.join("\n") : line
    if (isEnd && !found.has(key)) found.set(key, lines.slice(-failureLinesMax).join("\n"))
    if (isEnd || /^\((pass|skip|todo)\) |^\S+\.test\.[jt]s:$/.test(line)) lines = []
  }
  return [...found.values()]
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
    skipped: count("skip") + count("todo"),
    failures: failuresOf(plain)
  }
}

/** Copies a command's output through and reads its totals. */
const suites = async (command: ReadonlyArray<string>): Promise<Totals> => {
  const child = Bun.spawn([...command], {
    cwd: root,
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

/** Runs a step that has no tests; answers its exit code. */
const step = (script: string, ...options: ReadonlyArray<string>): Promise<number> =>
  Bun.spawn([process.execPath, script, ...options], { cwd: root, stdio: ["ignore", "inherit", "inherit"] }).exited

/** Files of suites by the names that the lab says, like `behaviour.test`. */
const suiteFiles = (names: ReadonlyArray<string>): ReadonlyArray<string> =>
  readdirSync(path.join(root, "test/vm"), { recursive: true, encoding: "utf8" })
    .filter((file) => names.includes(path.basename(file, ".ts")))
    .map((file) => path.join(root, "test/vm", file))

/**
 * The suites under libkrun. One boot in some dozens gets stuck in the emulated machine, whoever's program boots: suites with a failed
 * test get a second try, alone, and count by it.
 */
const lab = async (): Promise<Totals> => {
  const failedFile = path.join(mkdtempSync(path.join(tmpdir(), "bunker-lab-")), "failed")
  const first = await suites(["env", `BUNKER_LAB_FAILED=${failedFile}`, "test/lab/run.sh"])
  const names = existsSync(failedFile) ? readFileSync(failedFile, "utf8").split("\n").filter(Boolean) : []
  const again = suiteFiles(names)
  if (first.failed === 0 || again.length === 0) return first
  console.log(`a second try in the lab, alone: ${names.join(", ")}`)
  const second = await suites(["test/lab/run.sh", ...again])
  if (second.failed > 0) return { ...second, passed: first.passed }
  console.log(`${first.failed} failed in the lab and passed at the second try`)
  return { passed: first.passed + first.failed, failed: 0, skipped: first.skipped }
}

const results: Array<Totals> = []
// Each check that fails counts as a failed test; one that passes counts as nothing.
if (words.includes("--check")) {
  const failed = await step("scripts/check.ts")
  results.push({
    passed: 0,
    failed,
    skipped: 0,
    failures: failed > 0 ? [`${failed} of the checks: see the beginning`] : []
  })
}
if ((await step("scripts/build.ts", "--if-stale")) === 0) {
  const options = [`--parallel=${workers}`, "--timeout", String(testTimeoutMs)]
  results.push(await suites([process.execPath, "test", ...options, ...patterns]))
  if (words.includes("--lab")) results.push(await lab())
} else {
  results.push({ passed: 0, failed: 1, skipped: 0, failures: ["the build"] })
}

const sum = (of: (totals: Totals) => number): number => results.reduce((total, each) => total + of(each), 0)
const [passed, failed, skipped] = [sum((each) => each.passed), sum((each) => each.failed), sum((each) => each.skipped)]
const failures = results.flatMap((each) => each.failures ?? [])
if (failures.length > 0) console.log(`\nwhat failed:\n${failures.join("\n")}`)
console.log(`\n${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`)
process.exit(failed > 0 || passed === 0 ? 1 : 0)
