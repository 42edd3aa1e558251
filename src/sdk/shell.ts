/**
 * Shell lines as tagged templates, as in Bun Shell: values become words of their own, whatever is in them. The line is run by the
 * `sh` of the image; nothing here knows its syntax but its quotes.
 */
import { CommandFailed, InvalidSpec } from "../domain/errors/vm.ts"
import type { CollectOptions } from "./execOptions.ts"
import type { ExecResult } from "./process.ts"
import { thrown } from "./thrown.ts"

/** Runs one line of shell. */
type RunLine = (line: string, options: CollectOptions) => Promise<ExecResult>

/** A value in a template: one word, several for a list, and `{ raw }` as it is. */
export type ShellValue = string | number | boolean | bigint | { readonly raw: string } | ReadonlyArray<ShellValue>

/** Words that a shell reads as themselves. */
const plain = /^[A-Za-z0-9_@%+=:,./-]+$/

const quoted = (word: string): string => (plain.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)

/** A value as shell text. Throws `InvalidSpec` for what is no word. */
export const escaped = (value: ShellValue): string => {
  if (Array.isArray(value)) return value.map(escaped).join(" ")
  if (typeof value === "object" && value !== null && "raw" in value && typeof value.raw === "string") return value.raw
  if (!["string", "number", "boolean", "bigint"].includes(typeof value)) {
    const reason = `a ${value === null ? "null" : typeof value} is no word; give a string, a number, a list of them or { raw: "…" }`
    throw thrown(new InvalidSpec({ field: "command", reason }))
  }
  const word = String(value)
  if (word.includes("\0")) throw thrown(new InvalidSpec({ field: "command", reason: "a word cannot hold a NUL" }))
  return quoted(word)
}

/** The line of a template. */
export const lineOf = (pieces: ReadonlyArray<string>, values: ReadonlyArray<ShellValue>): string =>
  pieces.map((piece, at) => piece + (at < values.length ? escaped(values[at]!) : "")).join("")

/**
 * A line that runs once it is awaited, or asked for its output. Rejects with `CommandFailed` when it ends with another code than 0,
 * unless it was told `nothrow()`.
 */
export class ShellLine implements PromiseLike<ExecResult> {
  private running: Promise<ExecResult> | undefined

  constructor(
    private readonly run: RunLine,
    readonly line: string,
    private readonly options: CollectOptions = { check: true }
  ) {}

  /** Resolves with the result whatever the exit code is. */
  nothrow(): ShellLine {
    return new ShellLine(this.run, this.line, { ...this.options, check: false })
  }

  /** With variables over those of the sandbox. */
  env(env: Readonly<Record<string, string>>): ShellLine {
    return new ShellLine(this.run, this.line, { ...this.options, env })
  }

  /** In another directory of the guest. */
  cwd(cwd: string): ShellLine {
    return new ShellLine(this.run, this.line, { ...this.options, cwd })
  }

  /** What it says on stdout. */
  async text(): Promise<string> {
    return (await this).stdout
  }

  /** What it says on stdout, as JSON. Rejects with `SyntaxError` where it is none. */
  async json<A = unknown>(): Promise<A> {
    return JSON.parse(await this.text()) as A
  }

  /** The lines of stdout, without the empty one after the last. */
  async *lines(): AsyncGenerator<string, void, void> {
    const lines = (await this.text()).split("\n")
    if (lines.at(-1) === "") lines.pop()
    yield* lines
  }

  // biome-ignore lint/suspicious/noThenProperty: it is awaited, as a line of Bun Shell is
  then<A = ExecResult, B = never>(
    onDone?: ((result: ExecResult) => A | PromiseLike<A>) | null,
    onFailed?: ((error: unknown) => B | PromiseLike<B>) | null
  ): Promise<A | B> {
    return (this.running ??= this.run(this.line, this.options)).then(onDone, onFailed)
  }
}

/** Characters of output that an error has. */
const tailMax = 4096

/** The error for a command that ended with another code than 0; it has the end of what was said. */
export const failedCommand = ({ exitCode, stdout, stderr }: ExecResult): CommandFailed =>
  thrown(new CommandFailed({ exitCode, output: (stderr.trim() === "" ? stdout : stderr).trimEnd().slice(-tailMax) }))
