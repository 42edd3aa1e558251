/**
 * Finds out whether an engine boots a guest on this machine, by booting one: an init disk whose agent has to say hello.
 * A device file proves nothing: there are machines whose /dev/kvm opens and can not run a kernel. Chooses no engine.
 *
 * - A result holds for one boot of the machine, one kernel, one build of library and agent.
 * - A guest that answered, or that failed on its own, is remembered; one that ran out of time is asked again after a while,
 *   one that this machine's disks kept from starting at once.
 */

import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { Deferred, Effect, Option, Stream } from "effect"
import { isAhead } from "../../domain/elapsed.ts"
import { readTail } from "../../store/files/boundedFile.ts"
import { attemptFile } from "../../store/files/files.ts"
import { currentBootId } from "../../store/processes/processes.ts"
import { FrameDecoder, FrameType } from "../guest/frames.ts"
import type { VmExit } from "../runner/start.ts"
import { findLibkrun, findLibkrunfw } from "./bootCache.ts"
import { agentKey } from "./initDisk.ts"
import { fileKey } from "./kernelElf.ts"
import { publish } from "./publish.ts"
import type { Engine, EngineKind, EngineOptions, VmProcess } from "./types.ts"

/** What is known of an engine on this machine. */
export interface ProbeResult {
  readonly kind: EngineKind
  /** A guest booted. */
  readonly ok: boolean
  /** Why it can not be used; how long it took, when it can. */
  readonly reason: string
  /** From the start of the process to the agent's hello, or to the failure; 0 when nothing was started. */
  readonly milliseconds: number
  /** The result is from an earlier probe. */
  readonly cached: boolean
}

const TIMEOUT_MS = { krun: 30_000, qemu: 120_000 } as const
/** How long a probe that ran out of time is believed, in milliseconds. */
const TIMEOUT_BELIEVED_MS = 10 * 60_000
/** Results that are remembered of one engine. */
const RESULTS_MAX = 16
const MEMORY_MB = 128
const CONSOLE_BYTES = 4096

/** Answers from the cache, or boots a guest: up to a second with KVM, some with emulation. Never fails. */
export const probe = Effect.fn("Engines.probe")(function* (
  engine: Engine,
  options: EngineOptions
): Effect.fn.Return<ProbeResult> {
  const { kind } = engine
  const refused = yield* Effect.flip(engine.available).pipe(Effect.option)
  if (Option.isSome(refused)) return { kind, ok: false, reason: refused.value.message, milliseconds: 0, cached: false }
  const key = yield* cacheKey(kind, options)
  // A file for each: builds that take turns in one home know their own.
  const file = path.join(options.bootCacheDir, `probe-${kind}-${key.slice(0, 16)}.json`)
  const known = readCache(file, key)
  if (known !== undefined) return { kind, ...known, cached: true }

  const started = performance.now()
  const attempt = bootOnce(engine)
  let outcome = yield* attempt
  if (outcome.again) outcome = yield* attempt
  const milliseconds = Math.round(performance.now() - started)
  const result = {
    ok: outcome.problem === undefined,
    reason: outcome.problem ?? `a guest booted in ${milliseconds} ms`,
    milliseconds
  }
  if (outcome.believed === "never") return { kind, ...result, cached: false }
  const until = outcome.believed === "always" ? undefined : Date.now() + TIMEOUT_BELIEVED_MS
  yield* Effect.sync(() => {
    try {
      publish(file, JSON.stringify({ key, until, ...result }))
      forgetOldest(options.bootCacheDir, kind)
    } catch {
      // An unwritable cache costs the next run a probe; whatever made it so is reported when something has to be kept.
    }
  })
  return { kind, ...result, cached: false }
})

/** Keeps the newest results of an engine: each build that ever ran here would leave one. */
const forgetOldest = (directory: string, kind: EngineKind): void => {
  const files = fs
    .readdirSync(directory)
    .filter((name) => name.startsWith(`probe-${kind}-`) && name.endsWith(".json"))
    .map((name) => path.join(directory, name))
    .map((file) => ({ file, at: fs.statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0 }))
    .toSorted((a, b) => b.at - a.at)
  for (const { file } of files.slice(RESULTS_MAX)) fs.rmSync(file, { force: true })
}

/** Everything that decides whether a guest boots; a new value makes the old result void. */
const cacheKey = (kind: EngineKind, options: EngineOptions): Effect.Effect<string> =>
  Effect.gen(function* () {
    const libraries =
      kind === "krun" ? [yield* findLibkrun(options), yield* findLibkrunfw(options)] : [yield* findLibkrunfw(options)]
    const agent = agentKey(options.agentPath)
    const text = [kind, currentBootId(), os.release(), ...libraries.map(fileKey), options.qemu ?? "", agent].join("\n")
    return new Bun.CryptoHasher("sha256").update(text).digest("hex")
  }).pipe(Effect.orDie)

