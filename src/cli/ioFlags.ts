/** Reads the flags about ports, limits and time of commands, and fails naming the flag. Pure. */
import { Effect, Option } from "effect"
import { parseDuration } from "../domain/duration.ts"
import { InvalidSpec } from "../domain/errors/vm.ts"
import { parsePort } from "../domain/ports.ts"
import { parseRlimit } from "../domain/rlimits.ts"
import type { SandboxConfig } from "../domain/sandbox.ts"

const each = <A>(field: string, texts: ReadonlyArray<string>, parse: (text: string) => A | string) =>
  Effect.forEach(texts, (text) => {
    const found = parse(text)
    return typeof found === "string" ? Effect.fail(new InvalidSpec({ field, reason: found })) : Effect.succeed(found)
  })

/** `-p`; the field is absent where nothing was given. */
export const readPorts = (texts: ReadonlyArray<string>): Effect.Effect<Pick<SandboxConfig, "ports">, InvalidSpec> =>
  Effect.map(each("-p", texts, parsePort), (ports) => (ports.length > 0 ? { ports } : {}))

/** `--rlimit`; the field is absent where nothing was given. */
export const readLimits = (texts: ReadonlyArray<string>): Effect.Effect<Pick<SandboxConfig, "rlimits">, InvalidSpec> =>
  Effect.map(each("--rlimit", texts, parseRlimit), (rlimits) => (rlimits.length > 0 ? { rlimits } : {}))

/** `--timeout`: seconds or a duration; the field is absent where nothing was given. */
export const readTimeout = (
  text: Option.Option<string>
): Effect.Effect<{ readonly timeoutMs?: number }, InvalidSpec> => {
  if (Option.isNone(text)) return Effect.succeed({})
  const timeoutMs = parseDuration(/^\d+(\.\d+)?$/.test(text.value) ? `${text.value}s` : text.value)
  if (timeoutMs !== undefined && timeoutMs > 0) return Effect.succeed({ timeoutMs })
  const reason = `"${text.value}" is not a time; write 30s, 5m or a number of seconds`
  return Effect.fail(new InvalidSpec({ field: "--timeout", reason }))
}
