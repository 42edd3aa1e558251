/** What several commands about this machine share. */
import { Flag } from "effect/cli"

export const jsonFlag = Flag.Boolean("json").pipe(Flag.withDescription("Print JSON"), Flag.withDefault(false))
