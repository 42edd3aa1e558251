/**
 * Measures booting a microVM in the KVM lab with its instruction-count clock: bare libkrun, Bunker, microsandbox and BoxLite, the
 * same static program from the same image, 512 MiB, one vCPU. Compares within one lab run only: its milliseconds are no hardware's.
 *
 * BENCH_RUNS (3), BENCH_EXECS (5; 0 leaves running sandboxes out), BENCH_ONLY ("bare bunker microsandbox boxlite"),
 * BENCH_BUNKER (dist/bunker).
 */
import fs from "node:fs"
import path from "node:path"
import { boxlite, boxliteOptions, inLab, peer } from "../support/lab.ts"
import { environment, writeResult } from "../support/results.ts"
import { type Summary, summarize, table } from "../support/statistics.ts"

const contestants = ["bare", "bunker", "microsandbox", "boxlite"] as const
/** BoxLite brings a library and no program: measured as a process each, as the others, and within one that lives. */
const rows = [...contestants, "boxlite-inside"] as const

interface Timing {
  readonly label: string
  readonly first: number
  readonly exit: number
  readonly code: number
  readonly rssKb: number
  readonly cpu: number
}

const runs = Number(process.env["BENCH_RUNS"] ?? 3)
const execs = Number(process.env["BENCH_EXECS"] ?? 5)
const only = process.env["BENCH_ONLY"] ?? contestants.join(" ")
const wanted = (name: string) => only.split(" ").includes(name)

export const benchVm = async (): Promise<void> => {
  const settings = { RUNS: String(runs), EXECS: String(execs), ONLY: only }
  const { out, seconds } = await inLab("vm/inside.sh", settings, wanted("boxlite") ? boxliteOptions() : [])
  try {
    report(out, seconds)
  } finally {
    if (process.env["BENCH_KEEP"] === undefined) fs.rmSync(out, { recursive: true, force: true })
    else console.log(`kept: ${out}`)
  }
}

