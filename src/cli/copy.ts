/**
 * Copies files and trees between this machine and a sandbox, with docker's habits of naming. Follows no link that a guest made,
 * and writes nothing outside the destination (see vm/hostTree.ts).
 */
import fs from "node:fs"
import path from "node:path"
import { Effect, Stream } from "effect"
import { type FileTarget, readGuestFile, writeGuestFile } from "../actors/fileTransfer.ts"
import { VmSupervisor } from "../actors/VmSupervisor.ts"
import { CopyFailed } from "../domain/errors/guestIo.ts"
import { copyFailed, HostTreeWriter, readHostTree, shownName } from "../vm/hostTree.ts"
import { renameRecord, TreeMalformed, TreeReader, type TreeSink } from "../vm/treeRecords.ts"
import { harmless, say, writeAll } from "./output.ts"
import { TarToTree, TarWriter } from "./treeTar.ts"

/** One side of a copy: a tar stream, a path here, or a path in a sandbox. */
export type Endpoint =
  | { readonly _tag: "Stream" }
  | { readonly _tag: "Here"; readonly path: string }
  | { readonly _tag: "Guest"; readonly name: string; readonly path: string }

/** `-`, `NAME:PATH` or a path of this machine; one with a colon in its first part needs `./` before it. */
export const parseEndpoint = (text: string): Endpoint => {
  if (text === "-") return { _tag: "Stream" }
  const match = /^([^/:]+):(.*)$/s.exec(text)
  if (match === null) return { _tag: "Here", path: text }
  const inside = match[2]!
  return { _tag: "Guest", name: match[1]!, path: inside.startsWith("/") ? inside : `/${inside}` }
}

/** How a copy is made. */
export interface CopyOptions {
  /** Keep owners, and setuid and setgid bits of what comes out. */
  readonly archive: boolean
  /** Copy what a link points to where the source itself is one. */
  readonly followLink: boolean
}

/** Where a copy lands: below which directory, and as what; "" for the directory itself. */
interface Landing {
  readonly base: string
  readonly root: string
}

type Kind = "directory" | "other"

/** Docker's rules: what exists decides, and how the paths end. Answers why it can not be. */
export const landing = (
  source: { readonly path: string; readonly kind: Kind; readonly basename: string },
  destination: { readonly path: string; readonly kind: Kind | undefined }
): Landing | string => {
  const { path: to, kind } = destination
  const contents = source.kind === "directory" && /(^|\/)\.$/.test(source.path)
  if (kind === "directory") return { base: to, root: contents ? "" : source.basename }
  if (kind === "other" && source.kind === "directory") return "it is a file, and the source is a directory"
  if (/\/\.?$/.test(to)) {
    if (kind === "other") return "it is not a directory"
    if (source.kind !== "directory") return "there is no such directory"
  }
  const clean = path.posix.normalize(to).replace(/(?<=.)\/$/, "")
  return { base: path.posix.dirname(clean), root: path.posix.basename(clean) }
}

const statHere = (place: string, follow: boolean) =>
  Effect.try({
    try: () => (follow ? fs.statSync : fs.lstatSync)(place),
    catch: (cause) => copyFailed(place, cause)
  })

const kindHere = (place: string): Kind | undefined => {
  const stat = fs.statSync(place, { throwIfNoEntry: false })
  return stat === undefined ? undefined : stat.isDirectory() ? "directory" : "other"
}

/** A path that ends in `/` or `/.` means what a link points to. */
const followed = (text: string, options: CopyOptions): boolean => options.followLink || /\/\.?$/.test(text)

const land = (place: Landing | string, shown: string): Effect.Effect<Landing, CopyFailed> =>
  typeof place === "string"
    ? Effect.fail(new CopyFailed({ path: `to ${shown}`, reason: place }))
    : Effect.succeed(place)

const shownGuest = (target: FileTarget): string => `${target.name}:${target.path}`

const warn = (skipped: ReadonlyArray<string>) =>
  Effect.forEach(skipped, (what) => say(`bunker: not copied: ${harmless(what)}`), { discard: true })

const asCopyFailed =
  (shown: string) =>
  (cause: unknown): CopyFailed =>
    cause instanceof TreeMalformed ? new CopyFailed({ path: shown, reason: cause.message }) : copyFailed(shown, cause)

