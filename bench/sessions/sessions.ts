/**
 * Measures what sessions cost: commits of ten nodes, paths of a thousand and a hundred thousand, the collection of a million blobs of
 * which a tenth is live, commits beside automatic collections, lists of many sessions. The limit beside them is the same work written
 * directly over bun:sqlite, in the same run.
 */

import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { Effect } from "effect"
import type { SessionOptions } from "../../src/actors/sessions/protocol.ts"
import { SessionStore } from "../../src/actors/sessions/SessionStore.ts"
import { type SessionNode, sessionStem } from "../../src/domain/session/session.ts"
import { idOf, sessionsAt } from "../../test/support/sessions.ts"
import { environment as machine, writeResult } from "../support/results.ts"
import { table } from "../support/statistics.ts"
import { bareCollect, bareCommit, barePath, fillBlobs, makeBare, openBare, type Synchronous } from "./bare.ts"

const scale = Number(process.env["BENCH_SCALE"] ?? 1)
const totalNodes = Math.round(100_000 * scale)
const perCommit = 10
const totalBlobs = Math.round(1_000_000 * scale)
const rounds = 3
const s = { sessionId: "s" }
const fileName = `${sessionStem(idOf("s"))}.db`

const nodeAt = (index: number): SessionNode => ({
  nodeId: `node-${index.toString(36).padStart(8, "0")}-${(index * 2_654_435_761) % 4_294_967_296}`,
  parentNodeId: index === 0 ? null : nodeAt.last,
  node: {
    role: index % 10 === 0 ? "user" : "assistant",
    content: [
      {
        type: "text",
        text: `What was said at ${index}, in a sentence or two as they are usual between people and agents.`
      }
    ],
    usage: { input: index, output: 17 }
  }
})
nodeAt.last = ""

const turns = (): ReadonlyArray<ReadonlyArray<SessionNode>> => {
  const all: Array<ReadonlyArray<SessionNode>> = []
  for (let at = 0; at < totalNodes; at += perCommit) {
    all.push(
      Array.from({ length: perCommit }, (_, offset) => {
        const node = nodeAt(at + offset)
        nodeAt.last = node.nodeId
        return node
      })
    )
  }
  return all
}
const given = turns()
const last = given.at(-1)!.at(-1)!.nodeId
const thousandth = given.flat()[Math.min(999, totalNodes - 1)]!.nodeId

interface Latency {
  readonly totalMs: number
  readonly p50Us: number
  readonly p99Us: number
}
const latency = (times: ReadonlyArray<number>): Latency => {
  const sorted = times.toSorted((a, b) => a - b)
  const at = (share: number) =>
    Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]! * 1000)
  return { totalMs: Math.round(times.reduce((sum, each) => sum + each, 0)), p50Us: at(0.5), p99Us: at(0.99) }
}

const inStore = <A, E>(home: string, options: SessionOptions, body: Effect.Effect<A, E, SessionStore>): Promise<A> =>
  Effect.runPromise(body.pipe(Effect.provide(sessionsAt(home, options))))

type Turns = ReadonlyArray<ReadonlyArray<SessionNode>>
/** Waiting for the disk takes most of a durable commit: fewer of them say as much. */
const durableTurns = given.slice(0, Math.ceil(given.length / 20))

const commitTimes = (home: string, options: SessionOptions, some: Turns): Promise<Latency> =>
  inStore(
    home,
    options,
    Effect.gen(function* () {
      const store = yield* SessionStore
      yield* store.Create(s)
      const times: Array<number> = []
      for (const [index, nodes] of some.entries()) {
        const began = performance.now()
        yield* store.Commit({ ...s, turnId: `turn-${index}`, expectedRevision: index, nodes })
        times.push(performance.now() - began)
      }
      return latency(times)
    })
  )

const bareCommitTimes = (file: string, synchronous: Synchronous, some: Turns): Latency => {
  const sqlite = makeBare(file, synchronous)
  const commit = bareCommit(sqlite)
  const times: Array<number> = []
  for (const [index, nodes] of some.entries()) {
    const began = performance.now()
    commit(`turn-${index}`, index, nodes)
    times.push(performance.now() - began)
  }
  sqlite.close()
  return latency(times)
}

const pathMs = (home: string, leaf: string): Promise<number> =>
  inStore(
    home,
    {},
    Effect.gen(function* () {
      const store = yield* SessionStore
      yield* store.Get(s)
      const began = performance.now()
      yield* store.Graph({ ...s, leaf })
      return performance.now() - began
    })
  )

const barePathMs = (file: string, leaf: string): number => {
  const sqlite = openBare(file, "NORMAL")
  sqlite.query("SELECT count(*) FROM session_meta").get()
  const began = performance.now()
  barePath(sqlite, leaf)
  const took = performance.now() - began
  sqlite.close()
  return took
}

