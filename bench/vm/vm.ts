/**
 * Measures booting a microVM in the KVM lab with its instruction-count clock: bare libkrun, Bunker and microsandbox, the same
 * static program from the same image, 512 MiB, one vCPU. Compares within one lab run only: its milliseconds are no hardware's.
 *
 * BENCH_RUNS (3), BENCH_EXECS (5; 0 leaves running sandboxes out), BENCH_ONLY ("bare bunker microsandbox"),
 * BENCH_BUNKER (dist/bunker).
 */
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { busyboxPath } from "../../test/support/busyboxImage.ts"
import { archiveOf, directory, file, imageOf, savedFiles, symlink } from "../../test/support/image.ts"
import { environment, writeResult } from "../support/results.ts"
import { type Summary, summarize, table } from "../support/statistics.ts"

/** The peer, taken from npm for this bench alone. */
const peer = { package: "@superradcompany/microsandbox-linux-x64-gnu", version: "0.7.2" } as const

const root = path.join(import.meta.dirname, "../..")
const here = import.meta.dirname
const image = "localhost/bench/hello:1"
const contestants = ["bare", "bunker", "microsandbox"] as const

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

export const benchVm = async (): Promise<void> => {
  const cache = process.env["BUNKER_LAB_CACHE"] ?? path.join(os.homedir(), ".cache/bunker-lab")
  const kernel = process.env["LAB_KERNEL"] ?? path.join(cache, "kernel")
  const kit = path.join(cache, "bench-kit")
  if (!fs.existsSync(path.join(kernel, "boot"))) must(["test/lab/lab.sh", "--fetch-kernel", kernel])
  await fillKit(kit)
  const out = fs.mkdtempSync(path.join(os.tmpdir(), "bunker-bench-"))
  try {
    const began = performance.now()
    // One lab at a time: two of them would only take turns.
    must([
      ...["flock", path.join(os.tmpdir(), "lab.lock"), "test/lab/lab.sh", "--kernel", kernel, "--cache", cache],
      ...["--icount", "0", "--mem", "6144", "--timeout", "3000", "--module", "loop", "--share", `${kit}:/kit`],
      ...["--file", "/etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt", "--out", out],
      ...["--env", "PATH=/kit/bin:/bin:/sbin:/usr/bin", "--env", `RUNS=${runs}`, "--env", `EXECS=${execs}`],
      ...["--env", `ONLY=${only}`, "--time", "--", "/bin/sh", "/kit/bench/inside.sh"]
    ])
    report(out, Math.round((performance.now() - began) / 1000))
  } finally {
    if (process.env["BENCH_KEEP"] === undefined) fs.rmSync(out, { recursive: true, force: true })
    else console.log(`kept: ${out}`)
  }
}

const must = (command: ReadonlyArray<string>, cwd = root): void => {
  const { exitCode } = Bun.spawnSync([...command], { cwd, stdout: "inherit", stderr: "inherit" })
  if (exitCode !== 0) throw new Error(`${command[0]} ended with ${exitCode}: ${command.join(" ").slice(0, 300)}`)
}

/** Copies only what differs: the lab packs a directory again when a time in it changes. */
const take = (from: string, to: string): void => {
  fs.mkdirSync(path.dirname(to), { recursive: true })
  if (Bun.spawnSync(["cmp", "-s", from, to]).exitCode !== 0) fs.copyFileSync(from, to)
}
const put = (to: string, content: Uint8Array | string, mode = 0o644): void => {
  fs.mkdirSync(path.dirname(to), { recursive: true })
  const bytes = Buffer.from(content)
  if (!fs.existsSync(to) || !fs.readFileSync(to).equals(bytes)) fs.writeFileSync(to, bytes)
  if ((fs.statSync(to).mode & 0o777) !== mode) fs.chmodSync(to, mode)
}

