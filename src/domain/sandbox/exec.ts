/** Says how commands are run in a guest and what they answer, the same for every door. Pure. */
import { Schema } from "effect"
import { limits, ResourceLimit, variablesMax, wordsMax } from "./sandbox.ts"

const Text = Schema.String.check(Schema.isMaxLength(limits.argumentBytesMax)).check(Schema.isPattern(/^[^\0]*$/))
const cells = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_535 }))

/** Number of a signal of Linux. */
export const SignalNumber = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 64 }))

/** Size of a terminal in character cells. */
export const TerminalSize = Schema.Struct({ cols: cells, rows: cells })
export type TerminalSize = typeof TerminalSize.Type

const timeoutMs = Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: limits.durationMsMax })))

export const ExecRequest = Schema.Struct({
  argv: Schema.NonEmptyArray(Text).check(wordsMax),
  /** `KEY=value`, over the sandbox's and the image's. */
  env: Schema.Array(Text).check(variablesMax),
  /** Absent: the sandbox's, then the image's, then `/`. */
  cwd: Schema.optionalKey(Text),
  /** Absent: the sandbox's, then the image's, then root. */
  user: Schema.optionalKey(Text),
  /** Present: the command gets a terminal of this size, and all its output is stdout. */
  tty: Schema.NullOr(TerminalSize),
  /** False: the command reads end of file. */
  stdin: Schema.Boolean,
  /** Over the sandbox's. */
  rlimits: Schema.optionalKey(Schema.Array(ResourceLimit).check(Schema.isMaxLength(16))),
  /** Milliseconds until its process group is killed and it ends with 124, absent for no end. */
  timeoutMs
})
export type ExecRequest = typeof ExecRequest.Type

/** How a sandbox's main command is run; what it is, its definition says. */
export const MainRequest = Schema.Struct({
  /** Present: it gets a terminal of this size. */
  tty: Schema.NullOr(TerminalSize),
  stdin: Schema.Boolean,
  /** As for other commands. */
  timeoutMs
})
export type MainRequest = typeof MainRequest.Type

/** What a running command reports: `Started` first, one of `Exit` and `Signaled` last. */
export const ExecEvent = Schema.TaggedUnion({
  /** `exec` names the command in Input, CloseInput, Signal and Resize. */
  Started: { exec: Schema.Int, pid: Schema.Int },
  Stdout: { data: Schema.Uint8Array },
  Stderr: { data: Schema.Uint8Array },
  /** `timedOut`: it was killed because its time was up, and the code is 124. */
  Exit: { code: Schema.Int, timedOut: Schema.optionalKey(Schema.Boolean) },
  Signaled: { signal: Schema.Int }
})
export type ExecEvent = typeof ExecEvent.Type

/** Most bytes of output that are collected for one answer, unless its caller asks for more or less. */
export const outputBytesMax = 16 * 1024 * 1024

/** Exit code of a command that a signal ended, by the shell's habit. */
export const exitCodeOf = (event: { readonly code: number } | { readonly signal: number }): number =>
  "code" in event ? event.code & 0xff : 128 + event.signal

/** The command of a sandbox: what was asked for over what the image says (OCI image spec, "Entrypoint" and "Cmd"). */
export const mainCommand = (
  image: { readonly entrypoint: ReadonlyArray<string>; readonly cmd: ReadonlyArray<string> },
  asked: { readonly entrypoint?: ReadonlyArray<string>; readonly command?: ReadonlyArray<string> }
): ReadonlyArray<string> => {
  const entrypoint = asked.entrypoint ?? image.entrypoint
  // An entrypoint of the caller's makes the image's arguments meaningless, as in docker.
  const command = asked.command ?? (asked.entrypoint === undefined ? image.cmd : [])
  return [...entrypoint, ...command]
}

/** Later entries win; order of first appearance stays. What is not KEY=value is left out: no process can have it. */
export const mergeEnv = (...layers: ReadonlyArray<ReadonlyArray<string>>): ReadonlyArray<string> => {
  const merged = new Map<string, string>()
  // Of an image; what people ask for was checked.
  const named = layers.flat().filter((entry) => entry.indexOf("=") > 0)
  for (const entry of named) merged.set(entry.split("=", 1)[0]!, entry)
  return [...merged.values()]
}
