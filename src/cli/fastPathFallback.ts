/**
 * Finishes what the entry program asked a keeper for, when the connection broke before the answer (native/fastpath/talk.c): says why a command's
 * end is not known, and whether a sandbox has ended. Begins nothing twice.
 */
import os from "node:os"
import { Effect, Exit, Option, Schedule } from "effect"
import { VmSupervisor } from "../actors/sandboxes/VmSupervisor.ts"
import { GuestChannelFailed } from "../domain/errors/vm.ts"
import { isLive } from "../domain/sandbox/sandbox.ts"
import { readSettings } from "../domain/settings.ts"
import { type Bunker, bunkerLayer, type Program } from "../plugin/bunker.ts"
import { runApp } from "./app.ts"
import { explainBrokenChannel } from "./commands/brokenChannel.ts"
import { ExitWith, explain, lastWords, print } from "./terminal/output.ts"

const run = <A, E>(program: Program, effect: Effect.Effect<A, E, Bunker>): Promise<Exit.Exit<A, unknown>> => {
  setInterval(() => {}, 2 ** 30)
  const settings = readSettings(process.env, process.cwd(), os.homedir())
  return Effect.runPromiseExit(Effect.provide(effect, bunkerLayer(settings, program)))
}

/** `__lost NAME REASON`: one line, and 125, or 137 where the guest ended its machine. */
export const runLost = async (program: Program): Promise<never> => {
  const [, name = "", reason = ""] = process.argv.slice(2)
  const exit = await run(program, explainBrokenChannel(name, new GuestChannelFailed({ reason: reason.slice(0, 1000) })))
  const error = Option.getOrUndefined(Exit.findErrorOption(exit))
  if (error instanceof ExitWith) process.exit(error.code)
  lastWords(`bunker: ${Exit.isFailure(exit) ? explain(exit.cause) : reason}`)
  process.exit(125)
}

/** How long the record of an end that was asked for is waited for. */
const recorded = Schedule.spaced("50 millis").pipe(Schedule.upTo({ times: 40 }))

/** `__ended NAME WORDS...`: prints the name of a sandbox that has ended, or is gone; else runs the command line once more. */
export const runEnded = async (program: Program): Promise<void> => {
  const [, name = "", ...words] = process.argv.slice(2)
  const live = VmSupervisor.use((vms) => vms.Inspect({ name })).pipe(
    Effect.map((info) => isLive(info.status)),
    Effect.catchTag("SandboxNotFound", () => Effect.succeed(false)),
    Effect.repeat({ while: (found) => found, schedule: recorded })
  )
  const exit = await run(program, live)
  if (!Exit.isSuccess(exit) || exit.value) return runApp(program, words)
  await Effect.runPromise(print(name))
  process.exit(0)
}
