/** Asks a person at the terminal, and reads secrets from pipes: never from arguments. Restores the terminal however it ends. */
import fs from "node:fs"
import { Data, Effect, Redacted } from "effect"
import { harmless } from "../../domain/terminalText.ts"
import { writeAll } from "./output.ts"

/** There is nobody to ask, or no usable answer. */
export class NoAnswer extends Data.TaggedError("NoAnswer")<{ readonly message: string }> {}

/** Longest secret in bytes; access tokens have some thousands. */
const secretBytesMax = 65_536

const CONTROL_C = "\x03"
const CONTROL_D = "\x04"

/** One line typed at the terminal; nothing of it shows when `secret`. Ctrl-C interrupts, an empty end of input is no answer. */
const askTerminal = (question: string, secret: boolean): Effect.Effect<string, NoAnswer> => {
  const typed = Effect.callback<string, NoAnswer>((resume) => {
    let line = ""
    const onData = (chunk: Buffer) => {
      for (const char of chunk.toString("utf8")) {
        if (char === CONTROL_C) return resume(Effect.interrupt)
        if (char === "\r" || char === "\n") return resume(Effect.succeed(line))
        if (char === CONTROL_D && line === "") {
          return resume(Effect.fail(new NoAnswer({ message: "no answer was given" })))
        }
        if (char === "\x7f" || char === "\b") line = [...line].slice(0, -1).join("")
        else if (char === "\x15") line = ""
        else if (char >= " " && line.length < secretBytesMax) line += char
      }
    }
    process.stdin.on("data", onData)
    process.stdin.resume()
    return Effect.sync(() => process.stdin.off("data", onData))
  })
  return Effect.acquireUseRelease(
    // In this order: whoever answers as soon as the question is there must not see a secret echoed.
    Effect.andThen(
      Effect.sync(() => void process.stdin.setRawMode(secret)),
      writeAll(2, harmless(question))
    ),
    () => typed,
    () =>
      Effect.sync(() => {
        process.stdin.setRawMode(false)
        process.stdin.pause()
      }).pipe(Effect.andThen(secret ? writeAll(2, "\n") : Effect.void))
  )
}

/** A line that may be shown. */
export const ask = (question: string, flag: string): Effect.Effect<string, NoAnswer> =>
  process.stdin.isTTY
    ? Effect.map(askTerminal(question, false), (line) => line.trim())
    : Effect.fail(new NoAnswer({ message: `stdin is no terminal to ask at; give ${flag}` }))

/** A secret, typed without an echo. */
export const askSecret = (question: string): Effect.Effect<Redacted.Redacted<string>, NoAnswer> =>
  process.stdin.isTTY
    ? Effect.flatMap(askTerminal(question, true), checkSecret)
    : Effect.fail(
        new NoAnswer({ message: "stdin is no terminal to ask at; give --password-stdin and pipe the password in" })
      )

/** All of stdin but the line's end. */
export const readSecret: Effect.Effect<Redacted.Redacted<string>, NoAnswer> = Effect.suspend(() => {
  if (process.stdin.isTTY) {
    return Effect.fail(new NoAnswer({ message: "--password-stdin wants a pipe or a file; leave it away to be asked" }))
  }
  return Effect.flatMap(
    Effect.try({
      try: () => fs.readFileSync(0, "utf8"),
      catch: () => new NoAnswer({ message: "stdin can not be read" })
    }),
    (text) => checkSecret(text.replace(/\r?\n$/, ""))
  )
})

const checkSecret = (secret: string): Effect.Effect<Redacted.Redacted<string>, NoAnswer> => {
  if (secret === "") return Effect.fail(new NoAnswer({ message: "the password is empty" }))
  if (Buffer.byteLength(secret) > secretBytesMax) {
    return Effect.fail(new NoAnswer({ message: `the password has more than ${secretBytesMax} bytes` }))
  }
  return Effect.succeed(Redacted.make(secret))
}
