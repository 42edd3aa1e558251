/** Says what can be asked of a sandbox's logs and what they answer. Pure. */
import { Schema } from "effect"
import { parseDuration } from "../duration.ts"

const time = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

/** Most lines that can be asked for by number. */
export const tailMax = 1_000_000

/** RFC 3339; the time of day may be left out, and the zone, which is then this machine's. */
const dateTime = /^(\d{4})-(\d\d)-(\d\d)([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)?)?$/i

/** Unix milliseconds of `10m` (ago), of a date and time, or of unix seconds with at least nine digits; undefined for anything else. */
export const parseLogTime = (text: string, nowMs: number): number | undefined => {
  const ago = parseDuration(text)
  if (ago !== undefined) return Math.max(0, nowMs - ago)
  if (/^\d{9,11}(\.\d{1,9})?$/.test(text)) return Math.round(Number(text) * 1000)
  const [, year, month, day, time] = dateTime.exec(text) ?? []
  // A day that the month does not have is taken for one of the next by Date.
  if (year === undefined || new Date(Date.UTC(+year, +month! - 1, +day!)).getUTCDate() !== +day!) return undefined
  const ms = Date.parse(time === undefined ? `${text}T00:00` : text.replace(" ", "T").toUpperCase())
  return Number.isNaN(ms) || ms < 0 ? undefined : ms
}

/** Fields of a question to the logs. */
export const LogQuery = {
  /** `main`: the main command; `exec`: every other command; `console`: the guest's kernel and agent. */
  source: Schema.Literals(["main", "exec", "console"]),
  /** Only this exec. */
  exec: Schema.optionalKey(Schema.Int),
  /** Go on until the sandbox has ended. */
  follow: Schema.Boolean,
  /** Only the last so many lines of those that are there, with what frames them. */
  tail: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: tailMax }))),
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
  /** `dropped`: so many bytes are missing, since the disk was full or too slow; none is said where what was written was rotated away unread. */
  stream: Schema.Literals(["stdout", "stderr", "exit", "start", "dropped", "console"]),
  /** Number of the exec, 0 for the main command. */
  exec: Schema.Int,
  /** What was said, when it is UTF-8. */
  text: Schema.optionalKey(Schema.String),
  /** What was said, when it is not. */
  data: Schema.optionalKey(Schema.Uint8Array)
})
export type LogLine = typeof LogLine.Type
