/**
 * Owns the main command of a detached sandbox, in the keeper's process: starts it with the terminal and the stdin that the
 * sandbox is defined with, and ends the VM with it when the sandbox is defined so.
 */
import { Deferred, Effect, Stream } from "effect"
import type { ExecFailed, GuestChannelFailed } from "../domain/errors/vm.ts"
import { exitCodeOf, mainCommand } from "../domain/exec.ts"
import type { SandboxConfig } from "../domain/sandbox.ts"
import { commandEnded, type KeptVm, RunEnd, runMain, stopVm } from "./Keeper.ts"
import type { MainCommand } from "./mainCommand.ts"

/** Size of its terminal until somebody attaches with one. */
const firstSize = { cols: 80, rows: 24 }

/** Time for the guest to write everything out, in milliseconds. */
const poweroffMs = 10_000

/** Answers when it runs, or can not; then it goes on in the scope. A sandbox without a command simply stays up. */
export const keepMain = Effect.fn("Keeper.main")(function* (vm: KeptVm, main: MainCommand, config: SandboxConfig) {
  if (mainCommand(vm.image, config).length === 0) return
  const started = yield* Deferred.make<void>()
  let end: RunEnd | undefined
  const command = runMain(vm, main, {
    tty: config.tty === true ? firstSize : null,
    stdin: config.openStdin === true
  }).pipe(
    Stream.runForEach((event) => {
      if (event._tag === "Started") return Effect.asVoid(Deferred.succeed(started, undefined))
      if (event._tag === "Exit" || event._tag === "Signaled") end = commandEnded(exitCodeOf(event))
      return Effect.void
    }),
    Effect.catchTags({
      ExecFailed: (error: ExecFailed) =>
        Effect.sync(() => {
          const { exitCode, message } = error
          end = new RunEnd({ exitCode, exitSignal: null, reason: "failed", detail: message })
        }),
      GuestChannelFailed: (error: GuestChannelFailed) => Effect.logWarning(error.message)
    }),
    Effect.ensuring(Deferred.succeed(started, undefined))
  )
  const whole = Effect.gen(function* () {
    yield* command
    if (end === undefined || !config.endsWithCommand) return
    vm.expect(end)
    yield* stopVm(vm, end, poweroffMs)
  })
  yield* Effect.forkScoped(whole)
  yield* Deferred.await(started)
})
