/** An image store over a home of the test's own with the real sources, spies for its database, and a check of all that it keeps. */

import { Database as Sqlite } from "bun:sqlite"
import { existsSync, readdirSync, statSync } from "node:fs"
import path from "node:path"
import { Effect, Layer, Redacted, Stream } from "effect"
import { ImageStore } from "../../src/actors/images/ImageStore.ts"
import type { ImageSources } from "../../src/actors/images/install.ts"
import { LeaseManager } from "../../src/actors/leases/LeaseManager.ts"
import type { ImageOptions } from "../../src/domain/image/imageOptions.ts"
import { openArchive } from "../../src/oci/archive/archive.ts"
import { importSource } from "../../src/oci/archive/importRootfs.ts"
import { basicCredential, explicitCredential } from "../../src/oci/registry/credentials.ts"
import { registrySource } from "../../src/oci/registry/registry.ts"
import { Database, type Service } from "../../src/store/database/Database.ts"
import { portableXattrs } from "../../src/store/files/xattrs.ts"
import { directory, file, hardlink, imageOf, type LayoutImage, opaque, type TestImage, whiteout } from "./image.ts"
import { fsck, have } from "./mount.ts"

const quick = { attemptsMax: 2, baseDelayMs: 5, stallTimeoutMs: 5_000 }

const realSources: ImageSources = {
  registry: (reference, { login, ...request }) =>
    registrySource(reference, {
      ...request,
      retry: quick,
      ...(login === undefined
        ? {}
        : {
            credentials: explicitCredential(
              reference.domain,
              basicCredential(login.username, Redacted.value(login.password))
            )
          })
    }),
  rootfs: (place, config) => importSource(place, config, portableXattrs),
  archive: openArchive,
  login: () => Effect.die("unused"),
  logout: () => Effect.die("unused")
}

/** Keeps what a download brings however quick the network is. */
export const keepAll: Partial<ImageSources> = { spool: { heldBytes: 100_000, worthMs: 0 } }

/** One statement as a spy saw it; `transaction` for what ran inside one. */
export interface Seen {
  readonly kind: "read" | "write" | "transaction"
  readonly sql: string
}

/** The store over `home` (Paths and Database); `seen` collects its statements, `sources` replaces some of the real ones. */
export const imageStoreOver = <E>(
  home: Layer.Layer<Database | import("../../src/store/files/Paths.ts").Paths, E>,
  seen: Array<Seen> = [],
  options: ImageOptions = {},
  sources: Partial<ImageSources> = {}
) => {
  const spied = Layer.effect(
    Database,
    Database.use((db) => Effect.succeed(spyOn(db, seen)))
  ).pipe(Layer.provideMerge(home))
  return ImageStore.layer(() => Promise.resolve({ ...realSources, ...sources }), options).pipe(
    Layer.provideMerge(LeaseManager.layer),
    Layer.provideMerge(spied)
  )
}

const spyOn = (db: Service, seen: Array<Seen>): Service => ({
  ...db,
  all: (sql, parameters) => {
    seen.push({ kind: "read", sql })
    return db.all(sql, parameters)
  },
  get: (sql, parameters) => {
    seen.push({ kind: "read", sql })
    return db.get(sql, parameters)
  },
  run: (sql, parameters) => {
    seen.push({ kind: "write", sql })
    return db.run(sql, parameters)
  },
  transaction: (body) =>
    db.transaction((tx) => {
      seen.push({ kind: "transaction", sql: "BEGIN" })
      return body(tx)
    })
})

/** Pulls and answers every event. */
export const pullAll = (request: {
  readonly reference: string
  readonly policy: "if-missing" | "always" | "never"
  readonly platform?: { readonly os: string; readonly architecture: string }
}) => ImageStore.use((store) => Effect.map(Stream.runCollect(store.Pull(request)), (events) => [...events]))

export const loadAll = (request: { readonly path: string; readonly tag?: string }) =>
  ImageStore.use((store) => Effect.map(Stream.runCollect(store.Load(request)), (events) => [...events]))

/** Bytes that do not compress, the same for the same seed. */
export const noise = (bytes: number, seed: number): Buffer => {
  const out = Buffer.alloc(bytes)
  let state = seed >>> 0 || 1
  for (let i = 0; i + 4 <= bytes; i += 4) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    out.writeUInt32LE(state >>> 0, i)
  }
  return out
}

