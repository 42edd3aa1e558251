/** Says what can be asked of a sandbox's logs and what they answer. Pure. */
import { Schema } from "effect"

const time = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

/** Fields of a question to the logs. */
export const LogQuery = {
  /** `main`: the main command; `exec`: every other command; `console`: the guest's kernel and agent. */
  source: Schema.Literals(["main", "exec", "console"]),
  /** Only this exec. */
  exec: Schema.optionalKey(Schema.Int),
  /** Go on until the sandbox has ended. */
  follow: Schema.Boolean,
  /** Only the last so many of the entries that are there. */
  tail: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1_000_000 }))),
  /** Unix milliseconds; only entries from then on. */
  sinceMs: Schema.optionalKey(time),
  /** Unix milliseconds; only entries before. */
  untilMs: Schema.optionalKey(time)
} as const
const LogRequest = Schema.Struct(LogQuery)
export type LogRequest = typeof LogRequest.Type

/** One piece of output, or what frames it: `start` with the command's name, `exit` with its code. */
export const LogLine = Schema.Struct({
  /** Unix milliseconds. */
  time: Schema.Int,
  /** `dropped`: so many bytes are missing, since the disk was too slow. */
  stream: Schema.Literals(["stdout", "stderr", "exit", "start", "dropped", "console"]),
  /** Number of the exec, 0 for the main command. */
  exec: Schema.Int,
  /** What was said, when it is UTF-8. */
  text: Schema.optionalKey(Schema.String),
  /** What was said, when it is not. */
  data: Schema.optionalKey(Schema.Uint8Array)
})
export type LogLine = typeof LogLine.Type
