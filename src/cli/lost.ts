/**
 * Says why a command's end is not known, for the entry program, which was passing its bytes when the connection to the keeper broke
 * (entry/talk.c). `__lost NAME REASON`; ends with 125.
 */
import os from "node:os"
import { type Cause, Effect, Exit } from "effect"
import { GuestChannelFailed } from "../domain/errors/vm.ts"
import { readSettings } from "../domain/settings.ts"
import { bunkerLayer, type Program } from "../plugin/bunker.ts"
import { explainBrokenChannel } from "./commands/brokenChannel.ts"
import { explain, lastWords } from "./output.ts"

export const runLost = async (program: Program): Promise<never> => {
  const [, name = "", reason = ""] = process.argv.slice(2)
  setInterval(() => {}, 2 ** 30)
  const settings = readSettings(process.env, process.cwd(), os.homedir())
  const said = explainBrokenChannel(name, new GuestChannelFailed({ reason: reason.slice(0, 1000) })).pipe(
    Effect.provide(bunkerLayer(settings, program))
  )
  const exit = await Effect.runPromiseExit(said)
  lastWords(`bunker: ${Exit.isFailure(exit) ? explain(exit.cause as Cause.Cause<unknown>) : reason}`)
  process.exit(125)
}
