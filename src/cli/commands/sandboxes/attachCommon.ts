/** What `attach` and `shell` share. */
import { Argument } from "effect/cli"

export const name = Argument.String("name").pipe(Argument.withDescription("Running sandbox"))

/** Best first. */
export const shells = ["bash", "ash", "sh"] as const
