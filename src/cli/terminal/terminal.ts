/**
 * Joins this process's stdin, stdout, stderr, terminal and signals to a command in a guest, and answers its exit code.
 * Restores the terminal however it ends.
 */
import { Deferred, Effect, Queue, type Scope, Stream } from "effect"
import { VmSupervisor } from "../../actors/sandboxes/VmSupervisor.ts"
import { InvalidSpec } from "../../domain/errors/vm.ts"
import { type ExecEvent, exitCodeOf, type TerminalSize } from "../../domain/sandbox/exec.ts"
import { OwnTerminal } from "../../store/processes/ownTerminal.ts"
import { isIgnored } from "./endingSignals.ts"
import { lastBytes, outputFailure, processedByTerminal, writeAll } from "./output.ts"
import { DetachKeys, TerminalModes } from "./terminalModes.ts"

export interface Attachment<E> {
  readonly name: string
  readonly interactive: boolean
  readonly tty: boolean
  /** Starts or finds the command, given the size of our terminal. */
  readonly events: (tty: TerminalSize | null) => Stream.Stream<ExecEvent, E>
  /** True where the command is another's: Ctrl-P Ctrl-Q leaves it alone, and our end of input is not its. */
  readonly shared?: boolean
}

/** Bytes of one piece of input: what one frame to the guest holds; and pieces that wait, which make one message. */
const inputBytes = 65_536
const inputPiecesMax = 8

/** Signals that a command gets in our place. */
const passed = { SIGUSR1: 10, SIGUSR2: 12 } as const
/**
 * Those as well for a command without a terminal. With one they end us: what is meant for the command is typed, and shells do not
 * heed SIGTERM.
 */
const ending = { SIGHUP: 1, SIGINT: 2, SIGQUIT: 3, SIGTERM: 15 } as const

/** Turns of 10 ms in which a terminal is waited for that was asked something (its cursor's place) and has not answered. */
const answerTurns = 25
const escape = 0x1b

const windowSize = () => ({ cols: process.stdout.columns || 80, rows: process.stdout.rows || 24 })

/** Says which of our flags can not be met here. */
export const checkTerminal = (tty: boolean): Effect.Effect<void, InvalidSpec> =>
  tty && !process.stdin.isTTY
    ? Effect.fail(
        new InvalidSpec({
          field: "-t",
          reason: "stdin is not a terminal; leave -t away, -i alone passes a pipe"
        })
      )
    : Effect.void

/** Joins us to the command until it ends and answers its exit code, 128 + n for a signal; undefined when we left it. */
export const attach = Effect.fn("Cli.attach")(function* <E>(options: Attachment<E>) {
  const vms = yield* VmSupervisor
  yield* checkTerminal(options.tty)
  const started = yield* Deferred.make<number>()
  const { name } = options
  const tell = <E>(message: (exec: number) => Effect.Effect<unknown, E>) =>
    Effect.flatMap(Deferred.await(started), (exec) => Effect.ignore(message(exec)))

  /** With our exit code, or undefined when we are to leave the command alone. */
  const left = yield* Deferred.make<number | undefined>()
  const modes = new TerminalModes()
  let over = false
  if (options.tty) yield* rawMode(modes)
  if (options.interactive) {
    const keys = options.shared === true && options.tty ? new DetachKeys() : undefined
    const send = (data: Uint8Array) => {
      modes.typed(data)
      // What a person types now is not for the command any more.
      if (over && data[0] !== escape) return Effect.void
      const typed = keys?.push(data) ?? { data, detached: false }
      const sent = typed.data.length === 0 ? Effect.void : tell((exec) => vms.Input({ name, exec, data: typed.data }))
      return typed.detached ? Effect.andThen(sent, Deferred.succeed(left, undefined)) : sent
    }
    const end = options.shared === true ? Effect.void : tell((exec) => vms.CloseInput({ name, exec }))
    // All that came while the last message was under way goes with the next.
    const sendAll = (pieces: ReadonlyArray<Uint8Array>) =>
      send(pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces))
    yield* Effect.forkScoped(Stream.runForEachArray(stdin, sendAll).pipe(Effect.andThen(end)))
  }
  const own = yield* Effect.context<never>()
  const run = Effect.runForkWith(own)
  if (options.tty) {
    yield* listen(process.stdout, "resize", () => run(tell((exec) => vms.Resize({ name, exec, size: windowSize() }))))
  }
  for (const [signal, number] of Object.entries(options.tty ? passed : { ...passed, ...ending })) {
    if (isIgnored(number)) continue
    yield* listen(process, signal, () => run(tell((exec) => vms.Signal({ name, exec, signal: number }))))
  }
  for (const [signal, number] of Object.entries(options.tty ? ending : {})) {
    yield* listen(process, signal, () => Deferred.doneUnsafe(left, Effect.succeed(128 + number)))
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
        // What was resized before we came, or while it started.
        if (options.tty) run(Effect.ignore(vms.Resize({ name, exec: event.exec, size: windowSize() })))
        return Effect.as(Deferred.succeed(started, event.exec), true)
      case "Stdout":
        if (options.tty) modes.watch(event.data)
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
  const whole = options.events(options.tty ? windowSize() : null).pipe(
    Stream.mapEffect(handle),
    Stream.takeWhile((listening) => listening),
    Stream.runDrain,
    Effect.map((): number | undefined => code)
  )
  const end = yield* Effect.raceFirst(whole, Deferred.await(left))
  over = true
  // The shell that reads the terminal after us would take the answer for typed.
  for (let turn = 0; options.interactive && modes.awaitsAnswer && turn < answerTurns; turn += 1) {
    yield* Effect.sleep("10 millis")
  }
  return end
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
        // Synchronously while there is room: to pause and resume costs more than to carry the bytes.
        while (pieces.length > 0 && Queue.sizeUnsafe(queue) < inputPiecesMax) Queue.offerUnsafe(queue, pieces.shift()!)
        if (pieces.length === 0) return
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
  { bufferSize: inputPiecesMax, strategy: "suspend" }
)

/** Raw until the scope closes, or the process stops or ends; then the terminal is as it was, whatever the guest did to it. */
const rawMode = (modes: TerminalModes): Effect.Effect<void, never, Scope.Scope> => {
  const terminal = new OwnTerminal()
  const begin = () => {
    terminal.makeRaw()
    processedByTerminal(false)
  }
  const restore = () => {
    const undo = modes.undo()
    if (undo !== "" && process.stdout.isTTY) lastBytes(undo)
    processedByTerminal(true)
    terminal.putBack()
  }
  const stop = () => {
    restore()
    process.kill(process.pid, "SIGSTOP")
  }
  const raw = Effect.acquireRelease(
    Effect.sync(() => {
      begin()
      process.once("exit", restore)
    }),
    () =>
      Effect.sync(() => {
        process.off("exit", restore)
        restore()
      })
  )
  return raw.pipe(Effect.andThen(listen(process, "SIGTSTP", stop)), Effect.andThen(listen(process, "SIGCONT", begin)))
}

const listen = (
  target: NodeJS.EventEmitter,
  event: string,
  handler: (chunk: Buffer) => void
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => void target.on(event, handler)),
    () => Effect.sync(() => void target.off(event, handler))
  )