/** What a process of its own found: how long, how much, and its greatest memory. */
interface Collected {
  readonly ms: number
  readonly deleted: number
  readonly peakMb: number
  readonly baseMb: number
}
const rssMb = () =>
  Math.round(Number(/VmRSS:\s+(\d+) kB/.exec(fs.readFileSync("/proc/self/status", "utf8"))![1]) / 1024)
/** Forgets the peak so far, that of loading this program: clear_refs of proc(5). */
const forgetPeak = () => fs.writeFileSync("/proc/self/clear_refs", "5")
const peakMb = () =>
  Math.round(Number(/VmHWM:\s+(\d+) kB/.exec(fs.readFileSync("/proc/self/status", "utf8"))![1]) / 1024)

const collectHere = async (home: string): Promise<Collected> => {
  return inStore(
    home,
    { gracePeriodMs: 0 },
    Effect.gen(function* () {
      const store = yield* SessionStore
      yield* store.Graph({ ...s, active: true })
      forgetPeak()
      const baseMb = rssMb()
      const began = performance.now()
      const { deletedBlobCount } = yield* store.Gc(s)
      return { ms: performance.now() - began, deleted: deletedBlobCount, baseMb, peakMb: peakMb() }
    })
  )
}
const collectBare = (file: string): Collected => {
  const sqlite = openBare(file, "NORMAL")
  forgetPeak()
  const baseMb = rssMb()
  const began = performance.now()
  const deleted = bareCollect(sqlite)
  const ms = performance.now() - began
  sqlite.close()
  return { ms, deleted, baseMb, peakMb: peakMb() }
}

const child = async (what: "--collect" | "--collect-bare", place: string): Promise<Collected> => {
  const running = Bun.spawn([process.execPath, import.meta.path, what, place], { stdout: "pipe", stderr: "inherit" })
  return JSON.parse(await new Response(running.stdout).text()) as Collected
}

/** A home whose session "s" is a copy of `template`. */
const homeWith = (directory: string, template: string): string => {
  const home = fs.mkdtempSync(path.join(directory, "home-"))
  fs.mkdirSync(path.join(home, "sessions"))
  fs.copyFileSync(template, path.join(home, "sessions", fileName))
  return home
}

/** Commits of one node each in a session of a thousand live blobs, an orphan put before every one. */
const besideCollections = (home: string, every: number): Promise<Latency> =>
  inStore(
    home,
    { autoRunEveryCommits: every, gracePeriodMs: 0 },
    Effect.gen(function* () {
      const store = yield* SessionStore
      yield* store.Create(s)
      const artifacts: Array<{ artifactRef: string; blobRef: string; kind: string }> = []
      for (let index = 0; index < 1000; index += 1) {
        const { hash } = yield* store.PutBlob({ ...s, kind: "module", content: Buffer.from(`live ${index}`) })
        artifacts.push({ artifactRef: `a${index}`, blobRef: hash, kind: "module" })
      }
      yield* store.Commit({ ...s, turnId: "first", expectedRevision: 0, artifacts })
      const times: Array<number> = []
      for (let index = 1; index <= Math.round(2000 * scale); index += 1) {
        yield* store.PutBlob({ ...s, kind: "module", content: Buffer.from(`orphan ${index}`) })
        const began = performance.now()
        yield* store.Commit({
          ...s,
          turnId: `t${index}`,
          expectedRevision: index,
          nodes: [{ nodeId: `n${index}`, parentNodeId: null, node: {} }]
        })
        times.push(performance.now() - began)
      }
      return latency(times)
    })
  )

/** Milliseconds to list 100 of many sessions. */
const listMs = (home: string, count: number): Promise<number> =>
  inStore(
    home,
    {},
    Effect.gen(function* () {
      const store = yield* SessionStore
      yield* store.Create({ sessionId: "s0" })
      const directory = path.join(home, "sessions")
      const template = path.join(directory, `${sessionStem(idOf("s0"))}.db`)
      yield* store.List({})
      // All but the id is the same: what is measured is finding, opening, reading and closing.
      for (let index = 1; index < count; index += 1) {
        fs.copyFileSync(template, path.join(directory, `${sessionStem(idOf(`s${index}`))}.db`))
      }
      const began = performance.now()
      yield* store.List({ limit: 100 })
      return performance.now() - began
    })
  )

const median = (values: ReadonlyArray<number>): number => values.toSorted((a, b) => a - b)[values.length >> 1]!
const ratio = (ours: ReadonlyArray<number>, limit: ReadonlyArray<number>): string =>
  `${(median(ours) / median(limit)).toFixed(2)} x`

