/**
 * Runs the main command of a detached sandbox and writes what it says to the sandbox's log. Ends the VM with the command only
 * when the sandbox is defined so.
 */
import { Effect, Stream } from "effect"
import type { ExecFailed, GuestChannelFailed } from "../domain/errors/vm.ts"
import { exitCodeOf } from "../domain/exec.ts"
import type { SandboxInfo } from "../domain/sandbox.ts"
import { openLog } from "../store/logs.ts"
import { Paths } from "../store/Paths.ts"
import { commandEnded, type KeptVm, RunEnd, resolveExec } from "./Keeper.ts"
import { mainArgv } from "./keepers.ts"

/** Starts it in the background of the current scope; a sandbox without a command simply stays up. */
export const runMain = Effect.fn("Keeper.main")(function* (vm: KeptVm, info: SandboxInfo) {
  const argv = mainArgv(vm)
  if (argv === undefined) return
  const paths = yield* Paths
  const log = yield* openLog(paths.sandbox(info.name).mainLog)
  const command = Effect.gen(function* () {
    const request = { argv, env: [], tty: null, stdin: false } as const
    const handle = yield* vm.channel.exec(resolveExec(request, vm))
    let end: RunEnd | undefined
    yield* Stream.runForEach(handle.events, (event) => {
      switch (event._tag) {
        case "Stdout":
          return log.write("stdout", event.data)
        case "Stderr":
          return log.write("stderr", event.data)
        default: {
          const code = exitCodeOf(event)
          end = commandEnded(code)
          return log.write("exit", new TextEncoder().encode(String(code)))
        }
      }
    })
    return end
  }).pipe(
    Effect.scoped,
    Effect.catchTags({
      ExecFailed: (error: ExecFailed) =>
        Effect.as(
          log.write("stderr", new TextEncoder().encode(`${error.message}\n`)),
          new RunEnd({ exitCode: error.exitCode, exitSignal: null, reason: "failed", detail: error.message })
        ),
      GuestChannelFailed: (error: GuestChannelFailed) =>
        Effect.as(Effect.logWarning(error.message), undefined as RunEnd | undefined)
    })
  )
  const whole = Effect.flatMap(command, (end) => {
    if (end === undefined || !info.config.endsWithCommand) return Effect.void
    vm.expect(end)
    return vm.channel
      .poweroff({ signal: 15, graceMs: 2000 })
      .pipe(Effect.ignore, Effect.timeoutOption("10 seconds"), Effect.asVoid)
  })
  yield* Effect.forkScoped(whole)
})
