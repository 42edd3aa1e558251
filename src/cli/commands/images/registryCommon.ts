/** What `login` and `logout` share. */
import { Argument, Flag } from "effect/cli"
import { flag } from "../../flags.ts"

export const registry = Argument.String("registry").pipe(
  Argument.withDescription("Host of the registry, like ghcr.io; default: docker.io"),
  Argument.withDefault("docker.io")
)

export const usernameFlag = Flag.String("username").pipe(
  Flag.withAlias("u"),
  Flag.withDescription("User name at the registry"),
  Flag.optional
)

export const passwordFlag = flag("password-stdin", undefined, "Read the password or access token from stdin")
