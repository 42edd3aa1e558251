/**
 * The client of the guest agent that everything else uses: boot, exec, power off, clock, numbers. One channel per control
 * connection; it does not reconnect: connect again on the same transport.
 */
import { Clock, Deferred, Effect, Exit, Scope, type Stream } from "effect"
import { ExecFailed, GuestChannelFailed } from "../domain/errors/vm.ts"
import { type Answer, type GuestControl, openControl } from "./guestControl.ts"
import { type ExecEvent, openExecConnection } from "./guestExec.ts"
import { decodeGuestBooted, decodeGuestStarted, decodeGuestStats, type GuestStats } from "./guestMessages.ts"
import type { GuestTransport } from "./transport.ts"

export type { ExecEvent } from "./guestExec.ts"

/** What the agent mounts and writes before the sandbox runs; the clock is set by the channel. */
export interface BootRequest {
  readonly root: { readonly device: string; readonly type: "erofs" }
  readonly upper: { readonly kind: "tmpfs" } | { readonly kind: "ext4"; readonly device: string }
  /** At most 64 bytes. */
  readonly hostname: string
  /** Text of /etc/hosts; absent: the image's own. */
  readonly hosts?: string
  /** Text of /etc/resolv.conf; absent: the image's own. */
  readonly resolv?: string
  /** In the order given. */
  readonly mounts?: ReadonlyArray<GuestMount>
}

/** Something that the agent mounts in the sandbox's root; a missing target is made. */
export type GuestMount =
  | { readonly target: string; readonly share: string; readonly read_only: boolean }
  /** A tmpfs of at most so many MiB, absent: half of the memory. */
  | { readonly target: string; readonly size_mb?: number }

/** What the boot request did. */
export interface BootReport {
  /** Microseconds per phase: `mount_us`. */
  readonly phases: Readonly<Record<string, number>>
  /** The guest was booted before. */
  readonly already: boolean
}

/** A command in the guest. */
export interface ExecSpec {
  readonly argv: ReadonlyArray<string>
  /** `K=V`; the agent adds PATH and HOME, and TERM for a terminal, where they are missing. */
  readonly env: ReadonlyArray<string>
  /** Absolute path; "" is "/". */
  readonly cwd: string
  /** "", "name", "uid", "name:group" or "uid:gid"; "" is user 0. */
  readonly user: string
  readonly tty: { readonly cols: number; readonly rows: number } | null
  /** False: standard input is /dev/null. */
  readonly stdin: boolean
}

/** A started command. Closing its scope before its end kills its process group and session. */
export interface ExecHandle {
  /** Process id in the guest. */
  readonly pid: number
  /** Output in order per stream, then one Exit or Signaled. Run it once; what is not read holds the process back. */
  readonly events: Stream.Stream<ExecEvent, GuestChannelFailed>
  /** Waits for the ACK window; input that the process no longer takes is dropped. Read events meanwhile. */
  readonly write: (data: Uint8Array) => Effect.Effect<void, GuestChannelFailed>
  /** End of file after everything written; Ctrl-D for a terminal. */
  readonly closeStdin: Effect.Effect<void, GuestChannelFailed>
  /** Sends a signal number to the process group. */
  readonly signal: (signal: number) => Effect.Effect<void, GuestChannelFailed>
  readonly resize: (cols: number, rows: number) => Effect.Effect<void, GuestChannelFailed>
}

/** Everything that can be asked of a guest. No operation has a deadline of its own: put `Effect.timeout` on it. */
export interface GuestChannel {
  /** What the agent said of itself: version, whether it is booted, its uptime. */
  readonly hello: GuestControl["hello"]
  readonly boot: (request: BootRequest) => Effect.Effect<BootReport, GuestChannelFailed>
  readonly exec: (spec: ExecSpec) => Effect.Effect<ExecHandle, ExecFailed | GuestChannelFailed, Scope.Scope>
  /** Ends all processes, writes out, and lets the machine reboot. Completes when the data is safe. */
  readonly poweroff: (options: {
    readonly signal: number
    readonly graceMs: number
  }) => Effect.Effect<void, GuestChannelFailed>
  readonly ping: Effect.Effect<void, GuestChannelFailed>
  readonly stats: Effect.Effect<GuestStats, GuestChannelFailed>
  /** Sets the guest's clock to the host's. */
  readonly syncClock: Effect.Effect<void, GuestChannelFailed>
  /** Writes the guest's dirty pages to its disks. */
  readonly sync: Effect.Effect<void, GuestChannelFailed>
  /** Completes when the control connection has ended. */
  readonly closed: Effect.Effect<void>
}

/** Arguments and variables of one exec; the agent's JSON reader is bounded. */
const stringsMax = 16_000

