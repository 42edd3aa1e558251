/** The flags by which `run` and `create` say how long a sandbox lives and what comes after its end. */
import { Effect, Option } from "effect"
import { Flag } from "effect/cli"
import { parseDuration } from "../../domain/duration.ts"
import { InvalidSpec } from "../../domain/errors/vm.ts"
import { parseRestart } from "../../domain/sandbox/restart.ts"
import { limits, type SandboxConfig } from "../../domain/sandbox/sandbox.ts"

const text = (name: string, description: string) =>
  Flag.String(name).pipe(Flag.withDescription(description), Flag.optional)

export const policyFlags = {
  restart: text(
    "restart",
    "no, always, on-failure or on-failure:N; starts a sandbox again that ended by itself; default no"
  ),
  maxDuration: text("max-duration", "Longest life from its start: 90s, 5m, 1h30m, 2d; default: no end"),
  idleTimeout: text(
    "idle-timeout",
    "Longest time without a command and without traffic on a published port; default: no end"
  ),
  replace: Flag.Boolean("replace").pipe(
    Flag.withDescription("Stop and remove a sandbox of the same name first"),
    Flag.withDefault(false)
  )
}

/** The words among them after which a value follows. */
export const valuedPolicyFlags = ["--restart", "--max-duration", "--idle-timeout"] as const

export interface ParsedPolicies {
  readonly restart: Option.Option<string>
  readonly maxDuration: Option.Option<string>
  readonly idleTimeout: Option.Option<string>
}

const duration = Effect.fnUntraced(function* (flag: string, given: Option.Option<string>) {
  if (Option.isNone(given)) return undefined
  const ms = parseDuration(given.value)
  if (ms !== undefined && ms >= 1 && ms <= limits.durationMsMax) return ms
  return yield* new InvalidSpec({
    field: flag,
    reason: `"${given.value}" is no duration; write 90s, 5m, 1h30m or 2d, at most 366d`
  })
})

export const readPolicies = Effect.fnUntraced(function* (
  parsed: ParsedPolicies
): Effect.fn.Return<Pick<SandboxConfig, "restart" | "maxDurationMs" | "idleTimeoutMs">, InvalidSpec> {
  const restart = Option.map(parsed.restart, (text) => parseRestart(text === "unless-stopped" ? "always" : text))
  if (Option.isSome(restart) && restart.value === undefined) {
    return yield* new InvalidSpec({
      field: "--restart",
      reason: `"${Option.getOrThrow(parsed.restart)}" is no restart policy; write no, always (also unless-stopped: what is stopped stays so), on-failure or on-failure:3`
    })
  }
  const policy = Option.getOrUndefined(restart)
  const maxDurationMs = yield* duration("--max-duration", parsed.maxDuration)
  const idleTimeoutMs = yield* duration("--idle-timeout", parsed.idleTimeout)
  return {
    ...(policy === undefined ? {} : { restart: policy }),
    ...(maxDurationMs === undefined ? {} : { maxDurationMs }),
    ...(idleTimeoutMs === undefined ? {} : { idleTimeoutMs })
  }
})
