/**
 * Runs the main command of a sandbox: once per boot, for one owner, before any number of watchers. Writes what it says to the
 * sandbox's log. Ends no VM: whoever owns the command decides that. A command that the guest keeps can be taken over: its output is
 * confirmed to the guest once it is in the log, and the log's newest offset tells the next process of the host where to go on.
 *
 * Invariants: the owner's pace is the command's (back pressure); a watcher holds it up at most `stallMs`, then misses output
 * until it has caught up, and is told how much; the log never holds it up for long (store/files/logs.ts); of a command that is kept every
 * byte is in the log once, or counted as dropped.
 */
import { type Cause, Deferred, Effect, Exit, Option, Queue, Scope, Stream } from "effect"
import { ExecFailed, type GuestChannelFailed, type ReattachRefused } from "../../domain/errors/vm.ts"
import { type ExecEvent, ExecEvent as ExecEvents, type ExecRequest, exitCodeOf } from "../../domain/sandbox/exec.ts"
import type { LogWriter } from "../../store/files/logs.ts"
import type { ExecHandle, ExecEvent as GuestEvent, KeptCommand } from "../../vm/guest/GuestChannel.ts"

/** Bytes of output that wait for one watcher. */
const watcherBytesMax = 1024 * 1024
/** Longest time for which a watcher that does not read holds up the command, in milliseconds. */
const stallMs = 1000

type Failed = ExecFailed | GuestChannelFailed
type TakeOverFailed = ReattachRefused | GuestChannelFailed

export interface MainCommand {
  /** Starts it; when the stream ends early, the command is killed. A second run while one is there is refused. */
  readonly run: (
    request: ExecRequest,
    start: Effect.Effect<ExecHandle, Failed, Scope.Scope>
  ) => Stream.Stream<ExecEvent, Failed>
  /** Goes on with one that the guest kept, after what the log holds; leaving the stream leaves it running. */
  readonly resume: (
    start: (from: number) => Effect.Effect<ExecHandle & { readonly kept: KeptCommand }, TakeOverFailed, Scope.Scope>
  ) => Stream.Stream<ExecEvent, TakeOverFailed>
  /** How much was ever said by commands that were kept: where the next one goes on counting. */
  readonly said: () => number
  /** Waits until what came is in the log. */
  readonly flush: Effect.Effect<void>
  /** What it says from now on, and how it ends; leaving the stream leaves the command alone. */
  readonly watch: Stream.Stream<ExecEvent, Failed>
  /** The process while it runs: for input, signals and size. */
  readonly handle: () => ExecHandle | undefined
}

/** Number of the main command among the execs. */
export const mainExec = 0

type State =
  | { readonly _tag: "Idle" }
  | { readonly _tag: "Running"; readonly handle: ExecHandle }
  | { readonly _tag: "Ended"; readonly event: ExecEvent }

const refused = (detail: string) => new ExecFailed({ reason: "failed", detail })

