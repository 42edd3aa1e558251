/**
 * Owns the main command of a detached sandbox, in the keeper's process: starts it with the terminal and the stdin that the
 * sandbox is defined with, or takes over the one that an earlier keeper started, and ends the VM with it when the sandbox is
 * defined so.
 */

import { Deferred, Effect, Schedule, type Scope, Stream } from "effect"
import { type ExecFailed, GuestChannelFailed } from "../../domain/errors/vm.ts"
import { type ExecEvent, exitCodeOf, mainCommand } from "../../domain/sandbox/exec.ts"
import type { SandboxConfig, SandboxInfo } from "../../domain/sandbox/sandbox.ts"
import { Termination } from "../../domain/sandbox/termination.ts"
import { AgentTimeoutMs } from "./agentWatch.ts"
import { commandEnded, mainName, runMain, stopVm } from "./Keeper.ts"
import type { MainCommand } from "./mainCommand.ts"
import type { KeptVm } from "./runningVm.ts"

/** Size of its terminal until somebody attaches with one. */
const firstSize = { cols: 80, rows: 24 }

/** Time for the guest to write everything out, in milliseconds. */
const poweroffMs = 10_000

/** Longest wait for what a command said while nobody took it, in milliseconds. */
const catchUpMs = 5000

/** A slot of an emulated machine may still carry what was meant for the keeper that is gone. */
const again = Schedule.spaced("200 millis").pipe(Schedule.upTo({ times: 10 }))

const failedEnd = (exitCode: number | null, detail: string) =>
  new Termination({ exitCode, exitSignal: null, reason: "failed", detail })

/**
 * The end of a command whose connection broke. Nobody will hear of it again, so the VM ends with it; where the guest does not answer
 * either, there is none: the VM is gone, or about to be.
 */
const lostEnd = Effect.fnUntraced(function* (vm: KeptVm, error: { readonly message: string }) {
  yield* Effect.logWarning(error.message)
  const end = failedEnd(null, `its command is lost: ${error.message}`)
  return yield* Effect.orElseSucceed(Effect.as(vm.channel.ping, end), () => undefined)
})

/** Runs what owns the command in the scope until its end, and the VM's when it ends with it. Answers when it runs, or can not. */
const own = Effect.fnUntraced(function* (
  vm: KeptVm,
  main: MainCommand,
  config: SandboxConfig,
  command: (seen: (event: ExecEvent) => Effect.Effect<void>) => Effect.Effect<Termination | undefined>
): Effect.fn.Return<void, never, Scope.Scope> {
  const running = yield* Deferred.make<void>()
  const caughtUp = yield* Deferred.make<void>()
  let end: Termination | undefined
  const seen = (event: ExecEvent) => {
    Deferred.doneUnsafe(running, Effect.void)
    if (event._tag === "Exit" || event._tag === "Signaled") end = commandEnded(exitCodeOf(event))
    const behind = main.said() < (main.handle()?.kept?.said ?? 0)
    if (behind || Deferred.isDoneUnsafe(caughtUp)) return Effect.void
    return Effect.andThen(main.flush, Deferred.succeed(caughtUp, undefined))
  }
  const whole = Effect.gen(function* () {
    const failed = yield* command(seen)
    yield* Deferred.succeed(running, undefined)
    yield* Deferred.succeed(caughtUp, undefined)
    const reason = end ?? failed
    if (reason === undefined || !config.endsWithCommand) return
    vm.expect(reason)
    yield* stopVm(vm, reason, poweroffMs)
  })
  yield* Effect.forkScoped(whole)
  yield* Deferred.await(running)
  yield* Effect.timeoutOption(Deferred.await(caughtUp), catchUpMs)
})

/** Starts it. A sandbox without a command simply stays up. */
export const keepMain = Effect.fn("Keeper.main")(function* (vm: KeptVm, main: MainCommand, config: SandboxConfig) {
  if (mainCommand(vm.image, config).length === 0) return
  const how = { tty: config.tty === true ? firstSize : null, stdin: config.openStdin === true }
  yield* own(vm, main, config, (seen) =>
    runMain(vm, main, how, true).pipe(
      Stream.runForEach(seen),
      Effect.as(undefined),
      Effect.catchTags({
        ExecFailed: (error: ExecFailed) => Effect.succeed(failedEnd(error.exitCode, error.message)),
        GuestChannelFailed: (error: GuestChannelFailed) => lostEnd(vm, error)
      })
    )
  )
})

/** Takes over the one that an earlier keeper started; starts it when that keeper had no time to. */
export const resumeMain = Effect.fn("Keeper.resumeMain")(function* (vm: KeptVm, main: MainCommand, info: SandboxInfo) {
  const { config } = info
  if (mainCommand(vm.image, config).length === 0) return
  const answerMs = yield* AgentTimeoutMs
  let unstarted = false
  const reattach = (from: number) => {
    const oldest = vm.channel.reattach(mainName)
    return vm.channel.reattach(mainName, from).pipe(
      Effect.catchIf(
        (error) => error._tag === "ReattachRefused" && error.reason === "bad_offset",
        (error) => Effect.andThen(Effect.logWarning(error.message), oldest)
      ),
      Effect.retry({ schedule: again, while: (error) => error._tag === "GuestChannelFailed" }),
      // An agent that answers everything else, and never this.
      Effect.timeoutOrElse({
        duration: answerMs,
        orElse: () => Effect.fail(new GuestChannelFailed({ reason: "the guest does not hand the command over" }))
      })
    )
  }
  yield* own(vm, main, config, (seen) =>
    main.resume(reattach).pipe(
      Stream.runForEach(seen),
      Effect.as(undefined),
      Effect.catch((error) => {
        unstarted = error._tag === "ReattachRefused" && error.reason === "not_found"
        return unstarted ? Effect.succeed(undefined) : lostEnd(vm, error)
      })
    )
  )
  if (unstarted && info.status !== "draining") yield* keepMain(vm, main, config)
})
