/**
 * Looks after the cache's files: tells which images are whole, stitches layers into disks, removes what no record names.
 * Part of ImageStore; fetches nothing and writes no records.
 *
 * Invariants: a file of a digest appears and goes only under that digest's file lock; under it, a layer's file without a record
 * belongs to nobody, and a manifest's files to whoever has a record or a live lease of the manifest.
 */

import fs from "node:fs"
import path from "node:path"
import { Clock, Effect } from "effect"
import { reach } from "../../domain/failpoint.ts"
import { Digest } from "../../domain/image/digest.ts"
import { CollectReport, type LayerInfo } from "../../domain/image/image.ts"
import { layerUuid, mergedUuid, readSeal } from "../../oci/erofs/seal.ts"
import { vmdkDescriptor } from "../../oci/erofs/vmdk.ts"
import { Database, type DatabaseError } from "../../store/database/Database.ts"
import { type Collected, collectOrphans, namedResources, wantsManifest } from "../../store/database/imageCollection.ts"
import { layerBytes } from "../../store/database/images.ts"
import {
  attemptFile,
  diskUsage,
  type FileError,
  ingest,
  isLeftover,
  readText,
  removeBelow,
  writeAtomic
} from "../../store/files/files.ts"
import { fileLock, isLocked, tryFileLock, unlinkHeldLock } from "../../store/files/lock.ts"
import { Paths } from "../../store/files/Paths.ts"

/** Most entries of one directory that a sweep looks at. */
const sweepEntriesMax = 100_000
/** A block of EROFS: every file that a disk is made of is a whole number of them. */
const blockBytes = 4096

const digestPattern = /^([0-9a-f]{64})\.(?:erofs|vmdk|json|lock)$/

/** What is kept of a download that was cut, by the diff id of its layer; see `Paths.partial`. */
const partPattern = /^([0-9a-f]{64})\.[0-9a-f]{16}\.part$/

const sizeOf = (file: string): number | undefined => fs.statSync(file, { throwIfNoEntry: false })?.size

/** What a removal did, or in a dry run would do; counts files. */
interface Tally {
  layers: number
  fsmetas: number
  vmdks: number
  documents: number
  temporaries: number
  bytes: number
}

