/**
 * The client of the guest agent that everything else uses: boot, exec, power off, clock, numbers. One channel per control
 * connection; it does not reconnect: connect again on the same transport.
 */
import { Clock, Deferred, Effect, Exit, Scope, Stream } from "effect"
import type { FileFailed, FileNotFound, PortRefused } from "../../domain/errors/guestIo.ts"
import { ExecFailed, GuestChannelFailed, ReattachRefused } from "../../domain/errors/vm.ts"
import { type Answer, type GuestControl, isHangUp, openControl } from "./control.ts"
import { type DialedConnection, dialGuest } from "./dial.ts"
import { type ExecEvent, type Fate, type Opened, type OpenStream, openExecConnection } from "./exec.ts"
import { type FileConnection, type FileOperation, openFile } from "./files.ts"
import { jsonPayload } from "./frames.ts"
import { decodeGuestBooted, decodeGuestStarted, decodeGuestStats, type GuestStats } from "./messages.ts"
import type { GuestTransport } from "./transport.ts"

export type { ExecEvent } from "./exec.ts"

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
  /** Addresses and routes of the network card; absent: it stays down. */
  readonly net?: Readonly<Record<string, string | number>>
  /** In the order given. */
  readonly mounts?: ReadonlyArray<GuestMount>
  /** When the agent ends the machine by itself, in milliseconds: from the boot; without a host and without a command. */
  readonly limits?: { readonly max_ms?: number; readonly idle_ms?: number }
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
  /** A directory that is missing is made, root's and with mode 0755. */
  readonly makeCwd?: boolean
  /** "", "name", "uid", "name:group" or "uid:gid"; "" is user 0. */
  readonly user: string
  readonly tty: { readonly cols: number; readonly rows: number } | null
  /** False: standard input is /dev/null. */
  readonly stdin: boolean
  /** Limits of setrlimit(2): name, soft and hard value, -1 for none; absent: none. */
  readonly rlimits?: ReadonlyArray<readonly [name: string, soft: number, hard: number]>
  /** Milliseconds until its process group is killed, absent for no end. */
  readonly timeoutMs?: number
  /** The command goes on when this process of the host ends, for the next one to take over; absent: it ends, too. */
  readonly keep?: KeepSpec
}

/** How a command is kept; at most 4 are at once. */
export interface KeepSpec {
  /** At most 64 bytes; one command at a time has it. */
  readonly name: string
  /** Offset of its first byte of output. */
  readonly from: number
  /** How long output that nobody takes holds the command up before the oldest goes, in milliseconds. */
  readonly holdMs: number
}

/** A command that the agent keeps: it goes on when the scope ends, until its end is confirmed. */
export interface KeptCommand {
  /** Offset of the first byte of its output that comes; both streams count together. */
  readonly from: number
  /** Offset after the last byte that it had said when this connection began. */
  readonly said: number
  /** So many bytes more of its output will never be asked for again. The agent keeps the rest, and lets it wait above 1 MiB. */
  readonly confirm: (bytes: number) => void
  /** Its end is written down: the agent may forget what it said. */
  readonly confirmEnd: () => void
}

/** A started command. Closing its scope before its end kills its process group and session, unless it is kept. */
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
  readonly kept?: KeptCommand
}

/** Everything that can be asked of a guest. No operation has a deadline of its own: put `Effect.timeout` on it. */
export interface GuestRequests {
  readonly boot: (request: BootRequest) => Effect.Effect<BootReport, GuestChannelFailed>
  readonly exec: (spec: ExecSpec) => Effect.Effect<ExecHandle, ExecFailed | GuestChannelFailed, Scope.Scope>
  /** The agent can keep commands. */
  readonly keeps: Effect.Effect<boolean, GuestChannelFailed>
  /**
   * Takes over a kept command whose connection broke, or takes it from who has it: what it said from the offset on (absent: from the
   * oldest byte that is there), then what it says, and its end, though it ended before.
   */
  readonly reattach: (
    name: string,
    from?: number
  ) => Effect.Effect<ExecHandle & { readonly kept: KeptCommand }, ReattachRefused | GuestChannelFailed, Scope.Scope>
  /** Starts an operation on files. Closing its scope before its end stops it. */
  readonly file: (
    operation: FileOperation
  ) => Effect.Effect<FileConnection, FileFailed | FileNotFound | GuestChannelFailed, Scope.Scope>
  /** Connects to a TCP port of the guest's loopback. */
  readonly dial: (port: number) => Effect.Effect<DialedConnection, PortRefused | GuestChannelFailed, Scope.Scope>
  /** Ends all processes, writes out, and lets the machine reboot. Completes when the data is safe. */
  readonly poweroff: (options: {
    readonly signal: number
    readonly graceMs: number
  }) => Effect.Effect<void, GuestChannelFailed>
  /** Connections to ports that are worth opening at once; the rest of the places is for commands and files. */
  readonly streamsMax: number
  readonly ping: Effect.Effect<void, GuestChannelFailed>
  readonly stats: Effect.Effect<GuestStats, GuestChannelFailed>
  /** Sets the guest's clock to the host's. */
  readonly syncClock: Effect.Effect<void, GuestChannelFailed>
  /** Writes the guest's dirty pages to its disks. */
  readonly sync: Effect.Effect<void, GuestChannelFailed>
}