/** Bytes of many small pieces as few large ones. */
const batchBytes = 262_144
async function* batched(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, void> {
  let batch: Array<Uint8Array> = []
  let bytes = 0
  for await (const piece of pieces) {
    batch.push(piece)
    bytes += piece.length
    if (bytes < batchBytes) continue
    yield Buffer.concat(batch)
    batch = []
    bytes = 0
  }
  if (bytes > 0) yield Buffer.concat(batch)
}

/** Copies a path of this machine into a sandbox. */
export const copyIn = Effect.fn("Cli.copyIn")(function* (source: string, to: FileTarget, options: CopyOptions) {
  const vms = yield* VmSupervisor
  const follow = followed(source, options)
  const stat = yield* statHere(source, follow)
  const there = yield* vms.FileStat({ ...to, follow: true }).pipe(
    Effect.map((found): Kind | undefined => (found.type === "directory" ? "directory" : "other")),
    Effect.catchTag("FileNotFound", () => Effect.succeed(undefined))
  )
  const place = yield* land(
    landing(
      { path: source, kind: stat.isDirectory() ? "directory" : "other", basename: path.basename(path.resolve(source)) },
      { path: to.path, kind: there }
    ),
    shownGuest(to)
  )
  const root = Buffer.from(place.root).toString("latin1")
  const skipped: Array<string> = []
  const records = Stream.fromAsyncIterable(
    batched(readHostTree(source, root, { follow, skipped: (what) => void skipped.push(what) })),
    asCopyFailed(source)
  )
  yield* writeGuestFile({ ...to, path: place.base, tree: true, owners: options.archive }, records)
  yield* warn(skipped)
})

/** Unpacks a tar stream on stdin below a directory of a sandbox. */
export const unpackIn = Effect.fn("Cli.unpackIn")(function* (to: FileTarget, options: CopyOptions) {
  const skipped: Array<string> = []
  const pieces = async function* () {
    let out: Array<Uint8Array> = []
    const tar = new TarToTree(
      (bytes) => void out.push(bytes),
      (what) => void skipped.push(shownName(what))
    )
    for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
      tar.push(chunk)
      yield* out
      out = []
    }
    tar.finish()
    yield* out
  }
  const records = Stream.fromAsyncIterable(batched(pieces()), asCopyFailed("the tar stream on stdin"))
  yield* writeGuestFile({ ...to, tree: true, owners: options.archive }, records)
  yield* warn(skipped)
})

/** Runs the records of a guest's tree, its root renamed, into a sink. */
const receive = Effect.fnUntraced(function* (
  from: FileTarget,
  root: string,
  options: CopyOptions,
  sink: TreeSink,
  after: () => Effect.Effect<void>
) {
  const reader = new TreeReader({
    record: (record) => sink.record(renameRecord(record, root)),
    data: (bytes) => sink.data(bytes),
    fileEnd: () => sink.fileEnd()
  })
  const attempt = (act: () => void) => Effect.try({ try: act, catch: asCopyFailed(shownGuest(from)) })
  yield* Stream.runForEach(readGuestFile({ ...from, tree: true, follow: followed(from.path, options) }), (bytes) =>
    Effect.andThen(
      attempt(() => reader.push(bytes)),
      after()
    )
  )
  yield* attempt(() => reader.finish())
})

const guestKind = Effect.fnUntraced(function* (from: FileTarget, follow: boolean) {
  const vms = yield* VmSupervisor
  const { type } = yield* vms.FileStat({ ...from, follow })
  return type === "directory" ? ("directory" as const) : ("other" as const)
})

const binary = (text: string): string => Buffer.from(text).toString("latin1")

/** Copies a path of a sandbox to this machine. */
export const copyOut = Effect.fn("Cli.copyOut")(function* (from: FileTarget, to: string, options: CopyOptions) {
  const kind = yield* guestKind(from, followed(from.path, options))
  const basename = path.posix.basename(path.posix.normalize(from.path))
  const place = yield* land(landing({ path: from.path, kind, basename }, { path: to, kind: kindHere(to) }), to)
  const writer = yield* Effect.acquireRelease(
    Effect.try({
      try: () => new HostTreeWriter(place.base, { owners: options.archive }),
      catch: (cause) => copyFailed(place.base, cause)
    }),
    (open) => Effect.sync(() => open.close())
  )
  yield* receive(from, binary(place.root), options, writer, () => Effect.void)
  yield* warn(writer.skipped)
}, Effect.scoped)

/** Writes a path of a sandbox to stdout as a tar stream. */
export const packOut = Effect.fn("Cli.packOut")(function* (from: FileTarget, options: CopyOptions) {
  let out: Array<Uint8Array> = []
  const skipped: Array<string> = []
  const tar = new TarWriter(
    (bytes) => void out.push(bytes),
    (what) => void skipped.push(shownName(what))
  )
  const flush = () =>
    Effect.suspend(() => {
      const bytes = Buffer.concat(out)
      out = []
      return bytes.length === 0 ? Effect.void : Effect.asVoid(writeAll(1, bytes))
    })
  yield* receive(from, binary(path.posix.basename(path.posix.normalize(from.path))), options, tar, flush)
  yield* warn(skipped)
})