type Known = Pick<ProbeResult, "ok" | "reason" | "milliseconds">

const readCache = (file: string, key: string): Known | undefined => {
  try {
    const of = JSON.parse(fs.readFileSync(file, "utf8")) as Record<string, unknown>
    if (
      of["key"] !== key ||
      (typeof of["until"] === "number" && !isAhead(of["until"], TIMEOUT_BELIEVED_MS, Date.now()))
    )
      return undefined
    if (typeof of["ok"] !== "boolean" || typeof of["reason"] !== "string" || typeof of["milliseconds"] !== "number")
      return undefined
    return { ok: of["ok"], reason: of["reason"], milliseconds: of["milliseconds"] }
  } catch {
    return undefined
  }
}

interface Outcome {
  /** What went wrong, or undefined. */
  readonly problem: string | undefined
  /** Whether it is remembered. A full disk says nothing of the machine. */
  readonly believed: "always" | "for a while" | "never"
  /** The failure is one that a second attempt often does not see. */
  readonly again: boolean
}

const fine: Outcome = { problem: undefined, believed: "always", again: false }

const bootOnce = (engine: Engine): Effect.Effect<Outcome> =>
  Effect.acquireUseRelease(
    attemptFile("make directory", os.tmpdir(), () => fs.mkdtempSync(path.join(os.tmpdir(), "bunker-probe-"))),
    (runDir) =>
      Effect.gen(function* () {
        const consolePath = path.join(runDir, "console")
        const vm = yield* engine.spawn({
          cpus: 1,
          memoryMb: MEMORY_MB,
          disks: [],
          runDir,
          consolePath,
          lockPath: path.join(runDir, "lock"),
          dieWithParent: true
        })
        const decided = yield* Deferred.make<Outcome>()
        // Whoever is late is interrupted, and not waited for: a transport may be in the middle of a connect.
        const fibers = [
          yield* Effect.forkDetach(Effect.flatMap(hello(vm), () => Deferred.succeed(decided, fine))),
          yield* Effect.forkDetach(
            Effect.flatMap(vm.exited, (exit) => Deferred.succeed(decided, endedEarly(exit, consolePath)))
          )
        ]
        const answer = yield* Deferred.await(decided).pipe(Effect.timeoutOption(TIMEOUT_MS[engine.kind]))
        for (const fiber of fibers) fiber.interruptUnsafe()
        yield* vm.kill
        return Option.getOrElse(answer, () => silent(engine.kind, consolePath))
      }).pipe(Effect.scoped),
    (runDir) => Effect.sync(() => fs.rmSync(runDir, { recursive: true, force: true }))
  ).pipe(
    Effect.catch((failure) =>
      Effect.succeed<Outcome>({
        problem: failure.message,
        believed: ["StoreFailed", "DiskFull", "HomeUnusable"].includes(failure._tag) ? "never" : "always",
        again: false
      })
    )
  )

/** Waits for the agent's first frame. A connection that breaks is no answer: the agent calls again. */
const hello = (vm: VmProcess): Effect.Effect<void> =>
  Effect.gen(function* () {
    const connection = yield* vm.transport.control
    const decoder = new FrameDecoder()
    let heard = false
    yield* connection.incoming.pipe(
      Stream.takeUntil((bytes) => {
        decoder.push(bytes, (frame) => {
          heard ||= frame.type === FrameType.Hello
        })
        return heard
      }),
      Stream.runDrain
    )
    if (!heard) return yield* Effect.never
  }).pipe(
    Effect.scoped,
    Effect.catch(() => Effect.never)
  )

const endedEarly = (exit: VmExit, consolePath: string): Outcome => {
  const how = exit.signal ?? `exit code ${exit.code}`
  const refused = exit.report?.event === "error"
  const said = lastLines(consolePath) || exit.output.trim()
  return {
    problem: `the VM ended (${how}) before its agent answered${said === "" ? "" : `: ${said}`}`,
    believed: "always",
    // libkrun gives up on one start in some hundreds, and a guest that lost its interrupts ends with 0.
    again: refused || exit.code === 0
  }
}

const silent = (kind: EngineKind, consolePath: string): Outcome => {
  const said = lastLines(consolePath)
  const problem = `the guest did not answer within ${TIMEOUT_MS[kind] / 1000} s${said === "" ? "" : `; it said last: ${said}`}`
  return { problem, believed: "for a while", again: false }
}

/** What libkrun's log puts before its words: time, level, module. */
const logPrefix = /^\[\S+ +[A-Z]+ +\S+\] */

/** The last line of the console, as printable text. */
const lastLines = (consolePath: string): string =>
  (readTail(consolePath, CONSOLE_BYTES).trim().split("\n").at(-1) ?? "")
    .replace(/[^\x20-\x7e]/g, "")
    .replace(logPrefix, "")
    .slice(0, 200)
