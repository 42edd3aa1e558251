/** What several commands about sandboxes share. */
import { Effect } from "effect"
import { Argument } from "effect/cli"
import { forEachName, print } from "../../terminal/output.ts"

export const names = Argument.String("name").pipe(Argument.withDescription("Sandbox"), Argument.atLeast(1))

/** Names that are acted on at the same time. */
const atOnce = { concurrency: 8 }

/** Does the same to each sandbox and prints the name of each that it was done to. */
export const toEach = <E extends { readonly message: string }, R>(
  list: ReadonlyArray<string>,
  act: (name: string) => Effect.Effect<unknown, E, R>
) => forEachName(list, (name) => Effect.andThen(act(name), print(name)), atOnce)

export const SIGKILL = 9

/** Number of the main command among the commands of a sandbox. */
export const mainExec = 0
