/**
 * The named files of a layout directory or of an archive, read by offset and never loaded whole.
 * Names lead nowhere outside: a directory is left by no symbolic link, an archive has no outside. Writes nothing.
 */

import { constants } from "node:fs"
import fs from "node:fs/promises"
import path from "node:path"
import { Effect, Option, type Scope, Stream } from "effect"
import { ArchiveInvalid } from "../../domain/errors/image.ts"
import { pathOf } from "../../store/files/openBelow.ts"
import { findEntry, scanTar, TarDamaged } from "../tar/fileLocations.ts"

/** Where one file's bytes lie. */
interface Extent {
  readonly handle: fs.FileHandle
  /** First byte's offset in the file of `handle`. */
  readonly offset: number
  readonly size: number
}

/** Files by their slash-separated names. */
export interface Bundle {
  /** What the user calls it; used in errors. */
  readonly path: string
  /** Last component of a directory's real path; undefined for an archive. */
  readonly directoryName: string | undefined
  /** Length in bytes; undefined when there is no such regular file. */
  readonly size: (name: string) => Effect.Effect<number | undefined, ArchiveInvalid>
  /** The first bytes, at most `maxBytes`; undefined when there is no such file. */
  readonly head: (name: string, maxBytes: number) => Effect.Effect<Uint8Array | undefined, ArchiveInvalid>
  /** The whole file; fails when it has more than `maxBytes`; undefined when there is no such file. */
  readonly read: (name: string, maxBytes: number) => Effect.Effect<Uint8Array | undefined, ArchiveInvalid>
  readonly stream: (name: string) => Stream.Stream<Uint8Array, ArchiveInvalid>
}

const chunkBytes = 256 * 1024

/** What an operation of node:fs says, in few words. */
export const reasonOf = (cause: unknown): string => {
  const code = (cause as { readonly code?: unknown })?.code
  if (code === "ENOENT") return "there is no such file or directory"
  if (code === "EACCES" || code === "EPERM") return "permission is denied"
  if (code === "ENOSPC") return "the disk is full"
  return cause instanceof Error ? cause.message : String(cause)
}

const readExact = async (extent: Extent, from: number, length: number): Promise<Uint8Array> => {
  const buffer = new Uint8Array(length)
  let filled = 0
  while (filled < length) {
    const { bytesRead } = await extent.handle.read(buffer, filled, length - filled, extent.offset + from + filled)
    if (bytesRead === 0) throw new Error("it became shorter while it was read")
    filled += bytesRead
  }
  return buffer
}

/** Builds a bundle from a lookup that opens a name for as long as the scope lasts. */
const bundleOf = (
  shown: string,
  locate: (name: string) => Effect.Effect<Extent | undefined, ArchiveInvalid, Scope.Scope>,
  directoryName?: string
): Bundle => {
  const invalid = (reason: string) => new ArchiveInvalid({ path: shown, reason })
  const bytes = (extent: Extent, from: number, length: number) =>
    Effect.tryPromise({ try: () => readExact(extent, from, length), catch: (cause) => invalid(reasonOf(cause)) })
  return {
    path: shown,
    directoryName,
    size: (name) =>
      locate(name).pipe(
        Effect.map((extent) => extent?.size),
        Effect.scoped
      ),
    head: Effect.fnUntraced(function* (name, maxBytes) {
      const extent = yield* locate(name)
      return extent === undefined ? undefined : yield* bytes(extent, 0, Math.min(extent.size, maxBytes))
    }, Effect.scoped),
    read: Effect.fnUntraced(function* (name, maxBytes) {
      const extent = yield* locate(name)
      if (extent === undefined) return undefined
      if (extent.size > maxBytes)
        return yield* invalid(`${name} has ${extent.size} bytes, more than the ${maxBytes} allowed`)
      return yield* bytes(extent, 0, extent.size)
    }, Effect.scoped),
    stream: (name) =>
      Stream.unwrap(
        Effect.gen(function* () {
          const extent = yield* locate(name)
          if (extent === undefined) return yield* invalid(`${name} is missing`)
          return Stream.paginate(0, (from: number) => {
            const length = Math.min(chunkBytes, extent.size - from)
            const next = from + length
            return Effect.map(
              bytes(extent, from, length),
              (chunk) => [length === 0 ? [] : [chunk], next < extent.size ? Option.some(next) : Option.none()] as const
            )
          })
        })
      )
  }
}

/** The files below a directory; symbolic links in it are followed only as far as they stay inside. */
export const directoryBundle = Effect.fn("oci.bundle.directory")(function* (directory: string) {
  const invalid = (reason: string) => new ArchiveInvalid({ path: directory, reason })
  const attempt = <A>(run: () => Promise<A>) =>
    Effect.tryPromise({ try: run, catch: (cause) => invalid(reasonOf(cause)) })
  const root = yield* attempt(() => fs.realpath(directory))
  const locate = Effect.fnUntraced(function* (name: string) {
    if (!isPlainName(name)) return yield* invalid(`${JSON.stringify(name)} is not a name inside it`)
    // O_NONBLOCK: a fifo in its place must not hold us up.
    const flags = constants.O_RDONLY | constants.O_NONBLOCK
    const handle = yield* Effect.acquireRelease(
      attempt(() => fs.open(path.join(root, name), flags).catch(missing)),
      (opened) => (opened === undefined ? Effect.void : close(opened))
    )
    if (handle === undefined) return undefined
    // Of what was opened, whatever led to it: a link may be swapped while its path is looked at.
    const real = yield* attempt(async () => pathOf(handle.fd))
    if (!real.startsWith(root === "/" ? root : root + path.sep)) return yield* invalid(`${name} leads outside of it`)
    const stat = yield* attempt(() => handle.stat())
    return stat.isFile() ? { handle, offset: 0, size: stat.size } : undefined
  })
  return bundleOf(directory, locate, path.basename(root))
})

/** The files of an uncompressed tar archive that is open already. Fails when the archive is damaged. */
export const tarBundle = Effect.fn("oci.bundle.tar")(function* (
  shown: string,
  handle: fs.FileHandle,
  sizeBytes: number
) {
  const entries = yield* Effect.tryPromise({
    try: () =>
      scanTar((offset, length) => readExact({ handle, offset: 0, size: sizeBytes }, offset, length), sizeBytes),
    catch: (cause) =>
      new ArchiveInvalid({ path: shown, reason: cause instanceof TarDamaged ? cause.message : reasonOf(cause) })
  })
  return bundleOf(shown, (name) =>
    Effect.sync(() => {
      const entry = findEntry(entries, name)
      return entry === undefined ? undefined : { handle, offset: entry.offset, size: entry.size }
    })
  )
})

const missing = (cause: unknown): undefined => {
  const code = (cause as { readonly code?: unknown })?.code
  if (code === "ENOENT" || code === "ENOTDIR") return undefined
  throw cause
}

const close = (handle: fs.FileHandle) => Effect.promise(() => handle.close().catch(() => undefined))

/** Opens a file until the scope ends. */
export const openFile = (shown: string, file: string): Effect.Effect<fs.FileHandle, ArchiveInvalid, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.tryPromise({
      try: () => fs.open(file, constants.O_RDONLY | constants.O_NONBLOCK),
      catch: (cause) => new ArchiveInvalid({ path: shown, reason: reasonOf(cause) })
    }),
    close
  )

/** A relative name without `.`, `..` and empty components. */
const isPlainName = (name: string): boolean =>
  name.length <= 1_024 &&
  name.split("/").every((part) => part !== "" && part !== "." && part !== ".." && !part.includes("\0"))
