/** Names sandboxes, plugins and leases; a name that passed here can stand in a path. Builds no paths. */
import { Effect, Schema } from "effect"
import { InvalidName } from "./errors/store.ts"

/** At most this many bytes in a name. */
const nameBytesMax = 128

/** A sandbox name: 1 to 128 of `A-Z a-z 0-9 _ . -`, starting with none of `.` and `-`. */
export const SafeName = Schema.String.check(Schema.isPattern(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/)).pipe(
  Schema.brand("SafeName")
)
export type SafeName = typeof SafeName.Type

const reasonAgainst = (name: string): string | undefined => {
  if (name.length === 0) return "it is empty"
  if (Buffer.byteLength(name) > nameBytesMax) return `it has more than ${nameBytesMax} bytes`
  if (name.startsWith(".") || name.startsWith("-")) return `it starts with "${name[0]}"`
  const bad = /[^A-Za-z0-9_.-]/u.exec(name)
  return bad === null ? undefined : `it contains ${JSON.stringify(bad[0])}`
}

/** Parses a name at the door. Fails with `InvalidName`, which says what is wrong with it. */
export const parseName = (name: string): Effect.Effect<SafeName, InvalidName> => {
  const reason = reasonAgainst(name)
  return reason === undefined ? Effect.succeed(name as SafeName) : Effect.fail(new InvalidName({ given: name, reason }))
}
