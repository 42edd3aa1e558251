/** Decides who hears what Bunker has to say beside its answers: nobody, unless the program asks. Prints nothing. */
import { Cause, Logger } from "effect"

/** One thing that went wrong, or is worth knowing, behind the answers. */
export interface LogRecord {
  /** Unix milliseconds. */
  readonly time: number
  readonly level: "fatal" | "error" | "warn" | "info" | "debug" | "trace"
  readonly text: string
}

export interface Logged {
  /** Takes what would be in a log; default: nobody does. Nothing is ever written to stdout or stderr. */
  readonly log?: (record: LogRecord) => void
}

/** The layer to build everything over: without it, what is logged goes to the program's stdout. */
export const logging = (log: ((record: LogRecord) => void) | undefined) =>
  Logger.layer(
    log === undefined
      ? []
      : [
          Logger.make(({ message, logLevel, date, cause }) => {
            const words = (Array.isArray(message) ? message : [message]).map(String)
            const causes = cause.reasons.length === 0 ? [] : [Cause.pretty(cause)]
            log({
              time: date.getTime(),
              level: logLevel.toLowerCase() as LogRecord["level"],
              text: [...words, ...causes].join(" ")
            })
          })
        ]
  )
