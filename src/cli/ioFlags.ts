/** Reads and checks flags of commands and sandboxes, and fails naming the flag. Pure. */
import { Effect, Option, Schema } from "effect"
import { parseDuration } from "../domain/duration.ts"
import { InvalidSpec } from "../domain/errors/vm.ts"
import { parsePorts } from "../domain/sandbox/ports.ts"
import { parseRlimit } from "../domain/sandbox/rlimits.ts"
import { endTimeoutMsMax, limits, type SandboxConfig } from "../domain/sandbox/sandbox.ts"
import type { Problem } from "../domain/sandbox/validation.ts"
import { firstIssue } from "../domain/wire.ts"

const each = <A>(field: string, texts: ReadonlyArray<string>, parse: (text: string) => A | string) =>
  Effect.forEach(texts, (text) => {
    const found = parse(text)
    return typeof found === "string" ? Effect.fail(new InvalidSpec({ field, reason: found })) : Effect.succeed(found)
  })

/** `-p`; the field is absent where nothing was given. */
export const readPorts = (texts: ReadonlyArray<string>): Effect.Effect<Pick<SandboxConfig, "ports">, InvalidSpec> =>
  Effect.map(each("-p", texts, parsePorts), (found) => {
    const ports = found.flat()
    return ports.length > 0 ? { ports } : {}
  })

/** `--rlimit`; the field is absent where nothing was given. */
export const readLimits = (texts: ReadonlyArray<string>): Effect.Effect<Pick<SandboxConfig, "rlimits">, InvalidSpec> =>
  Effect.map(each("--rlimit", texts, parseRlimit), (rlimits) => (rlimits.length > 0 ? { rlimits } : {}))

/** `--timeout`: seconds or a duration; the field is absent where nothing was given. */
export const readTimeout = (
  text: Option.Option<string>
): Effect.Effect<{ readonly timeoutMs?: number }, InvalidSpec> => {
  if (Option.isNone(text)) return Effect.succeed({})
  const timeoutMs = parseDuration(/^\d+(\.\d+)?$/.test(text.value) ? `${text.value}s` : text.value)
  if (timeoutMs !== undefined && timeoutMs > limits.durationMsMax) {
    return Effect.fail(
      new InvalidSpec({ field: "--timeout", reason: `"${text.value.slice(0, 64)}" is longer than a year` })
    )
  }
  if (timeoutMs !== undefined && timeoutMs > 0) return Effect.succeed({ timeoutMs })
  const reason = `"${text.value.slice(0, 64)}" is not a time; write 30s, 5m or a number of seconds`
  return Effect.fail(new InvalidSpec({ field: "--timeout", reason }))
}

/** `--time` of commands that end a sandbox: seconds, as milliseconds. */
export const readEndTime = (seconds: number): Effect.Effect<number, InvalidSpec> => {
  const most = Math.floor(endTimeoutMsMax / 1000)
  return seconds >= 0 && seconds <= most
    ? Effect.succeed(seconds * 1000)
    : Effect.fail(
        new InvalidSpec({ field: "--time", reason: `${seconds} is not a number of seconds from 0 to ${most}` })
      )
}

/** Checks a value against its schema, and names the flag of the first field that is out of bounds. */
export const checkFlags = <A>(
  schema: Schema.Schema<A>,
  value: unknown,
  flagOf: Readonly<Record<string, string>>
): Effect.Effect<A, InvalidSpec> =>
  Schema.decodeUnknownEffect(Schema.toType(schema as Schema.Codec<A>))(value).pipe(
    Effect.mapError((error) => {
      const { path, message } = firstIssue(error)
      const [field = ""] = path.split(".")
      return new InvalidSpec({ field: flagOf[field] ?? field, reason: message })
    })
  )

/** A problem of a value that its flags made, in their names. */
export const checkProblem = (
  problem: Problem | undefined,
  flagOf: Readonly<Record<string, string>>
): Effect.Effect<void, InvalidSpec> =>
  problem === undefined
    ? Effect.void
    : Effect.fail(new InvalidSpec({ ...problem, field: flagOf[problem.field] ?? problem.field }))
