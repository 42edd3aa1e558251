/**
 * Looks after one VM: runs commands in it, stops it, knows how it ended. One process keeps a VM at a time: the CLI in the
 * foreground, or the keeper process of a detached sandbox. Booting is `keeperBoot.ts`, records are kept there, too.
 *
 * Invariant: a command belongs to the stream that started it; when the stream ends early, the command is killed.
 */

import { Clock, Deferred, Effect, Exit, Scope, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { ExecFailed } from "../../domain/errors/vm.ts"
import type { RunDefaults } from "../../domain/image/image.ts"
import {
  ExecEvent,
  type ExecRequest,
  exitCodeOf,
  type MainRequest,
  mainCommand,
  mergeEnv
} from "../../domain/sandbox/exec.ts"
import { mergeLimits } from "../../domain/sandbox/rlimits.ts"
import type { TerminationReason } from "../../domain/sandbox/sandbox.ts"
import { parseSignal, SIGTERM } from "../../domain/sandbox/signals.ts"
import { Termination } from "../../domain/sandbox/termination.ts"
import type { LogWriter } from "../../store/files/logs.ts"
import type { ExecHandle, ExecEvent as GuestEvent } from "../../vm/guest/GuestChannel.ts"
import { sampleStats } from "../sandboxes/stats.ts"
import { fileHandlers } from "./files.ts"
import { type MainCommand, mainExec } from "./mainCommand.ts"
import { KeeperProtocol } from "./protocol.ts"
import type { KeptVm } from "./runningVm.ts"

/** Made when it is needed: the first one of a class compiles its schema, and every process loads this module. */
const requested = (reason: TerminationReason, exitSignal: string | null = null) =>
  new Termination({ exitCode: null, exitSignal, reason, detail: null })
const drainRequested = () => requested("drain_requested")

export const commandEnded = (exitCode: number) =>
  new Termination({ exitCode, exitSignal: null, reason: exitCode === 0 ? "completed" : "failed", detail: null })

/** Time to write everything out after the main command, in milliseconds. */
const finishTimeoutMs = 10_000

/** Where a command starts: a directory that a person names must be there; one of the image's is made, as docker makes it. */
const directoryOf = (asked: string | undefined, image: string) =>
  asked === undefined ? { cwd: image.startsWith("/") ? image : `/${image}`, makeCwd: true } : { cwd: asked }

/** What an exec asks the guest for, after the defaults of sandbox and image. */
const resolveExec = (request: ExecRequest, vm: Pick<KeptVm, "config" | "image" | "network">) => ({
  argv: request.argv,
  env: mergeEnv(
    request.tty === null ? [] : ["TERM=xterm-256color"],
    vm.image.env,
    vm.network.env(),
    vm.config.env,
    request.env
  ),
  ...directoryOf(request.cwd ?? vm.config.workdir, vm.image.workingDir),
  user: request.user ?? vm.config.user ?? vm.image.user,
  tty: request.tty,
  stdin: request.stdin,
  rlimits: mergeLimits(vm.config.rlimits, request.rlimits),
  ...(request.timeoutMs === undefined ? {} : { timeoutMs: request.timeoutMs })
})

/** Name by which the guest keeps the main command. */
export const mainName = "main"

/** How long a main command waits, once 1 MiB of its output waits for the next keeper; then the oldest output goes. */
const holdMs = 30_000

/**
 * Runs the sandbox's main command for one owner: what its definition says, else what its image says. `detached`: it outlives this
 * process, where the guest's agent can keep it.
 */
export const runMain = (vm: KeptVm, main: MainCommand, how: MainRequest, detached = false) =>
  Stream.suspend(() => {
    const [program, ...rest] = mainCommand(vm.image, vm.config)
    if (program === "") {
      const detail = "the command of the image begins with an empty word; give another with --entrypoint, or a command"
      return Stream.fail(new ExecFailed({ reason: "failed", detail }))
    }
    if (program === undefined) {
      return Stream.fail(
        new ExecFailed({ reason: "failed", detail: "neither the sandbox nor its image names a command; give it one" })
      )
    }
    const request: ExecRequest = { argv: [program, ...rest], env: [], ...how }
    const spec = resolveExec(request, vm)
    if (!detached) return main.run(request, vm.channel.exec(spec))
    const kept = { ...spec, keep: { name: mainName, from: main.said(), holdMs } }
    const start = Effect.flatMap(vm.channel.keeps, (can) => vm.channel.exec(can ? kept : spec))
    return main.run(request, start)
  })

/** What keeps record of commands; the keeper's process has one of each for the VM's life. */
export interface Records {
  readonly main: MainCommand
  /** Log of every exec. */
  readonly execs: LogWriter
}
const ending = () =>
  new ExecFailed({
    reason: "failed",
    detail: "the sandbox is ending and takes no new commands; start it again when it has ended"
  })

const unknownSignal = ({ stopSignal }: RunDefaults): string =>
  `the image's stop signal "${stopSignal?.slice(0, 32)}" is none of Linux; its command got SIGTERM`

/** How often a draining sandbox looks whether its last command has ended. */
const drainLookMs = 50

/** Ends a VM in order within `timeoutMs`, then with SIGKILL; answers when it has ended and that is recorded. */
export const stopVm = Effect.fn("Keeper.stop")(function* (vm: KeptVm, end: Termination, timeoutMs: number) {
  const deadline = (yield* Clock.currentTimeMillis) + timeoutMs
  const asksFor = parseSignal(vm.image.stopSignal ?? "SIGTERM")
  if (asksFor === undefined) yield* Effect.logWarning(unknownSignal(vm.image))
  vm.expect(asksFor === undefined ? new Termination({ ...end, detail: end.detail ?? unknownSignal(vm.image) }) : end)
  yield* vm.markDraining(end)
  // As docker does: a paused guest runs on to end in order.
  yield* vm.pausing.thaw
  const asked = vm.channel.poweroff({
    signal: asksFor ?? SIGTERM,
    graceMs: Math.max(0, Math.round(timeoutMs * 0.7))
  })
  yield* asked.pipe(Effect.ignore, Effect.timeoutOption(timeoutMs))
  const left = Math.max(0, deadline - (yield* Clock.currentTimeMillis))
  const ended = yield* Effect.timeoutOption(Deferred.await(vm.ended), left)
  if (ended._tag === "Some") return ended.value
  vm.giveUp()
  yield* vm.kill
  return yield* Deferred.await(vm.ended)
})

/** The behaviour over a VM that is up. */
export const keeperBehaviour = (vm: KeptVm, { main, execs }: Records) =>
  Effect.sync(() => {
    const running = new Map<number, ExecHandle>()
    let sequence = execs.lastExec
    let refusing = false

    const find = (id: number): Effect.Effect<ExecHandle, ExecFailed> => {
      const handle = id === mainExec ? main.handle() : running.get(id)
      return handle === undefined
        ? Effect.fail(new ExecFailed({ reason: "failed", detail: `command ${id} has ended; run it again` }))
        : Effect.succeed(handle)
    }

    /** Whoever takes this stream uses the sandbox: the main command in the foreground, a file. */
    const counted = <A, E, R>(stream: Stream.Stream<A, E, R>): Stream.Stream<A, E, R> =>
      Stream.suspend(() => {
        vm.use.commands += 1
        return Stream.ensuring(
          stream,
          Effect.sync(() => void (vm.use.commands -= 1))
        )
      })

    const start = (request: ExecRequest) =>
      Stream.unwrap(
        Effect.gen(function* () {
          if (refusing) return yield* ending()
          const scope = yield* Scope.make()
          const id = (sequence += 1)
          yield* Effect.addFinalizer(() =>
            Effect.suspend(() => {
              if (running.delete(id)) vm.use.commands -= 1
              return Scope.close(scope, Exit.void)
            })
          )
          const handle = yield* vm.channel.exec(resolveExec(request, vm)).pipe(Scope.provide(scope))
          running.set(id, handle)
          yield* execs.write("start", request.argv[0], id)
          vm.use.commands += 1
          return Stream.concat(
            Stream.succeed(ExecEvent.cases.Started.make({ exec: id, pid: handle.pid })),
            handle.events.pipe(
              Stream.tap((event) => keepLog(execs, id, event)),
              Stream.map((event): ExecEvent => event as ExecEvent)
            )
          )
        })
      )

    /** A command that comes before everything has ended keeps the sandbox up no longer. */
    const drain = Effect.fn("Keeper.drain")(function* (timeoutMs: number) {
      refusing = true
      yield* vm.markDraining(drainRequested())
      const idle = Effect.sleep(drainLookMs).pipe(Effect.repeat({ while: () => vm.use.commands > 0 }))
      yield* Effect.raceFirst(idle, Deferred.await(vm.ended))
      return yield* stopVm(vm, drainRequested(), timeoutMs)
    })

    const finish = Effect.fn("Keeper.finish")(function* (exitCode: number) {
      vm.expect(commandEnded(exitCode))
      if (vm.ephemeral) yield* vm.kill
      else yield* stopVm(vm, commandEnded(exitCode), finishTimeoutMs)
      return yield* Deferred.await(vm.ended)
    })

    return KeeperProtocol.of({
      Exec: (request) => Rpc.fork(start(request)),
      RunMain: (how) => Rpc.fork(counted(runMain(vm, main, how))),
      Attach: () => Rpc.fork(main.watch),
      // Out of the mailbox: a command that reads nothing stalls only the sender of its own input.
      Input: ({ exec: id, data }) => Rpc.fork(Effect.flatMap(find(id), (handle) => handle.write(data))),
      CloseInput: ({ exec: id }) => Rpc.fork(Effect.flatMap(find(id), (handle) => handle.closeStdin)),
      Signal: ({ exec: id, signal }) => Effect.flatMap(find(id), (handle) => handle.signal(signal)),
      Resize: ({ exec: id, size }) => Effect.flatMap(find(id), (handle) => handle.resize(size.cols, size.rows)),
      Stop: ({ timeoutMs }) => {
        refusing = true
        return Rpc.fork(stopVm(vm, requested("shutdown_requested"), timeoutMs))
      },
      Drain: ({ timeoutMs }) => Rpc.fork(drain(timeoutMs)),
      Network: ({ config }) => Rpc.fork(vm.network.update(config)),
      Ports: ({ ports }) => Rpc.fork(vm.ports.set(ports)),
      Touch: () => Effect.sync(vm.activity),
      Pause: () => Rpc.fork(vm.pausing.pause),
      Unpause: () => Rpc.fork(vm.pausing.unpause),
      Kill: () =>
        Rpc.fork(
          Effect.suspend(() => {
            vm.expect(requested("signal", "SIGKILL"))
            vm.giveUp()
            return Effect.andThen(vm.kill, Deferred.await(vm.ended))
          })
        ),
      Finish: ({ exitCode }) => Rpc.fork(finish(exitCode)),
      Wait: () => Rpc.fork(Deferred.await(vm.ended)),
      Sample: () => Rpc.fork(sampleStats(vm.measured, running.size + (main.handle() === undefined ? 0 : 1))),
      ...fileHandlers(vm.channel, counted)
    })
  })

const keepLog = (log: LogWriter, exec: number, event: GuestEvent): Effect.Effect<void> =>
  event._tag === "Stdout"
    ? log.write("stdout", event.data, exec)
    : event._tag === "Stderr"
      ? log.write("stderr", event.data, exec)
      : Effect.andThen(log.write("exit", String(exitCodeOf(event)), exec), log.flush)
