/** `bunker start`. Decides nothing: sends its messages and prints what comes back. */
import { Effect } from "effect"
import { Command } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { withBunker } from "../../context.ts"
import { forEachName, print, sayWarnings } from "../../terminal/output.ts"
import { announceEngine, names } from "./runCommon.ts"

export const start = Command.make(
  "start",
  { name: names },
  Effect.fn("Cli.start")(function* ({ name }) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const one = Effect.fnUntraced(function* (each: string) {
        const info = yield* vms.Inspect({ name: each })
        yield* announceEngine(info.config.engine, false)
        yield* sayWarnings(yield* vms.Start({ name: each, detached: true }))
        yield* print(each)
      })
      yield* forEachName(name, one, { concurrency: 8 })
    })
    return yield* withBunker(body)
  })
).pipe(Command.withDescription("Boot sandboxes in the background."), Command.withShortDescription("Boot a sandbox"))