const base = [
  directory("a"),
  file("a/one", "one"),
  file("a/two", "two"),
  hardlink("a/three", "a/one"),
  directory("b"),
  file("b/x", "x")
]
/** Two images over one base layer; the first with a whiteout, an opaque directory and hard links. */
export const first: TestImage = imageOf([base, [whiteout("a/two"), opaque("b"), file("b/y", "y")], [file("c", "c")]], {
  config: { Env: ["A=b"], Labels: { made: "here" }, User: "1:2", WorkingDir: "/a", ExposedPorts: { "80/tcp": {} } }
})
export const second: TestImage = imageOf([base, [file("d", "d")]])
/** Holds one layer twice. */
export const repeating: TestImage = imageOf([[file("e", "e")], [file("f", "f")], [file("e", "e")]])

export const layoutOf = (image: TestImage): LayoutImage => ({ top: image.manifest, blobs: image.blobs })

const namesIn = (directory: string): ReadonlyArray<string> => (existsSync(directory) ? readdirSync(directory) : [])

/**
 * Everything that is wrong in a home: references without files, records without files, files without records, temporary files,
 * images that fsck.erofs refuses. Empty when all is well.
 */
export const problemsIn = (home: string): ReadonlyArray<string> => {
  const problems: Array<string> = []
  const cache = (...parts: ReadonlyArray<string>) => path.join(home, "cache", ...parts)
  const hex = (digest: string) => digest.slice("sha256:".length)
  const sqlite = new Sqlite(path.join(home, "bunker.db"), { readonly: true })
  try {
    const layers = sqlite.query("SELECT diff_id, erofs_size_bytes AS bytes FROM layer").all() as Array<{
      diff_id: string
      bytes: number
    }>
    const manifests = sqlite.query("SELECT id, digest FROM manifest").all() as Array<{ id: number; digest: string }>
    const orphans = sqlite
      .query("SELECT diff_id FROM layer WHERE id NOT IN (SELECT layer_id FROM manifest_layer)")
      .all() as Array<{ diff_id: string }>
    for (const { diff_id } of orphans) problems.push(`layer row ${diff_id} belongs to no image`)
    for (const { diff_id, bytes } of layers) {
      const found = statSync(cache("layers", `${hex(diff_id)}.erofs`), { throwIfNoEntry: false })?.size
      if (found !== bytes) problems.push(`layer ${diff_id} has ${found} bytes in place of ${bytes}`)
      else if (have("fsck.erofs")) attempt(problems, () => fsck(cache("layers", `${hex(diff_id)}.erofs`)))
    }
    for (const { id, digest } of manifests) {
      if (!existsSync(cache("vmdk", `${hex(digest)}.vmdk`))) problems.push(`manifest ${digest} has no vmdk`)
      const fsmeta = cache("fsmeta", `${hex(digest)}.erofs`)
      const own = sqlite
        .query(
          "SELECT l.diff_id FROM manifest_layer j JOIN layer l ON l.id = j.layer_id WHERE manifest_id = ? ORDER BY position"
        )
        .all(id) as Array<{ diff_id: string }>
      const devices = [...new Set(own.map((row) => cache("layers", `${hex(row.diff_id)}.erofs`)))]
      if (!existsSync(fsmeta)) problems.push(`manifest ${digest} has no fsmeta`)
      else if (have("fsck.erofs")) attempt(problems, () => fsck(fsmeta, devices))
    }
    const named = new Set([...layers.map((row) => hex(row.diff_id)), ...manifests.map((row) => hex(row.digest))])
    for (const place of ["layers", "fsmeta", "vmdk", "locks"]) {
      for (const name of namesIn(cache(place))) {
        if (!named.has(name.slice(0, 64))) problems.push(`${place}/${name} has no record`)
      }
    }
    for (const name of namesIn(cache("tmp"))) problems.push(`tmp/${name} was left`)
  } finally {
    sqlite.close()
  }
  return problems
}

const attempt = (problems: Array<string>, check: () => unknown): void => {
  try {
    check()
  } catch (cause) {
    problems.push(String(cause))
  }
}
