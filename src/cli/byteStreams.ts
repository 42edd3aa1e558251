/** Takes files that commands are given, stdin among them, and writes streams of bytes to files and stdout. Knows no command. */
import fs from "node:fs"
import path from "node:path"
import { Data, Effect, Stream } from "effect"
import { ingest } from "../store/files/files.ts"
import { Paths } from "../store/files/Paths.ts"
import { spool } from "../store/files/tempFile.ts"
import { ExitWith, outputFailure, say, writeAll } from "./terminal/output.ts"

/** The file that a path names; for `-` one with all of stdin, until the scope ends. */
export const inputFile = Effect.fnUntraced(function* (given: string) {
  if (given !== "-") return given
  if (process.stdin.isTTY) {
    yield* say("bunker: stdin is a terminal; give a file, or pipe one in")
    return yield* new ExitWith({ code: 125 })
  }
  if (fs.fstatSync(0).isFile()) return "/proc/self/fd/0"
  return yield* spool((yield* Paths).temporary, Bun.stdin.stream() as unknown as AsyncIterable<Uint8Array>)
})

type Pieces<E> = Stream.Stream<Uint8Array, E>

/** Writes to stdout, waiting for a slow reader. */
export const toStdout = <E>(pieces: Pieces<E>) =>
  Stream.runForEachWhile(pieces, (piece) => writeAll(1, piece)).pipe(
    Effect.andThen(Effect.suspend(() => (outputFailure() === undefined ? Effect.void : new ExitWith({ code: 125 }))))
  )

/** The file that a save was told to write can not be written. */
class OutputFailed extends Data.TaggedError("OutputFailed")<{ readonly file: string; readonly code: string }> {
  override get message(): string {
    const words: Readonly<Record<string, string>> = {
      ENOSPC: "no space left on its disk",
      EACCES: "permission denied",
      EISDIR: "it is a directory",
      ENOENT: "its directory does not exist"
    }
    return `${this.file} can not be written: ${words[this.code] ?? this.code}; nothing half-written was kept, choose another with -o`
  }
}

const failed = (file: string) => (cause: unknown) =>
  new OutputFailed({ file, code: String((cause as { readonly code?: unknown }).code ?? cause) })

/** Writes to a descriptor and answers how many bytes. */
const toDescriptor = <E>(pieces: Pieces<E>, fd: number, file: string) =>
  Effect.suspend(() => {
    let bytes = 0
    return Stream.runForEach(pieces, (piece) =>
      Effect.try({
        try: () => {
          for (let done = 0; done < piece.length; ) done += fs.writeSync(fd, piece, done)
          bytes += piece.length
        },
        catch: failed(file)
      })
    ).pipe(Effect.map(() => bytes))
  })

const opened = (place: string, flags: string, file: string) =>
  Effect.acquireRelease(Effect.try({ try: () => fs.openSync(place, flags, 0o600), catch: failed(file) }), (fd) =>
    Effect.sync(() => fs.closeSync(fd))
  )

/** Replaces a file only when all of it is there; what is no regular file (a device, a pipe) is written to as it is. */
export const toFile = <E>(pieces: Pieces<E>, file: string) => {
  const there = fs.statSync(file, { throwIfNoEntry: false })
  const into = (place: string, flags: string) =>
    Effect.scoped(Effect.flatMap(opened(place, flags, file), (fd) => toDescriptor(pieces, fd, file)))
  if (there !== undefined && !there.isFile()) return into(file, "w")
  return ingest(path.dirname(file), file, (temporary) => into(temporary, "wx"))
}