/** A guest that has said hello. */
export interface GuestChannel extends GuestRequests {
  /** What the agent said of itself: version, whether it is booted, its uptime. */
  readonly hello: GuestControl["hello"]
  /** Completes when the control connection has ended. */
  readonly closed: Effect.Effect<void>
}

/** Of the places of a transport, those for connections to ports. */
export const streamsMaxOf = ({ slots }: GuestTransport): number =>
  slots === undefined ? Number.POSITIVE_INFINITY : Math.max(1, slots - Math.min(slotsKept, Math.ceil(slots / 2)))

/** Longest time that the agent gives the guest's processes to end, in milliseconds; it refuses more. */
const graceMsMax = 3_600_000

/** Arguments and variables of one exec; the agent's JSON reader is bounded. */
const stringsMax = 16_000

/** Slots of a transport that has few, at most half of them, which connections to ports leave to commands and files. */
const slotsKept = 8

/** True when a request with these fields does not fit into a frame; room for the rest of it is left. */
const isTooLong = (fields: { readonly argv: ReadonlyArray<string>; readonly env: ReadonlyArray<string> }): boolean =>
  [...fields.argv, ...fields.env].reduce((sum, text) => sum + text.length, 0) > 32_768 &&
  jsonPayload({ ...fields, room: " ".repeat(1024) }) === undefined

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

const reattachReasons = ["not_found", "bad_offset"] as const

const reattachRefused = (answer: Answer) =>
  new ReattachRefused({
    reason: reattachReasons.find((reason) => reason === answer.response.error) ?? "failed",
    detail: answer.response.message ?? "the agent gave no reason"
  })

const malformed = (op: string) => new GuestChannelFailed({ reason: `the answer to ${op} is malformed` })

const unixNs = Effect.map(Clock.currentTimeMillis, (ms) => `${BigInt(Math.trunc(ms)) * 1_000_000n}`)

/** Numbers can not be guessed: any process in the guest can connect and claim to be an exec. */
const execNumber = (): number => crypto.getRandomValues(new Uint32Array(1))[0]!

/** Times that a guest may hang up before it was greeted, and milliseconds for it to call again. */
const hungUpMax = 5
const callAgainMs = 10_000

/**
 * The control connection. A guest whose HELLO was not answered for a second hangs up and calls again (native/guest/README.md): a host
 * that was too busy takes the next call.
 */
const greetGuest = (transport: GuestTransport, again = 0): ReturnType<typeof openControl> =>
  openControl(transport).pipe((opening) =>
    transport.persistent === true || again === hungUpMax
      ? opening
      : Effect.catchIf(opening, isHangUp, (error) =>
          greetGuest(transport, again + 1).pipe(
            Effect.timeoutOrElse({ duration: callAgainMs, orElse: () => Effect.fail(error) })
          )
        )
  )

