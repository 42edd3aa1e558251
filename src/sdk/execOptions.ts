/** Says how a program may run a command in a sandbox, and turns it into a request. Runs none (see Process). */
import type { ExecRequest } from "../domain/sandbox/exec.ts"
import type { ResourceLimit } from "../domain/sandbox/sandbox.ts"
import type { Input } from "./process.ts"

/** A limit of setrlimit(2): `{ resource: "nofile", soft: 1024 }`; -1 is none. */
export interface Rlimit {
  readonly resource: ResourceLimit["resource"]
  readonly soft: number
  /** Default: `soft`. */
  readonly hard?: number
}

export interface ExecOptions {
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  readonly user?: string
  /** Over those of the sandbox; default: its own. */
  readonly rlimits?: ReadonlyArray<Rlimit>
  /** What the command reads; default: nothing. A source that fails ends the command, and the call rejects with its failure. */
  readonly stdin?: Input
  /** Milliseconds until it is killed and ends with 124; default: no end. */
  readonly timeoutMs?: number
  /** Ends the command; the call rejects with the signal's reason. */
  readonly signal?: AbortSignal
}

/** Options of a command whose output is collected. */
export interface CollectOptions extends ExecOptions {
  /**
   * Most bytes of stdout and stderr together; default 16 MiB. A command that says more is ended, and the call rejects with
   * `OutputTooLarge`: see `execStream` and `spawn`.
   */
  readonly outputBytesMax?: number
  /** Rejects with `CommandFailed` when the command ends with another exit code than 0; default false. */
  readonly check?: boolean
}

/** A command: its words, or a line for the `sh` of the image. */
export type CommandInput = string | ReadonlyArray<string>

/** The words of a command. */
export const wordsOf = (command: CommandInput): ReadonlyArray<string> =>
  typeof command === "string" ? ["sh", "-c", command] : command

export interface SpawnOptions extends ExecOptions {
  /** Gives it a terminal of this size: all its output is stdout. */
  readonly tty?: { readonly cols: number; readonly rows: number }
  /** Keeps stdin open for `write`; default false. */
  readonly openStdin?: boolean
}

/** `KEY=value` for each. */
export const pairs = (env: Readonly<Record<string, string>> = {}): ReadonlyArray<string> =>
  Object.entries(env).map(([key, value]) => `${key}=${value}`)

/** Limits with both values. */
export const limitsOf = (rlimits: ReadonlyArray<Rlimit>): ReadonlyArray<ResourceLimit> =>
  rlimits.map(({ resource, soft, hard = soft }) => ({ resource, soft, hard }))

/** A command with everything that the guest is told of it. */
export const requestOf = (argv: ExecRequest["argv"], options: SpawnOptions): ExecRequest => {
  const { cwd, env, openStdin = false, rlimits, stdin, timeoutMs, tty = null, user } = options
  return {
    argv,
    env: pairs(env),
    tty,
    stdin: openStdin || stdin !== undefined,
    ...(cwd === undefined ? {} : { cwd }),
    ...(user === undefined ? {} : { user }),
    ...(rlimits === undefined ? {} : { rlimits: limitsOf(rlimits) }),
    ...(timeoutMs === undefined ? {} : { timeoutMs })
  }
}