const report = (out: string, seconds: number): void => {
  const text = fs.existsSync(path.join(out, "times.jsonl"))
    ? fs.readFileSync(path.join(out, "times.jsonl"), "utf8")
    : ""
  const timings = text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Timing)
  const good = (label: string) => timings.filter((timing) => timing.label === label && timing.code === 0)
  /** What is not above 0 was not measured: a process has memory of its own, what happens within one has not. */
  const of = (label: string, key: "first" | "exit" | "rssKb" | "cpu") =>
    summarize(
      good(label)
        .map((timing) => timing[key])
        .filter((value) => value > 0)
    )
  const failed = timings.filter((timing) => timing.code !== 0)
  const all = Object.fromEntries(
    rows.map((name) => [
      name,
      {
        firstOutputMs: of(name, "first"),
        exitMs: of(name, "exit"),
        maxRssKb: of(name, "rssKb"),
        cpuMs: of(name, "cpu"),
        upMs: of(`${name}-up`, "exit"),
        execFirstOutputMs: of(`${name}-exec`, "first"),
        execExitMs: of(`${name}-exec`, "exit"),
        stopMs: of(`${name}-stop`, "exit"),
        idlePssKb: memoryOf(out, name),
        idleParts: partsOf(out, name)
      }
    ])
  )
  const columns: ReadonlyArray<readonly [string, (name: string) => Summary | undefined]> = [
    ["first output", (name) => all[name]!.firstOutputMs],
    ["exit", (name) => all[name]!.exitMs],
    ["exec", (name) => all[name]!.execExitMs],
    ["stop", (name) => all[name]!.stopMs]
  ]
  const cell = (name: string, pick: (name: string) => Summary | undefined): string =>
    pick(name)?.median.toFixed(0) ?? "-"
  const ratio = (over: string, pick: (name: string) => Summary | undefined): string => {
    const [a, b] = [pick("bunker")?.median, pick(over)?.median]
    return a === undefined || b === undefined ? "-" : (a / b).toFixed(2)
  }
  const shown = rows.filter((name) => wanted(name.replace("-inside", "")))
  const ratios = (over: string) => columns.map(([, pick]) => ratio(over, pick))
  console.log(
    `\n${table([
      ["medians, ms of instruction clock", ...columns.map(([title]) => title), "idle PSS, MiB"],
      ...shown.map((name) => [
        name,
        ...columns.map(([, pick]) => cell(name, pick)),
        all[name]!.idlePssKb === undefined ? "-" : (all[name]!.idlePssKb / 1024).toFixed(0)
      ]),
      ...shown.filter((name) => name !== "bunker").map((name) => [`bunker / ${name}`, ...ratios(name), "-"])
    ])}\n`
  )
  for (const name of shown) {
    const parts = all[name]!.idleParts
    if (parts === undefined) continue
    const [guest, own, files] = [parts.guestKb, parts.ownKb, parts.filesKb].map((kb) => (kb / 1024).toFixed(0))
    console.log(
      `idle ${name}: ${guest} MiB guest pages, ${own} MiB of its own, ${files} MiB program files, shared with others like it`
    )
  }
  if (failed.length > 0)
    console.log(`failed runs: ${failed.map((timing) => `${timing.label} (${timing.code})`).join(", ")}`)
  for (const name of contestants.filter((name) => wanted(name) && good(name).length === 0)) {
    console.log(`${name} did not run; its last words are in inside.log (BENCH_KEEP=1, or BENCH_LIVE=1)`)
  }
  const digestMs = guestDigestMs(out)
  if (digestMs !== undefined)
    console.log(`of each boxlite row but "inside": ${digestMs.median.toFixed(0)} ms digest of its guest program`)
  const log = path.join(out, "inside.log")
  if (timings.length === 0) throw new Error(`nothing was measured:\n${fs.readFileSync(log, "utf8").slice(-2000)}`)
  const written = writeResult("vm", {
    environment: {
      ...environment(),
      peers: [peer, boxlite].map((one) => `${one.package}@${one.version}`),
      clock: "instructions (--icount 0)",
      seconds
    },
    guest: { memoryMb: 512, vcpus: 1, image: "busybox and a static hello, one layer" },
    runs,
    execs,
    aims: { firstOutputOverBare: 1.05, firstOutputOverMicrosandbox: 0.7, execOverMicrosandbox: 0.5 },
    contestants: all,
    boxliteGuestDigestMs: digestMs,
    raw: timings
  })
  console.log(`wrote ${written}`)
}

/** The processes of an idle sandbox: `LABEL PID PSS RSS GUEST OWN FILES COMMAND`, see inside.sh. */
const processesOf = (out: string, name: string): ReadonlyArray<ReadonlyArray<string>> => {
  const file = path.join(out, "memory.txt")
  if (!fs.existsSync(file)) return []
  const lines = fs.readFileSync(file, "utf8").split("\n")
  return lines.map((line) => line.split(" ")).filter(([label]) => label === name)
}

const sumOf = (lines: ReadonlyArray<ReadonlyArray<string>>, column: number): number =>
  lines.reduce((sum, line) => sum + Number(line[column]), 0)

/** Sum over all processes of an idle sandbox, in KiB. */
const memoryOf = (out: string, name: string): number | undefined => {
  const lines = processesOf(out, name)
  return lines.length === 0 ? undefined : sumOf(lines, 2)
}

/** What that sum is made of, in KiB: the guest's pages, memory that is the processes' own, files that all such processes share. */
const partsOf = (out: string, name: string) => {
  const lines = processesOf(out, name)
  return lines.length === 0 ? undefined : { guestKb: sumOf(lines, 4), ownKb: sumOf(lines, 5), filesKb: sumOf(lines, 6) }
}

/** What each process of BoxLite spends on the digest of its 20 MB guest program, from its log: long without SHA instructions. */
const guestDigestMs = (out: string): Summary | undefined => {
  const file = path.join(out, "boxlite.log")
  if (!fs.existsSync(file)) return undefined
  const times = [...fs.readFileSync(file, "utf8").matchAll(/Resolved guest binary .* elapsed_ms=(\d+)/g)]
  return summarize(times.map(([, ms]) => Number(ms)))
}
