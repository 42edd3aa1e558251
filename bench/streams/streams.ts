/**
 * Measures bytes through a running sandbox: stdin and stdout of a command, files in and out, and how long a command takes that
 * says one word. Wall time, and processor time of the client, the keeper and the VM each. BENCH_MB (100), BENCH_RUNS (5),
 * BENCH_EXECS (50).
 */
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { Home } from "../../test/support/bunker.ts"
import { busyboxArchive, busyboxPath } from "../../test/support/busyboxImage.ts"
import { environment, writeResult } from "../support/results.ts"
import { summarize, table } from "../support/statistics.ts"

const megabytes = Number(process.env["BENCH_MB"] ?? 100)
const runs = Number(process.env["BENCH_RUNS"] ?? 5)
const execs = Number(process.env["BENCH_EXECS"] ?? 50)
const clockTicks = 100

/** Milliseconds of processor time that a process has used (proc(5), fields 14 and 15). */
const cpuMsOf = (pid: number): number => {
  const fields = fs.readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]!.split(" ")
  return ((Number(fields[11]) + Number(fields[12])) * 1000) / clockTicks
}

const keeperOf = (home: string): number => {
  const found = fs.readdirSync("/proc").find((pid) => {
    if (!/^\d+$/.test(pid)) return false
    try {
      const ours = fs.readFileSync(`/proc/${pid}/environ`, "latin1").includes(`BUNKER_HOME=${home}\0`)
      return ours && fs.readFileSync(`/proc/${pid}/cmdline`, "latin1").includes("\0__keeper\0")
    } catch {
      return false
    }
  })
  if (found === undefined) throw new Error("the sandbox has no keeper")
  return Number(found)
}

export const benchStreams = async (): Promise<void> => {
  const busybox = busyboxPath()
  if (busybox === undefined)
    throw new Error("a static busybox is missing, on Debian: sudo apt-get install busybox-static")
  const home = new Home(fs.mkdtempSync(path.join(os.tmpdir(), "bunker-bench-streams-")))
  try {
    const archive = path.join(home.directory, "image.tar")
    fs.writeFileSync(archive, busyboxArchive(busybox))
    await home.must(["load", "-q", archive])
    await home.must(["create", "--name", "m", "test/busybox:1"])
    await home.must(["start", "m"])
    const { pid: vm } = JSON.parse(await home.must(["inspect", "m"]))[0] as { readonly pid: number }
    const keeper = keeperOf(home.directory)
    const file = path.join(home.directory, "file")
    const back = path.join(home.directory, "back")
    const noise = crypto.getRandomValues(new Uint8Array(65_536))
    const handle = fs.openSync(file, "w")
    for (let left = megabytes * 1_000_000; left > 0; left -= noise.length)
      fs.writeSync(handle, noise, 0, Math.min(left, noise.length))
    fs.closeSync(handle)

    /** One run; its output is read and dropped. */
    const once = async (args: ReadonlyArray<string>, stdin: boolean) => {
      const before = { keeper: cpuMsOf(keeper), vm: cpuMsOf(vm) }
      const begun = performance.now()
      const child = Bun.spawn(
        [process.env["BENCH_BUNKER"] ?? path.join(import.meta.dirname, "../../dist/bunker"), ...args],
        {
          env: home.environment(),
          stdio: [stdin ? Bun.file(file) : "ignore", "pipe", "inherit"]
        }
      )
      let bytes = 0
      for await (const piece of child.stdout) bytes += piece.length
      if ((await child.exited) !== 0) throw new Error(`bunker ${args.join(" ")} ended with ${child.exitCode}`)
      const ms = performance.now() - begun
      const used = child.resourceUsage()!.cpuTime
      return {
        bytes,
        ms,
        client: Number(used.total) / 1000,
        keeper: cpuMsOf(keeper) - before.keeper,
        vm: cpuMsOf(vm) - before.vm
      }
    }
    // Its words about itself go to stderr, which is ours.
    const zeros = `dd if=/dev/zero bs=50000 count=${megabytes * 20} 2> /dev/null`
    const subjects: ReadonlyArray<readonly [string, ReadonlyArray<string>, boolean, number]> = [
      ["a word (exec echo)", ["exec", "m", "echo", "x"], false, execs],
      ["stdin (exec -i, cat > /dev/null)", ["exec", "-i", "m", "sh", "-c", "cat > /dev/null"], true, runs],
      ["stdout (exec, dd of zeros)", ["exec", "m", "sh", "-c", zeros], false, runs],
      ["both (exec -i, cat)", ["exec", "-i", "m", "cat"], true, runs],
      ["cp in", ["cp", file, "m:/root/file"], false, runs],
      ["cp out", ["cp", "m:/root/file", back], false, runs]
    ]
    const results = []
    for (const [name, args, stdin, times] of subjects) {
      const all: Array<Awaited<ReturnType<typeof once>>> = []
      for (let run = -1; run < times; run += 1) {
        const one = await once(args, stdin)
        if (run >= 0) all.push(one)
      }
      const of = (field: "ms" | "client" | "keeper" | "vm") => summarize(all.map((each) => each[field]))!
      results.push({ name, ms: of("ms"), clientCpuMs: of("client"), keeperCpuMs: of("keeper"), vmCpuMs: of("vm") })
    }
    console.log(
      `\n${table([
        [`medians, ${megabytes} MB`, "ms", "fastest", "client cpu", "keeper cpu", "VM cpu"],
        ...results.map((each) => [
          each.name,
          ...[each.ms.median, each.ms.min, each.clientCpuMs.median, each.keeperCpuMs.median, each.vmCpuMs.median].map(
            (value) => value.toFixed(0)
          )
        ])
      ])}\n`
    )
    console.log(`wrote ${writeResult("streams", { environment: environment(), megabytes, runs, execs, results })}`)
  } finally {
    await home.dispose()
  }
}
