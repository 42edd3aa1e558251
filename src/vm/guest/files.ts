/**
 * Runs operations on files of a guest over a connection of their own, and decodes what `list` and `stat` tell. Does not decode
 * trees (treeRecords.ts) and touches no file of the host.
 */
import { Effect, type Scope, Stream } from "effect"
import { FileFailed, FileNotFound, fileReason } from "../../domain/errors/guestIo.ts"
import { GuestChannelFailed } from "../../domain/errors/vm.ts"
import { type FileOperation, GuestFile } from "../../domain/sandbox/guestFiles.ts"
import type { Answer } from "./control.ts"
import type { OpenStream, StreamEvent } from "./exec.ts"
import { decodeGuestFile, decodeGuestFileFailure, parsePayload } from "./messages.ts"

export type { FileOperation } from "../../domain/sandbox/guestFiles.ts"

type FileError = FileFailed | FileNotFound | GuestChannelFailed

/** An operation that was started. */
export interface FileConnection {
  /** What it says; ends when it is done, fails when it could not be. Run it once, also where nothing is expected. */
  readonly output: Stream.Stream<Uint8Array, FileError>
  /** Input within the window; dropped when the operation takes no more. Read the output meanwhile. */
  readonly write: (data: Uint8Array) => Effect.Effect<void, GuestChannelFailed>
  readonly closeInput: Effect.Effect<void, GuestChannelFailed>
}

/** Most bytes that are kept of why an operation failed. */
const reasonBytesMax = 32_768

const refused =
  (path: string) =>
  (answer: Answer): FileFailed => {
    const { error, message = "the agent gave no reason" } = answer.response
    const detail = error === "bad_user" ? `there is no user "${message}"` : message
    return new FileFailed({ path, reason: fileReason(error), detail })
  }

/** The error that the guest's last words tell of. */
const explain = (path: string, words: Uint8Array): FileError => {
  const found = decodeGuestFileFailure(parsePayload(words))
  if (found === undefined) return new FileFailed({ path, reason: "failed", detail: "the guest gave no reason" })
  if (found.error === "not_found") return new FileNotFound({ path: found.path })
  return new FileFailed({ path: found.path, reason: fileReason(found.error), detail: found.message })
}

/** Starts an operation; the scope ends it. */
export const openFile = Effect.fn("GuestChannel.file")(function* (
  open: OpenStream,
  operation: FileOperation
): Effect.fn.Return<FileConnection, FileError, Scope.Scope> {
  const { path, user = "", ...rest } = operation
  const stdin = operation.do === "put" || operation.do === "unpack"
  const opened = yield* open("file", { ...rest, path, user, stdin }, refused(path))
  const words: Array<Uint8Array> = []
  let wordBytes = 0
  const take = (event: StreamEvent): Effect.Effect<ReadonlyArray<Uint8Array>, FileError> => {
    switch (event._tag) {
      case "Stdout":
        return Effect.succeed([event.data])
      case "Stderr":
        wordBytes += event.data.length
        if (wordBytes <= reasonBytesMax) words.push(event.data)
        return Effect.succeed([])
      case "Exit":
        return event.code === 0 ? Effect.succeed([]) : Effect.fail(explain(path, Buffer.concat(words)))
      case "Signaled":
        return Effect.fail(
          new FileFailed({ path, reason: "failed", detail: `the operation was ended by signal ${event.signal}` })
        )
      default:
        return Effect.fail(new GuestChannelFailed({ reason: "an operation on files says what only a port may say" }))
    }
  }
  return {
    output: Stream.flattenIterable(Stream.mapEffect(opened.events, take)),
    write: opened.write,
    closeInput: opened.closeStdin
  }
})

/** Most bytes of a list. */
const listBytesMax = 8 * 1024 * 1024

const tooLong = (path: string) =>
  new FileFailed({
    path,
    reason: "limit",
    detail: "its list is longer than 8 MiB; list it with a command in the guest"
  })

/** The files that the lines of `list` or `stat` describe, by name. */
export const collectFiles = Effect.fnUntraced(function* <E, R>(path: string, lines: Stream.Stream<Uint8Array, E, R>) {
  const chunks: Array<Uint8Array> = []
  let bytes = 0
  yield* Stream.runForEach(lines, (chunk) => {
    bytes += chunk.length
    if (bytes > listBytesMax) return Effect.fail(tooLong(path))
    chunks.push(chunk)
    return Effect.void
  })
  const texts = Buffer.concat(chunks).toString("utf8").split("\n").slice(0, -1)
  const found = texts.map((text) => decodeGuestFile(parseLine(text)))
  const whole = found.filter((file) => file !== undefined)
  if (whole.length < found.length) {
    return yield* new GuestChannelFailed({ reason: "the guest's list of files is malformed" })
  }
  return whole
    .map(({ mtime_ms: mtimeMs, ...file }) => new GuestFile({ ...file, mtimeMs }))
    .toSorted((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
})

const parseLine = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
