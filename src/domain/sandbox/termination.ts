/** Says how a run of a sandbox ended: the one form in which records, files, messages and the SDK have it. Pure. */
import { Schema } from "effect"
import { TerminationReason } from "./sandbox.ts"

const fields = {
  /** Code of the main command; null when it did not exit by itself. */
  exitCode: Schema.NullOr(Schema.Int),
  /** Name of the signal that ended it, like `SIGKILL`; null when none did. */
  exitSignal: Schema.NullOr(Schema.String),
  reason: TerminationReason,
  /** What a person should know beside the reason; null: nothing. */
  detail: Schema.NullOr(Schema.String)
}

/** How a run ended. */
export class Termination extends Schema.Class<Termination>("Termination")(fields) {}

/** The same fields as plain data, as files and rows have them. */
export const TerminationFields = Schema.Struct(fields)
export type TerminationFields = typeof TerminationFields.Type