const commitRows = async (directory: string, durability: "process" | "power_loss") => {
  const synchronous = durability === "process" ? "NORMAL" : "FULL"
  const some = durability === "process" ? given : durableTurns
  const ours: Array<Latency> = []
  const bare: Array<Latency> = []
  let home = ""
  let file = ""
  for (let round = 0; round < rounds; round += 1) {
    home = fs.mkdtempSync(path.join(directory, "commits-"))
    file = path.join(home, "bare.db")
    // In turn, so that a busy machine slows both.
    if (round % 2 === 0) bare.push(bareCommitTimes(file, synchronous, some))
    ours.push(await commitTimes(home, { durability }, some))
    if (round % 2 === 1) bare.push(bareCommitTimes(file, synchronous, some))
  }
  const row = (what: string, of: (each: Latency) => number) => [
    `${what} (${durability})`,
    String(median(ours.map(of))),
    String(median(bare.map(of))),
    ratio(ours.map(of), bare.map(of))
  ]
  const rows = [
    row(`${some.length * perCommit} nodes in commits of ${perCommit}, ms`, (each) => each.totalMs),
    row("commit p50, µs", (each) => each.p50Us),
    row("commit p99, µs", (each) => each.p99Us)
  ]
  return { rows, raw: { ours, bare }, home, file }
}

export const benchSessions = async (): Promise<void> => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "bench-sessions-"))
  try {
    const quick = await commitRows(directory, "process")
    const safe = await commitRows(directory, "power_loss")
    const rows: Array<ReadonlyArray<string>> = [...quick.rows, ...safe.rows]
    const raw: Record<string, unknown> = { commits: quick.raw, durableCommits: safe.raw }
    for (const [name, leaf] of [
      ["1,000", thousandth],
      [`${totalNodes}`, last]
    ] as const) {
      const ours: Array<number> = []
      const bare: Array<number> = []
      for (let round = 0; round < rounds; round += 1) {
        ours.push(await pathMs(quick.home, leaf))
        bare.push(barePathMs(quick.file, leaf))
      }
      rows.push([`path of ${name}, ms`, median(ours).toFixed(1), median(bare).toFixed(1), ratio(ours, bare)])
      raw[`path${name}`] = { ours, bare }
    }
    const template = path.join(directory, "template.db")
    fillBlobs(template, totalBlobs)
    const ours: Array<Collected> = []
    const bare: Array<Collected> = []
    for (let round = 0; round < rounds; round += 1) {
      const home = homeWith(directory, template)
      ours.push(await child("--collect", home))
      fs.rmSync(home, { recursive: true })
      const copy = path.join(directory, "bare.db")
      fs.copyFileSync(template, copy)
      bare.push(await child("--collect-bare", copy))
      for (const end of ["", "-wal", "-shm"]) fs.rmSync(`${copy}${end}`, { force: true })
    }
    const ms = (each: Collected) => each.ms
    const { deleted } = ours[0]!
    rows.push([
      `collection of ${totalBlobs} blobs, ${deleted} deleted, ms`,
      median(ours.map(ms)).toFixed(0),
      median(bare.map(ms)).toFixed(0),
      ratio(ours.map(ms), bare.map(ms))
    ])
    rows.push([
      "  seconds per million deleted",
      ((median(ours.map(ms)) / deleted) * 1000).toFixed(2),
      ((median(bare.map(ms)) / deleted) * 1000).toFixed(2),
      ""
    ])
    const grown = (each: Collected) => each.peakMb - each.baseMb
    rows.push([
      "  memory above that of the idle process, MiB",
      String(median(ours.map(grown))),
      String(median(bare.map(grown))),
      ""
    ])
    raw["collections"] = { ours, bare }
    for (const every of [0, 100, 10, 1]) {
      const measured = await besideCollections(fs.mkdtempSync(path.join(directory, "auto-")), every)
      const name = every === 0 ? "no automatic collection" : `collection after every ${every}`
      rows.push([`commit p50 / p99, µs, 1,000 live blobs, ${name}`, `${measured.p50Us} / ${measured.p99Us}`, "", ""])
      raw[`auto${every}`] = measured
    }
    for (const count of [100, Math.round(10_000 * scale)]) {
      const measured = await listMs(fs.mkdtempSync(path.join(directory, "list-")), count)
      rows.push([`list 100 of ${count} sessions, ms`, measured.toFixed(1), "", ""])
      raw[`list${count}`] = measured
    }
    console.log(table([["", "bunker", "bare", "ratio"], ...rows]))
    console.log(writeResult("sessions", { environment: machine(), totalNodes, perCommit, totalBlobs, rounds, raw }))
  } finally {
    fs.rmSync(directory, { recursive: true, force: true })
  }
}

const [flag, place] = process.argv.slice(2)
if (import.meta.main && place !== undefined) {
  if (flag === "--collect") process.stdout.write(JSON.stringify(await collectHere(place)))
  if (flag === "--collect-bare") process.stdout.write(JSON.stringify(collectBare(place)))
} else if (import.meta.main) {
  await benchSessions()
}