/** Everything that the lab needs, below one directory. */
const fillKit = async (kit: string): Promise<void> => {
  const work = fs.mkdtempSync(path.join(os.tmpdir(), "bunker-bench-kit-"))
  try {
    const runtime = path.join(root, "node_modules/libkrun-linux-x64/runtime")
    for (const name of fs.readdirSync(runtime).filter((name) => /^libkrun(fw)?\.so\./.test(name))) {
      take(path.join(runtime, name), path.join(kit, "node_modules/libkrun-linux-x64/runtime", name))
    }
    take(path.join(runtime, "mke2fs"), path.join(kit, "bin/mke2fs"))
    take(process.execPath, path.join(kit, "bin/bun"))
    take(process.env["BENCH_BUNKER"] ?? path.join(root, "dist/bunker"), path.join(kit, "bin/bunker"))
    const peerFiles = installPeer(path.join(kit, "..", "bench-peer"))
    take(path.join(peerFiles, "bin/msb"), path.join(kit, "bin/msb"))
    for (const name of fs.readdirSync(path.join(peerFiles, "lib"))) {
      take(path.join(peerFiles, "lib", name), path.join(kit, "lib", name))
    }
    for (const name of ["timer", "hello"]) {
      must(["musl-gcc", "-static", "-O2", "-s", "-o", path.join(work, name), path.join(here, `${name}.c`)])
    }
    take(path.join(work, "timer"), path.join(kit, "bin/timer"))
    must([
      process.execPath,
      "build",
      "--target",
      "bun",
      "--outfile",
      path.join(work, "bare.js"),
      path.join(here, "bare.ts")
    ])
    put(path.join(kit, "bench/bare.js"), fs.readFileSync(path.join(work, "bare.js")))
    put(path.join(kit, "bench/inside.sh"), fs.readFileSync(path.join(here, "inside.sh")))

    const busybox = busyboxPath()
    if (busybox === undefined) throw new Error("no static busybox; install busybox-static")
    const hello = fs.readFileSync(path.join(work, "hello"))
    put(path.join(kit, "bench/rootfs/bin/hello"), hello, 0o755)
    put(path.join(kit, "bench/rootfs/bin/busybox"), fs.readFileSync(busybox), 0o755)
    for (const name of ["dev", "proc", "sys", "tmp", "etc"])
      fs.mkdirSync(path.join(kit, "bench/rootfs", name), { recursive: true })
    const made = imageOf([
      [
        directory("bin"),
        file("bin/busybox", fs.readFileSync(busybox), { mode: 0o755 }),
        file("bin/hello", hello, { mode: 0o755 }),
        ...["sh", "sleep", "cat", "echo"].map((name) => symlink(`bin/${name}`, "busybox")),
        ...["dev", "proc", "sys", "tmp", "etc", "root"].map((name) => directory(name)),
        file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        file("etc/group", "root:x:0:\n")
      ]
    ])
    put(path.join(kit, "bench/image.tar"), archiveOf(savedFiles(made, [image])))
  } finally {
    fs.rmSync(work, { recursive: true, force: true })
  }
}

/** Directory of the peer's package, installed once with an exact version. */
const installPeer = (scratch: string): string => {
  const installed = path.join(scratch, "node_modules", peer.package)
  const manifest = path.join(installed, "package.json")
  const version = fs.existsSync(manifest) ? JSON.parse(fs.readFileSync(manifest, "utf8")).version : undefined
  if (version !== peer.version) {
    fs.mkdirSync(scratch, { recursive: true })
    fs.writeFileSync(path.join(scratch, "package.json"), '{"private":true}\n')
    must(["npm", "install", "--no-audit", "--no-fund", "--save-exact", `${peer.package}@${peer.version}`], scratch)
  }
  return installed
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
  const of = (label: string, key: "first" | "exit" | "rssKb" | "cpu") =>
    summarize(good(label).map((timing) => timing[key]))
  const failed = timings.filter((timing) => timing.code !== 0)
  const all = Object.fromEntries(
    contestants.map((name) => [
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
        idlePssKb: memoryOf(out, name)
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
  const ratios = (over: string) => columns.map(([, pick]) => ratio(over, pick))
  console.log(
    `\n${table([
      ["medians, ms of instruction clock", ...columns.map(([title]) => title), "idle PSS, MiB"],
      ...contestants.map((name) => [
        name,
        ...columns.map(([, pick]) => cell(name, pick)),
        all[name]!.idlePssKb === undefined ? "-" : (all[name]!.idlePssKb / 1024).toFixed(0)
      ]),
      ["bunker / bare", ...ratios("bare"), "-"],
      ["bunker / microsandbox", ...ratios("microsandbox"), "-"]
    ])}\n`
  )
  if (failed.length > 0)
    console.log(`failed runs: ${failed.map((timing) => `${timing.label} (${timing.code})`).join(", ")}`)
  const log = path.join(out, "inside.log")
  if (timings.length === 0) throw new Error(`nothing was measured:\n${fs.readFileSync(log, "utf8").slice(-2000)}`)
  const written = writeResult("vm", {
    environment: {
      ...environment(),
      peer: `${peer.package}@${peer.version}`,
      clock: "instructions (--icount 0)",
      seconds
    },
    guest: { memoryMb: 512, vcpus: 1, image: "busybox and a static hello, one layer" },
    runs,
    execs,
    aims: { firstOutputOverBare: 1.05, firstOutputOverMicrosandbox: 0.7, execOverMicrosandbox: 0.5 },
    contestants: all,
    raw: timings
  })
  console.log(`wrote ${written}`)
}

/** Sum over all processes of an idle sandbox, in KiB. */
const memoryOf = (out: string, name: string): number | undefined => {
  const file = path.join(out, "memory.txt")
  if (!fs.existsSync(file)) return undefined
  const lines = fs
    .readFileSync(file, "utf8")
    .split("\n")
    .map((line) => line.split(" "))
    .filter(([label]) => label === name)
  return lines.length === 0 ? undefined : lines.reduce((sum, [, , pss]) => sum + Number(pss), 0)
}