export const makeMainCommand = (log: LogWriter): MainCommand => {
  let state: State = { _tag: "Idle" }
  const watchers = new Set<Watcher>()
  /** Offset after the last byte that came; undefined while no command is kept. */
  let kept: KeptCommand | undefined
  let said = log.lastPlace?.offset ?? 0
  /** Where the log has its end, from an earlier process of the host. */
  let endAt: number | undefined

  const publish = (event: GuestEvent): Effect.Effect<void> =>
    Effect.forEach(watchers, (watcher) => watcher.offer(event as ExecEvent), { discard: true })

  const write = (stream: "stdout" | "stderr", data: Uint8Array) => {
    const confirm = kept?.confirm
    if (confirm === undefined) return log.write(stream, data)
    said += data.length
    return log.write(stream, data, mainExec, { offset: said, settled: () => confirm(data.length) })
  }

  const keep = (event: GuestEvent): Effect.Effect<void> => {
    switch (event._tag) {
      case "Stdout":
        return Effect.andThen(write("stdout", event.data), publish(event))
      case "Stderr":
        return Effect.andThen(write("stderr", event.data), publish(event))
      default:
        return Effect.gen(function* () {
          state = { _tag: "Ended", event: event as ExecEvent }
          const place = kept === undefined ? undefined : { offset: said }
          if (kept === undefined || endAt !== said) yield* log.write("exit", String(exitCodeOf(event)), mainExec, place)
          // Who hears of the end finds all of it in the log.
          yield* log.flush
          kept?.confirmEnd()
          yield* publish(event)
          yield* endAll(undefined)
        })
    }
  }

  const endAll = (error: Failed | undefined) =>
    Effect.forEach(watchers, (watcher) => watcher.end(error), { discard: true })

  const own = <E extends Failed | TakeOverFailed>(
    start: Effect.Effect<ExecHandle, E, Scope.Scope>,
    begin: (handle: ExecHandle) => Effect.Effect<void>
  ): Stream.Stream<ExecEvent, E | Failed> =>
    Stream.unwrap(
      Effect.gen(function* () {
        if (state._tag === "Running")
          return yield* refused("the main command runs already; follow it with 'bunker attach'")
        const scope = yield* Scope.make()
        yield* Effect.addFinalizer(() =>
          Effect.gen(function* () {
            if (state._tag === "Running") state = { _tag: "Idle" }
            yield* Scope.close(scope, Exit.void)
            yield* endAll(refused("the main command was given up by its owner; see 'bunker logs'"))
          })
        )
        const handle = yield* Scope.provide(start, scope)
        state = { _tag: "Running", handle }
        kept = handle.kept
        yield* begin(handle)
        return Stream.concat(
          Stream.succeed(ExecEvents.cases.Started.make({ exec: mainExec, pid: handle.pid })),
          handle.events.pipe(
            Stream.tap(keep),
            Stream.map((event): ExecEvent => event as ExecEvent),
            Stream.tapError((error) => endAll(error))
          )
        )
      })
    )

  const run: MainCommand["run"] = (request, start) => {
    const told = Effect.tapError(start, (error) => Effect.andThen(log.write("stderr", `${error.message}\n`), log.flush))
    endAt = undefined
    return own(told, (handle) => {
      if (handle.kept !== undefined) said = handle.kept.from
      return log.write("start", request.argv[0], mainExec, handle.kept && { offset: said })
    })
  }

  const resume: MainCommand["resume"] = (start) =>
    Stream.unwrap(
      Effect.sync(() => {
        const from = log.lastPlace?.offset ?? 0
        endAt = log.lastPlace?.stream === "exit" ? from : undefined
        return own(start(from), (handle) => {
          const lost = handle.kept === undefined ? 0 : handle.kept.from - from
          said = handle.kept?.from ?? 0
          return lost > 0 ? log.write("dropped", String(lost), mainExec, { offset: said }) : Effect.void
        })
      })
    ).pipe(Stream.catchTag("ExecFailed", (error) => Stream.die(error)))

  const watch = Stream.unwrap(
    Effect.gen(function* () {
      if (state._tag === "Idle") {
        return yield* refused("it has no main command; run one with 'bunker exec', or open a shell with 'bunker shell'")
      }
      if (state._tag === "Ended") return Stream.succeed(state.event)
      const started = ExecEvents.cases.Started.make({ exec: mainExec, pid: state.handle.pid })
      const watcher = new Watcher()
      watchers.add(watcher)
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          watchers.delete(watcher)
          watcher.leave()
        })
      )
      return Stream.concat(Stream.succeed<ExecEvent>(started), watcher.events)
    })
  )

  return {
    run,
    resume,
    said: () => said,
    flush: log.flush,
    watch,
    handle: () => (state._tag === "Running" ? state.handle : undefined)
  }
}

const sizeOf = (event: ExecEvent): number => ("data" in event ? event.data.length : 0)

/** One reader beside the owner. */
class Watcher {
  private readonly queue = Effect.runSync(Queue.unbounded<ExecEvent, Failed | Cause.Done>())
  private unread = 0
  private missed = 0
  private gone = false
  private room: Deferred.Deferred<void> | undefined

  readonly events = Stream.fromQueue(this.queue).pipe(Stream.tap((event) => Effect.sync(() => this.taken(event))))

  /** Waits for a slow reader once; after that the reader misses what comes until it has read half of what waits. */
  offer(event: ExecEvent): Effect.Effect<void> {
    const size = sizeOf(event)
    return Effect.suspend(() => {
      if (this.gone) return Effect.void
      if (size === 0 || (this.missed === 0 && this.unread + size <= watcherBytesMax)) return this.add(event)
      if (this.missed > 0) {
        if (this.unread > watcherBytesMax / 2) return Effect.sync(() => void (this.missed += size))
        return Effect.andThen(this.sayMissed, this.add(event))
      }
      const room = Deferred.makeUnsafe<void>()
      this.room = room
      return Deferred.await(room).pipe(
        Effect.timeoutOption(stallMs),
        Effect.flatMap((made) =>
          Option.isSome(made) ? this.offer(event) : Effect.sync(() => void (this.missed += size))
        )
      )
    })
  }

  end(error: Failed | undefined): Effect.Effect<void> {
    return Effect.asVoid(error === undefined ? Queue.end(this.queue) : Queue.fail(this.queue, error))
  }

  leave(): void {
    this.gone = true
    this.wake()
  }

  private add(event: ExecEvent): Effect.Effect<void> {
    this.unread += sizeOf(event)
    return Effect.asVoid(Queue.offer(this.queue, event))
  }

  private get sayMissed(): Effect.Effect<void> {
    const data = new TextEncoder().encode(`\r\n[bunker: ${this.missed} bytes were not shown]\r\n`)
    this.missed = 0
    return this.add(ExecEvents.cases.Stderr.make({ data }))
  }

  private taken(event: ExecEvent): void {
    this.unread -= sizeOf(event)
    if (this.unread <= watcherBytesMax / 2) this.wake()
  }

  private wake(): void {
    if (this.room !== undefined) Deferred.doneUnsafe(this.room, Effect.void)
    this.room = undefined
  }
}
