/**
 * Measures what the command line costs before it does anything: the compiled program and `./bunker` beside `/bin/true` and an
 * empty Bun in the same minute. Every command in turn, so that a busy machine spoils all of them alike; medians of BENCH_RUNS (30).
 */
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { environment, writeResult } from "../support/results.ts"
import { summarize, table } from "../support/statistics.ts"

const root = path.join(import.meta.dirname, "../..")
const runs = Number(process.env["BENCH_RUNS"] ?? 30)
const program = process.env["BENCH_BUNKER"] ?? path.join(root, "dist/bunker")

interface Subject {
  readonly name: string
  readonly command: ReadonlyArray<string>
  /** Milliseconds, from the specification of the CLI. */
  readonly aimMs?: number
}

export const benchCli = async (): Promise<void> => {
  const home = fs.mkdtempSync(path.join(os.tmpdir(), "bunker-bench-cli-"))
  const env = { PATH: process.env["PATH"] ?? "/usr/bin:/bin", HOME: home, BUNKER_HOME: home }
  try {
    const timer = path.join(home, "timer")
    const built = Bun.spawnSync(["cc", "-O2", "-o", timer, path.join(root, "bench/vm/timer.c")], { stderr: "inherit" })
    if (built.exitCode !== 0)
      throw new Error("the timer needs a C compiler, on Debian: sudo apt-get install gcc libc6-dev")
    const subjects: ReadonlyArray<Subject> = [
      { name: "/bin/true", command: ["/bin/true"] },
      { name: "bun -e 0", command: [process.execPath, "-e", "0"] },
      { name: "bunker --version", command: [program, "--version"], aimMs: 30 },
      { name: "bunker ps", command: [program, "ps"], aimMs: 60 },
      { name: "bunker images", command: [program, "images"] },
      { name: "bunker --help", command: [program, "--help"] },
      ...[path.join(root, "bunker")]
        .filter((file) => fs.existsSync(file))
        .map((file) => ({ name: "./bunker --version", command: [file, "--version"], aimMs: 60 }))
    ]
    const measured = new Map(
      subjects.map(({ name }) => [name, [] as Array<{ ms: number; rssKb: number; cpuMs: number }>])
    )
    for (let run = -2; run < runs; run += 1) {
      for (const { name, command } of subjects) {
        const one = once(timer, command, env)
        if (run >= 0) measured.get(name)!.push(one)
      }
    }
    const results = subjects.map(({ name, aimMs }) => {
      const all = measured.get(name)!
      return {
        name,
        aimMs,
        ms: summarize(all.map(({ ms }) => ms))!,
        cpuMs: summarize(all.map(({ cpuMs }) => cpuMs))!,
        maxRssKb: summarize(all.map(({ rssKb }) => rssKb))!
      }
    })
    console.log(
      `\n${table([
        [`medians of ${runs}`, "ms", "aim", "fastest", "cpu ms", "RSS MiB"],
        ...results.map(({ name, aimMs, ms, cpuMs, maxRssKb }) => [
          name,
          ms.median.toFixed(1),
          aimMs === undefined ? "-" : `< ${aimMs}`,
          ms.min.toFixed(1),
          cpuMs.median.toFixed(1),
          (maxRssKb.median / 1024).toFixed(0)
        ])
      ])}\n`
    )
    console.log(`wrote ${writeResult("cli", { environment: environment(), runs, results })}`)
  } finally {
    fs.rmSync(home, { recursive: true, force: true })
  }
}

/** Through the small timer: what Bun spawns itself starts with Bun's own peak of memory. */
const once = (timer: string, command: ReadonlyArray<string>, env: Readonly<Record<string, string>>) => {
  const file = path.join(env["HOME"]!, "time.json")
  fs.rmSync(file, { force: true })
  const { exitCode } = Bun.spawnSync([timer, "one", file, ...command], { env, stdout: "ignore", stderr: "ignore" })
  if (exitCode !== 0) throw new Error(`${command.join(" ")} ended with ${exitCode}`)
  const { exit, rssKb, cpu } = JSON.parse(fs.readFileSync(file, "utf8")) as { exit: number; rssKb: number; cpu: number }
  return { ms: exit, rssKb, cpuMs: cpu }
}
