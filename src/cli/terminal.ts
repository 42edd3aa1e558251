/**
 * Joins this process's stdin, stdout, stderr, terminal and signals to a command in a guest, and answers its exit code.
 * Restores the terminal however it ends.
 */
import { Deferred, Effect, Queue, type Scope, Stream } from "effect"
import { VmSupervisor } from "../actors/VmSupervisor.ts"
import { InvalidSpec } from "../domain/errors/vm.ts"
import type { ExecEvent, ExecRequest } from "../domain/exec.ts"
import { exitCodeOf } from "../domain/exec.ts"
import { outputFailure, writeAll } from "./output.ts"

export interface Attach {
  readonly name: string
  readonly argv: readonly [string, ...Array<string>]
  readonly env: ReadonlyArray<string>
  readonly cwd: string | undefined
  readonly user: string | undefined
  readonly interactive: boolean
  readonly tty: boolean
}

/** Bytes of one input message: what one frame to the guest holds. */
const inputBytes = 65_536

const SIGNALS = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1, SIGQUIT: 3, SIGUSR1: 10, SIGUSR2: 12 } as const

const windowSize = () => ({ cols: process.stdout.columns || 80, rows: process.stdout.rows || 24 })

/** Runs the command and answers its exit code; 128 + n for a signal. */
export const attach = Effect.fn("Cli.attach")(function* (options: Attach) {
  const vms = yield* VmSupervisor
  if (options.tty && !process.stdin.isTTY) {
    return yield* new InvalidSpec({
      field: "-t",
      reason: "stdin is not a terminal; leave -t away, -i alone passes a pipe"
    })
  }
  const request: ExecRequest = {
    argv: options.argv,
    env: options.env,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.user === undefined ? {} : { user: options.user }),
    tty: options.tty ? windowSize() : null,
    stdin: options.interactive
  }
  const started = yield* Deferred.make<number>()
  const { name } = options
  const tell = <E>(message: (exec: number) => Effect.Effect<unknown, E>) =>
    Effect.flatMap(Deferred.await(started), (exec) => Effect.ignore(message(exec)))

  if (options.tty) yield* rawMode
  if (options.interactive) {
    yield* Effect.forkScoped(
      Stream.runForEach(stdin, (data) => tell((exec) => vms.Input({ name, exec, data }))).pipe(
        Effect.andThen(tell((exec) => vms.CloseInput({ name, exec })))
      )
    )
  }
  const own = yield* Effect.context<never>()
  const run = Effect.runForkWith(own)
  if (options.tty) {
    yield* listen(process.stdout, "resize", () => run(tell((exec) => vms.Resize({ name, exec, size: windowSize() }))))
  }
  for (const [signal, number] of Object.entries(SIGNALS)) {
    yield* listen(process, signal, () => run(tell((exec) => vms.Signal({ name, exec, signal: number }))))
  }

  let code = 125
  /** A reader that has gone (`| head`) ends the command, as a pipe would. */
  const pass = (fd: 1 | 2, data: Uint8Array) =>
    Effect.map(writeAll(fd, data), (written) => {
      if (!written) code = outputFailure()?.code ?? 128 + 13
      return written
    })
  const handle = (event: ExecEvent): Effect.Effect<boolean> => {
    switch (event._tag) {
      case "Started":
        return Effect.as(Deferred.succeed(started, event.exec), true)
      case "Stdout":
        return pass(1, event.data)
      case "Stderr":
        return pass(2, event.data)
      default:
        return Effect.sync(() => {
          code = exitCodeOf(event)
          return true
        })
    }
  }
  yield* vms.Exec({ name, request }).pipe(
    Stream.mapEffect(handle),
    Stream.takeWhile((listening) => listening),
    Stream.runDrain
  )
  return code
}, Effect.scoped)

/** What is typed or piped, in pieces of one frame; stdin rests while the guest has enough to read. */
const stdin: Stream.Stream<Uint8Array> = Stream.callback<Uint8Array>(
  (queue) =>
    Effect.gen(function* () {
      const run = Effect.runForkWith(yield* Effect.context<never>())
      const onData = (chunk: Buffer) => {
        const pieces: Array<Uint8Array> = []
        for (let at = 0; at < chunk.length; at += inputBytes)
          pieces.push(new Uint8Array(chunk.subarray(at, at + inputBytes)))
        process.stdin.pause()
        run(
          Effect.andThen(
            Queue.offerAll(queue, pieces),
            Effect.sync(() => process.stdin.resume())
          )
        )
      }
      const onEnd = () => void run(Queue.end(queue))
      yield* listen(process.stdin, "data", onData)
      yield* listen(process.stdin, "end", onEnd)
      yield* listen(process.stdin, "error", onEnd)
      yield* Effect.addFinalizer(() => Effect.sync(() => process.stdin.pause()))
      process.stdin.resume()
      return yield* Effect.never
    }),
  { bufferSize: 8, strategy: "suspend" }
)

const rawMode: Effect.Effect<void, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => void process.stdin.setRawMode(true)),
  () => Effect.sync(() => void process.stdin.setRawMode(false))
)

const listen = (
  target: NodeJS.EventEmitter,
  event: string,
  handler: (chunk: Buffer) => void
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => void target.on(event, handler)),
    () => Effect.sync(() => void target.off(event, handler))
  )
