/**
 * Copies files and trees between this machine and a sandbox, with docker's habits of naming, for every door. Follows no link that a
 * guest names, but the one that the destination itself is, and writes nothing outside the destination (see vm/trees/hostTree.ts). Blocks while it reads or writes a piece of a file here.
 */
import fs from "node:fs"
import path from "node:path"
import { Effect, Stream } from "effect"
import { CopyFailed } from "../../domain/errors/guestIo.ts"
import { copyFailed, HostTreeWriter, readHostTree } from "../../vm/trees/hostTree.ts"
import { renameRecord, TreeReader } from "../../vm/trees/treeEntries.ts"
import { VmSupervisor } from "../sandboxes/VmSupervisor.ts"
import { readGuestFile } from "./fileTransfer.ts"
import { asCopyFailed, batched, binary, type FileTarget, shownGuest } from "./treeStream.ts"

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

/** As many links as Linux follows in one path. */
const linksMax = 40
const unread = "it is a device, pipe or socket, which is not copied; read it with a command"

/** What may stand at the root of a copy: a whole copy of nothing is no success. */
const refuseSpecial = (isSpecial: boolean, shown: string): Effect.Effect<void, CopyFailed> =>
  isSpecial ? Effect.fail(new CopyFailed({ path: shown, reason: unread })) : Effect.void

/**
 * Where a file lands whose destination, as the user typed it, is a symbolic link: at the file that it names, there or not, as cp(1)
 * and docker write it. `targetOf` reads a link. Links further down, which a guest names, are followed nowhere.
 */
const throughLinks = Effect.fnUntraced(function* <E, R>(
  to: string,
  shown: string,
  targetOf: (place: string) => Effect.Effect<string | undefined, E, R>
) {
  let place = to
  for (let links = 0; links <= linksMax; links += 1) {
    const target = yield* targetOf(place)
    if (target === undefined) {
      return links === 0 ? undefined : { base: path.posix.dirname(place), root: path.posix.basename(place) }
    }
    place = target.startsWith("/") ? target : `${path.posix.dirname(place)}/${target}`
  }
  return yield* new CopyFailed({ path: `to ${shown}`, reason: "it goes through too many symbolic links" })
})

const linkHere = (place: string): Effect.Effect<string | undefined> =>
  Effect.sync(() => {
    try {
      return fs.readlinkSync(place)
    } catch {
      return undefined
    }
  })

const linkInGuest = (to: FileTarget) => (place: string) =>
  VmSupervisor.use((vms) => vms.FileStat({ ...to, path: place, follow: false })).pipe(
    Effect.map(({ target, type }) => (type === "symlink" ? target : undefined)),
    Effect.catchTag("FileNotFound", () => Effect.succeed(undefined))
  )

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

/** Copies a path of this machine into a sandbox; answers what was left out, and why. `write`: how a tree gets there. */
export const copyIn = Effect.fn("Files.copyIn")(function* <E, R>(
  source: string,
  to: FileTarget,
  options: CopyOptions,
  write: (
    to: FileTarget & { readonly tree: true; readonly owners: boolean },
    records: Stream.Stream<Uint8Array, CopyFailed>
  ) => Effect.Effect<void, E, R>
) {
  const vms = yield* VmSupervisor
  const follow = followed(source, options)
  const stat = yield* statHere(source, follow)
  const there = yield* vms.FileStat({ ...to, follow: true }).pipe(
    Effect.map((found): Kind | undefined => (found.type === "directory" ? "directory" : "other")),
    Effect.catchTag("FileNotFound", () => Effect.succeed(undefined))
  )
  yield* refuseSpecial(!stat.isDirectory() && !stat.isFile() && !stat.isSymbolicLink(), source)
  const landed = landing(
    { path: source, kind: stat.isDirectory() ? "directory" : "other", basename: path.basename(path.resolve(source)) },
    { path: to.path, kind: there }
  )
  const linked =
    stat.isFile() && there !== "directory" && typeof landed !== "string"
      ? yield* throughLinks(to.path, shownGuest(to), linkInGuest(to))
      : undefined
  const place = linked ?? (yield* land(landed, shownGuest(to)))
  const root = binary(place.root)
  const skipped: Array<string> = []
  const records = Stream.fromAsyncIterable(
    batched(readHostTree(source, root, { follow, skipped: (what) => void skipped.push(what) })),
    asCopyFailed(source)
  )
  yield* write({ ...to, path: place.base, tree: true, owners: options.archive }, records)
  return skipped
})

/** The records of a path of a sandbox. */
export const readTree = (from: FileTarget, options: CopyOptions) =>
  readGuestFile({ ...from, tree: true, follow: followed(from.path, options) })

/** What is to be copied out of a sandbox: a file, a directory or a link. */
export const sourceType = Effect.fnUntraced(function* (from: FileTarget, options: CopyOptions) {
  const vms = yield* VmSupervisor
  const { type } = yield* vms.FileStat({ ...from, follow: followed(from.path, options) })
  yield* refuseSpecial(type !== "file" && type !== "directory" && type !== "symlink", shownGuest(from))
  return type
})

/** Copies a path of a sandbox to this machine; answers what was left out, and why. */
export const copyOut = Effect.fn("Files.copyOut")(function* (from: FileTarget, to: string, options: CopyOptions) {
  const type = yield* sourceType(from, options)
  const kind = type === "directory" ? "directory" : "other"
  const basename = path.posix.basename(path.posix.normalize(from.path))
  const there = kindHere(to)
  const landed = landing({ path: from.path, kind, basename }, { path: to, kind: there })
  const follows = type === "file" && there !== "directory" && typeof landed !== "string"
  const linked = follows ? yield* throughLinks(to, to, linkHere) : undefined
  const place = linked ?? (yield* land(landed, to))
  const writer = yield* Effect.acquireRelease(
    Effect.try({
      try: () => new HostTreeWriter(place.base, { owners: options.archive }),
      catch: (cause) => copyFailed(place.base, cause)
    }),
    (open) => Effect.sync(() => open.close())
  )
  const reader = new TreeReader({
    record: (record) => writer.record(renameRecord(record, binary(place.root))),
    data: (bytes) => writer.data(bytes),
    fileEnd: () => writer.fileEnd()
  })
  const attempt = (act: () => void) => Effect.try({ try: act, catch: asCopyFailed(shownGuest(from)) })
  yield* Stream.runForEach(readTree(from, options), (bytes) => attempt(() => reader.push(bytes)))
  yield* attempt(() => reader.finish())
  return writer.skipped
}, Effect.scoped)
