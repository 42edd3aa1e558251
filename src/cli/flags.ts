/** Makes the kinds of flags that many commands have. Reads none. */
import { Flag } from "effect/cli"

/** A switch that is off unless it is given. */
export const flag = (name: string, alias: string | undefined, description: string) => {
  const base = Flag.Boolean(name).pipe(Flag.withDescription(description), Flag.withDefault(false))
  return alias === undefined ? base : base.pipe(Flag.withAlias(alias))
}