/** Completes on the agent's HELLO: the guest is ready. */
export const connectGuest = Effect.fn("GuestChannel.connect")(function* (
  transport: GuestTransport
): Effect.fn.Return<GuestChannel, GuestChannelFailed, Scope.Scope> {
  const control = yield* greetGuest(transport)

  const ask = Effect.fnUntraced(function* (op: string, fields: Readonly<Record<string, unknown>>) {
    const answer = yield* control.request(op, fields)
    if (!answer.response.ok) return yield* refused(op, answer)
    return answer.value
  })

  const boot = Effect.fn("GuestChannel.boot")(function* (request: BootRequest) {
    const { root, upper, hostname, hosts, resolv, net, mounts, limits } = request
    const fields = { root, upper, hostname, hosts, resolv, net, mounts, limits }
    const value = yield* ask("boot", { ...fields, unix_ns: yield* unixNs })
    const booted = decodeGuestBooted(value)
    if (booted === undefined) return yield* malformed("boot")
    return { phases: booted.phases, already: booted.already ?? false }
  })

  const connect = Effect.fnUntraced(function* <E>(
    op: string,
    fields: Readonly<Record<string, unknown>> & { readonly timeout_ms?: number | undefined },
    refusal: (answer: Answer) => E,
    fate?: Fate
  ): Effect.fn.Return<Opened, E | GuestChannelFailed, Scope.Scope> {
    const number = execNumber()
    const { timeout_ms } = fields
    const asked = performance.now()
    const place = yield* transport.exec(number, timeout_ms)
    // What it waited for a place is a part of its time.
    const rest = timeout_ms && Math.max(1, Math.round(timeout_ms - (performance.now() - asked)))
    const answered = yield* Deferred.make<Answer, E | GuestChannelFailed>()
    yield* control.request(op, { exec: number, slot: place.slot, ...fields, timeout_ms: rest }).pipe(
      Effect.filterOrFail((answer) => answer.response.ok, refusal),
      Deferred.into(answered),
      Effect.forkScoped
    )
    // The answer comes after the connection; when it comes first it is a refusal.
    const opening = Effect.flatMap(place.connection, (connection) => openExecConnection(connection, number, fate))
    const connection = yield* Effect.raceFirst(opening, Effect.andThen(Deferred.await(answered), Effect.never))
    const { value } = yield* Deferred.await(answered)
    return { number, value, ...connection }
  })

  // What did not start gives its place back at once, however long the caller's scope lives.
  const open: OpenStream = Effect.fnUntraced(function* (op, fields, refusal, fate) {
    const scope = yield* Scope.fork(yield* Effect.scope)
    return yield* connect(op, fields, refusal, fate).pipe(
      Scope.provide(scope),
      Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
    )
  })

  const exec = Effect.fn("GuestChannel.exec")(function* (
    spec: ExecSpec
  ): Effect.fn.Return<ExecHandle, ExecFailed | GuestChannelFailed, Scope.Scope> {
    const { argv, env, cwd, makeCwd, user, tty, stdin, rlimits, timeoutMs, keep } = spec
    if (argv.length + env.length > stringsMax) {
      return yield* new ExecFailed({ reason: "limit", detail: `more than ${stringsMax} arguments and variables` })
    }
    // The guest would say only that a field is wrong; an image may name such a directory.
    if (cwd !== undefined && cwd !== "" && !cwd.startsWith("/")) {
      return yield* new ExecFailed({ reason: "bad_cwd", detail: cwd })
    }
    const fields = { argv, env, cwd: cwd || "/", make_cwd: makeCwd, user, tty, stdin, rlimits, timeout_ms: timeoutMs }
    if (isTooLong(fields)) {
      return yield* new ExecFailed({
        reason: "limit",
        detail: "its arguments and variables take more than 256 KiB; a file in the guest can hold them"
      })
    }
    const fate: Fate = { kept: keep !== undefined }
    const refuse = (answer: Answer) => {
      // Nothing is left of it.
      fate.kept = false
      return execRefused(answer)
    }
    const kept = keep && { keep: { name: keep.name, from: keep.from, hold_ms: keep.holdMs } }
    const opened = yield* open("exec", { ...fields, ...kept }, refuse, fate)
    const handle = handleOf(opened)
    if (handle === undefined) return yield* malformed("exec")
    if (keep === undefined) return handle
    const own = keptOf(opened, keep.from)
    return own?.from === keep.from ? { ...handle, kept: own } : yield* malformed("exec")
  })

  const handleOf = (opened: Opened): ExecHandle | undefined => {
    const { number, value, events, write, closeStdin } = opened
    const pid = decodeGuestStarted(value)?.pid
    if (pid === undefined) return undefined
    return {
      pid,
      events: Stream.filter(events, (event): event is ExecEvent => event._tag !== "Eof"),
      write,
      closeStdin,
      signal: (signal) => Effect.asVoid(ask("signal", { exec: number, signal, group: true })),
      resize: (cols, rows) => Effect.asVoid(ask("resize", { exec: number, cols, rows }))
    }
  }

  /** Undefined for a place that can not be: before what was asked for, or after all that was said. */
  const keptOf = ({ hello, confirm, confirmEnd }: Opened, asked: number): KeptCommand | undefined => {
    const from = hello.from ?? asked
    const said = hello.said ?? from
    return from < asked || said < from ? undefined : { from, said, confirm, confirmEnd }
  }

  const keeps = control.hello.features?.includes("keep") === true

  const reattach = Effect.fn("GuestChannel.reattach")(function* (name: string, from?: number) {
    if (!keeps) return yield* new ReattachRefused({ reason: "unsupported", detail: "its agent keeps no commands" })
    const fate: Fate = { kept: true }
    const opened = yield* open("reattach", { name, from }, reattachRefused, fate)
    const [handle, kept] = [handleOf(opened), keptOf(opened, from ?? 0)]
    if (handle === undefined || kept === undefined) return yield* malformed("reattach")
    return { ...handle, kept }
  })

  const poweroff = Effect.fn("GuestChannel.poweroff")(function* (options: {
    readonly signal: number
    readonly graceMs: number
  }) {
    yield* ask("poweroff", { signal: options.signal, grace_ms: Math.min(options.graceMs, graceMsMax) })
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
    keeps: Effect.succeed(keeps),
    reattach,
    file: (operation) => openFile(open, operation),
    dial: (port) => dialGuest(open, port),
    poweroff,
    streamsMax: streamsMaxOf(transport),
    ping: Effect.asVoid(ask("ping", {})),
    stats: stats.pipe(Effect.withSpan("GuestChannel.stats")),
    syncClock: Effect.flatMap(unixNs, (unix_ns) => Effect.asVoid(ask("time", { unix_ns }))),
    sync: Effect.asVoid(ask("sync", {})),
    closed: control.closed
  }
})