export const makeImageFiles = Effect.gen(function* () {
  const db = yield* Database
  const paths = yield* Paths

  /** True when the file of a layer has the length that its record says, and a sound superblock of this layer. */
  const isWhole = (layer: Pick<LayerInfo, "diffId" | "erofsSizeBytes">): boolean => {
    const seal = readSeal(paths.layerImage(layer.diffId))
    return seal?.bytes === layer.erofsSizeBytes && seal.uuid === layerUuid(layer.diffId)
  }

  const haveLayer = Effect.fnUntraced(function* (diffId: Digest) {
    const recorded = yield* layerBytes(db, diffId)
    return recorded !== undefined && isWhole({ diffId, erofsSizeBytes: recorded })
  })

  /** The descriptor that a manifest's disk must have, as far as its parts are there. */
  const expectedDescriptor = (manifest: Digest, diffIds: ReadonlyArray<Digest>): string | undefined => {
    const files = [paths.fsmeta(manifest), ...new Set(diffIds.map((diffId) => paths.layerImage(diffId)))]
    const extents = files.map((file) => ({ path: file, bytes: sizeOf(file) ?? 0 }))
    if (extents.some(({ bytes }) => bytes === 0 || bytes % blockBytes !== 0)) return undefined
    return vmdkDescriptor(path.dirname(paths.vmdk(manifest)), extents)
  }

  /** True when fsmeta and descriptor are there and fit each other and the layers, by lengths and by fsmeta's superblock. */
  const isAssembled = (manifest: Digest, diffIds: ReadonlyArray<Digest>): boolean => {
    if (readSeal(paths.fsmeta(manifest))?.uuid !== mergedUuid(diffIds.map(layerUuid))) return false
    const expected = expectedDescriptor(manifest, diffIds)
    return expected !== undefined && readText(paths.vmdk(manifest)) === expected
  }

  /**
   * Stitches layers into fsmeta and descriptor unless they are there. The caller holds a lease or a record of the manifest; since
   * the look is under the lock too, nobody removes what it found.
   */
  const assemble = Effect.fn("ImageStore.assemble")(function* (manifest: Digest, diffIds: ReadonlyArray<Digest>) {
    yield* fileLock(paths.lockFile(manifest))
    if (isAssembled(manifest, diffIds)) return
    const fsmeta = paths.fsmeta(manifest)
    const layers = diffIds.map((diffId) => paths.layerImage(diffId))
    // Boots of images that are assembled do not need it.
    const { buildFsmeta } = yield* Effect.promise(() => import("../../oci/erofs/fsmeta.ts"))
    const { bytes, extents } = yield* ingest(
      paths.temporary,
      fsmeta,
      (temporary) => Effect.tap(buildFsmeta(layers, temporary), () => reach("fsmeta.built")),
      { kind: "fsmeta" }
    )
    const vmdk = paths.vmdk(manifest)
    // The first extent is fsmeta itself, under the temporary name that it was built with.
    const disk = vmdkDescriptor(path.dirname(vmdk), [{ path: fsmeta, bytes }, ...extents.slice(1)])
    yield* writeAtomic(vmdk, disk, { temporaryDirectory: paths.temporary, kind: "vmdk" }).pipe(
      // Fsmeta alone is of no use to anybody.
      Effect.onError(() => Effect.sync(() => fs.rmSync(fsmeta, { force: true })))
    )
  }, Effect.scoped)

  const removal = (dryRun: boolean) => {
    const tally: Tally = { layers: 0, fsmetas: 0, vmdks: 0, documents: 0, temporaries: 0, bytes: 0 }
    /** Files that a dry run has counted. */
    const counted = new Set<string>()

    const take = (kind: keyof Omit<Tally, "bytes">, file: string) =>
      attemptFile("remove", file, () => {
        const bytes = diskUsage(file)
        if (counted.has(file) || fs.lstatSync(file, { throwIfNoEntry: false }) === undefined) return
        if (dryRun) counted.add(file)
        else fs.rmSync(file, { recursive: true, force: true })
        tally.bytes += bytes
        tally[kind] += 1
      }).pipe(Effect.tap(() => reach("collect.file-removed")))

    /** Removes a digest's files and its lock file, unless somebody is busy with them or wants them. */
    const reclaim = <E>(
      digest: Digest,
      wanted: Effect.Effect<boolean, E>,
      files: Effect.Effect<void, FileError>
    ): Effect.Effect<void, E | FileError> =>
      Effect.gen(function* () {
        if (dryRun) return yield* files
        const lock = paths.lockFile(digest)
        // A holder is making the file anew: then there is nothing to remove.
        if (!(yield* tryFileLock(lock)) || (yield* wanted)) return
        yield* files
        yield* unlinkHeldLock(lock)
      }).pipe(Effect.scoped)

    const wanted = (manifest: Digest) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => wantsManifest(db, manifest, now))
    const recorded = (diffId: Digest) => Effect.map(layerBytes(db, diffId), (bytes) => bytes !== undefined)

    const manifest = (digest: Digest) =>
      reclaim(
        digest,
        wanted(digest),
        take("vmdks", paths.vmdk(digest)).pipe(
          Effect.andThen(take("fsmetas", paths.fsmeta(digest))),
          Effect.andThen(take("documents", paths.documents(digest)))
        )
      )
    const layer = (diffId: Digest) => reclaim(diffId, recorded(diffId), take("layers", paths.layerImage(diffId)))

    return { tally, take, manifest, layer, reclaim, wanted, recorded }
  }

  /** Removes the files of rows that a collection has deleted. */
  const removeFiles = Effect.fn("ImageStore.removeFiles")(function* (gone: Collected) {
    const { tally, manifest, layer } = removal(false)
    yield* reach("collect.deleted")
    yield* Effect.forEach(gone.manifests, manifest, { discard: true })
    yield* Effect.forEach(gone.layers, layer, { discard: true })
    return toReport(gone, tally)
  })

  /** Removes what no reference, sandbox or live lease needs: rows, then files. */
  const collectUnused = Effect.gen(function* () {
    yield* removeFiles(yield* collectOrphans(db, yield* Clock.currentTimeMillis))
  })

  const digestsIn = (directory: string): ReadonlyArray<Digest> =>
    entriesOf(directory).flatMap((name) => {
      const hex = digestPattern.exec(name)?.[1]
      return hex === undefined ? [] : [Digest.make(`sha256:${hex}`)]
    })

  /** Removes temporary files whose maker is dead, and those that are a day old. */
  const sweepTemporary = Effect.fnUntraced(function* () {
    const now = yield* Clock.currentTimeMillis
    const leftovers = entriesOf(paths.temporary).filter((name) => isLeftover(path.join(paths.temporary, name), now))
    yield* Effect.forEach(leftovers, (name) => removeBelow(paths.temporary, path.join(paths.temporary, name)), {
      discard: true
    })
  })

  /** The same for the files of deleted rows, then for every file of the cache that no record names. */
  const removeAndSweep = Effect.fn("ImageStore.sweep")(function* (gone: Collected, dryRun: boolean) {
    const { tally, take, manifest, layer, reclaim, wanted, recorded } = removal(dryRun)
    yield* reach("collect.deleted")
    yield* Effect.forEach(gone.manifests, manifest, { discard: true })
    yield* Effect.forEach(gone.layers, layer, { discard: true })
    const named = tally.layers
    const strays = <E extends DatabaseError>(
      digests: ReadonlyArray<Digest>,
      wants: (digest: Digest) => Effect.Effect<boolean, E>,
      remove: (digest: Digest) => Effect.Effect<void, E | FileError>
    ) =>
      Effect.forEach(
        digests,
        (digest) => Effect.flatMap(wants(digest), (kept) => (kept ? Effect.void : remove(digest))),
        { discard: true }
      )
    yield* strays(digestsIn(paths.layers), recorded, layer)
    yield* strays([...new Set([...digestsIn(paths.fsmetas), ...digestsIn(paths.vmdks)])], wanted, manifest)
    if (!dryRun) {
      const either = (digest: Digest) =>
        Effect.flatMap(recorded(digest), (kept) => (kept ? Effect.succeed(true) : wanted(digest)))
      yield* strays(digestsIn(paths.locks), either, (digest) => reclaim(digest, either(digest), Effect.void))
    }
    const now = yield* Clock.currentTimeMillis
    for (const name of entriesOf(paths.temporary)) {
      const file = path.join(paths.temporary, name)
      const partOf = partPattern.exec(name)?.[1]
      const abandoned = partOf !== undefined && !isLocked(paths.lockFile(Digest.make(`sha256:${partOf}`)))
      if (abandoned || isLeftover(file, now)) yield* take("temporaries", file)
    }
    return toReport(gone, tally, tally.layers - named)
  })

  /**
   * Removes files of the cache that no record names and no live lease wants, at most `most` of them: what a process left behind
   * that died between deleting rows and files, or between publishing and recording. One look at each directory when there are none.
   */
  const sweepStrays = Effect.fn("ImageStore.sweepStrays")(function* (most: number) {
    const named = new Set(yield* namedResources(db))
    const { layer, manifest, reclaim, recorded, wanted } = removal(false)
    const strays = (directory: string) => digestsIn(directory).filter((digest) => !named.has(digest))
    const either = (digest: Digest) =>
      Effect.flatMap(recorded(digest), (kept) => (kept ? Effect.succeed(true) : wanted(digest)))
    // Each removal looks at the records again, under the file's lock.
    const removals = [
      ...strays(paths.layers).map(layer),
      ...[...new Set([...strays(paths.fsmetas), ...strays(paths.vmdks)])].map(manifest),
      ...strays(paths.locks).map((digest) => reclaim(digest, either(digest), Effect.void))
    ]
    yield* Effect.forEach(removals.slice(0, most), (remove) => remove, { discard: true })
  })

  const countFiles = (
    directory: string
  ): Effect.Effect<{ readonly count: number; readonly bytes: number }, FileError> =>
    attemptFile("read", directory, () => ({ count: fs.readdirSync(directory).length, bytes: diskUsage(directory) }))

  return {
    isWhole,
    haveLayer,
    isAssembled,
    assemble,
    removeFiles,
    removeAndSweep,
    collectUnused,
    sweepStrays,
    sweepTemporary,
    countFiles
  }
})

export type ImageFiles = Effect.Success<typeof makeImageFiles>

/** Names in a directory, at most as many as a sweep looks at; none when it can not be read. */
const entriesOf = (directory: string): ReadonlyArray<string> => {
  const names: Array<string> = []
  try {
    const entries = fs.opendirSync(directory)
    try {
      for (let entry = entries.readSync(); entry !== null && names.length < sweepEntriesMax; entry = entries.readSync())
        names.push(entry.name)
    } finally {
      entries.closeSync()
    }
  } catch {
    // Nothing to sweep.
  }
  return names
}

const toReport = (gone: Collected, tally: Tally, strayLayers = 0) => {
  const files = tally.layers + tally.fsmetas + tally.vmdks + tally.documents + tally.temporaries
  return new CollectReport({
    image_refs_removed: gone.references,
    manifests_removed: gone.manifests.length,
    layers_removed: gone.layers.length + strayLayers,
    fsmeta_removed: tally.fsmetas,
    vmdk_removed: tally.vmdks,
    ...(files === 0 ? {} : { bytes_reclaimed: tally.bytes })
  })
}