const execReasons = ["not_found", "not_executable", "bad_cwd", "bad_user", "limit"] as const

const refused = (op: string, answer: Answer) =>
  new GuestChannelFailed({
    reason: `the agent refused ${op}: ${answer.response.message ?? answer.response.error ?? "it gave no reason"}`
  })

const execRefused = (answer: Answer) =>
  new ExecFailed({
    reason: execReasons.find((reason) => reason === answer.response.error) ?? "failed",
    detail: answer.response.message ?? "the agent gave no reason"
  })

const malformed = (op: string) => new GuestChannelFailed({ reason: `the answer to ${op} is malformed` })

const unixNs = Effect.map(Clock.currentTimeMillis, (ms) => `${BigInt(Math.trunc(ms)) * 1_000_000n}`)

/** Numbers can not be guessed: any process in the guest can connect and claim to be an exec. */
const execNumber = (): number => crypto.getRandomValues(new Uint32Array(1))[0]!

/** Completes on the agent's HELLO: the guest is ready. */
export const connectGuest = Effect.fn("GuestChannel.connect")(function* (
  transport: GuestTransport
): Effect.fn.Return<GuestChannel, GuestChannelFailed, Scope.Scope> {
  const control = yield* openControl(transport)

  const ask = Effect.fnUntraced(function* (op: string, fields: Readonly<Record<string, unknown>>) {
    const answer = yield* control.request(op, fields)
    if (!answer.response.ok) return yield* refused(op, answer)
    return answer.value
  })

  const boot = Effect.fn("GuestChannel.boot")(function* (request: BootRequest) {
    const { root, upper, hostname, hosts, resolv, mounts } = request
    const value = yield* ask("boot", { root, upper, hostname, hosts, resolv, mounts, unix_ns: yield* unixNs })
    const booted = decodeGuestBooted(value)
    if (booted === undefined) return yield* malformed("boot")
    return { phases: booted.phases, already: booted.already ?? false }
  })

  const start = Effect.fn("GuestChannel.exec")(function* (
    spec: ExecSpec
  ): Effect.fn.Return<ExecHandle, ExecFailed | GuestChannelFailed, Scope.Scope> {
    const { argv, env, cwd, user, tty, stdin } = spec
    if (argv.length + env.length > stringsMax) {
      return yield* new ExecFailed({ reason: "limit", detail: `more than ${stringsMax} arguments and variables` })
    }
    const number = execNumber()
    const place = yield* transport.exec(number)
    const fields = { exec: number, slot: place.slot, argv, env, cwd: cwd || "/", user, tty, stdin }
    const started = yield* Deferred.make<Answer, ExecFailed | GuestChannelFailed>()
    yield* control.request("exec", fields).pipe(
      Effect.filterOrFail((answer) => answer.response.ok, execRefused),
      Deferred.into(started),
      Effect.forkScoped
    )
    // The answer comes after the connection; when it comes first it is a refusal.
    const opening = Effect.flatMap(place.connection, (connection) => openExecConnection(connection, number))
    const connection = yield* Effect.raceFirst(opening, Effect.andThen(Deferred.await(started), Effect.never))
    const pid = decodeGuestStarted((yield* Deferred.await(started)).value)?.pid
    if (pid === undefined) return yield* malformed("exec")
    return {
      pid,
      ...connection,
      signal: (signal) => Effect.asVoid(ask("signal", { exec: number, signal, group: true })),
      resize: (cols, rows) => Effect.asVoid(ask("resize", { exec: number, cols, rows }))
    }
  })

  // What did not start gives its place back at once, however long the caller's scope lives.
  const exec = Effect.fnUntraced(function* (spec: ExecSpec) {
    const scope = yield* Scope.fork(yield* Effect.scope)
    return yield* start(spec).pipe(
      Scope.provide(scope),
      Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
    )
  })

  const poweroff = Effect.fn("GuestChannel.poweroff")(function* (options: {
    readonly signal: number
    readonly graceMs: number
  }) {
    yield* ask("poweroff", { signal: options.signal, grace_ms: options.graceMs })
    // The agent waits for this before it pulls the plug, so that its answer is never lost.
    yield* control.sayClose
  })

  const stats = Effect.gen(function* () {
    const found = decodeGuestStats(yield* ask("stats", {}))
    return found ?? (yield* malformed("stats"))
  })

  return {
    hello: control.hello,
    boot,
    exec,
    poweroff,
    ping: Effect.asVoid(ask("ping", {})),
    stats: stats.pipe(Effect.withSpan("GuestChannel.stats")),
    syncClock: Effect.flatMap(unixNs, (unix_ns) => Effect.asVoid(ask("time", { unix_ns }))),
    sync: Effect.asVoid(ask("sync", {})),
    closed: control.closed
  }
})
