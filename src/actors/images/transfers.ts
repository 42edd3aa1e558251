/**
 * Moves images in and out of ImageStore: from registries, archives and root file systems, and back into archives. Loaded when an
 * image is to move; answers nothing about images that are here.
 */
import { Effect } from "effect"
import { ArchiveInvalid, InvalidReference } from "../../domain/errors/image.ts"
import { reach } from "../../domain/failpoint.ts"
import { ImageEvent, type PullPolicy } from "../../domain/image/image.ts"
import { parseChanges } from "../../domain/image/imageChanges.ts"
import type { ImageOptions } from "../../domain/image/imageOptions.ts"
import { defaultPlatform, type Platform } from "../../domain/image/platform.ts"
import { canonicalReference, parseReference, type Reference, registryDomain } from "../../domain/image/reference.ts"
import { ensureDirectory, removeBelow, temporaryName } from "../../store/files/files.ts"
import { Paths } from "../../store/files/Paths.ts"
import type { ImageFiles } from "./cacheFiles.ts"
import { type ImageSources, type Login, makeInstaller } from "./install.ts"
import { type MakeWhole, makeSaver } from "./save.ts"

export interface PullRequest {
  readonly reference: string
  readonly policy: PullPolicy
  readonly platform?: Platform
  readonly insecure?: boolean
  readonly login?: Login
}

/** Names in an error about an archive. */
const namesShownMax = 8

export type Emit = (event: ImageEvent) => void

export const makeTransfers = Effect.fnUntraced(function* (
  files: ImageFiles,
  makeWhole: MakeWhole,
  sources: ImageSources,
  options: ImageOptions
) {
  const paths = yield* Paths
  const installer = yield* makeInstaller(files, sources, options)
  const save = yield* makeSaver(makeWhole)

  /** From its registry, whatever is here. */
  const pull = Effect.fnUntraced(function* (parsed: Reference, request: PullRequest, emit: Emit) {
    const source = installer.registrySource(parsed, request)
    const platform = request.platform ?? defaultPlatform
    const image = yield* installer.install(source, canonicalReference(parsed), platform, emit)
    emit(ImageEvent.cases.Done.make({ image, cached: false }))
  })

  const load = Effect.fn("ImageStore.load")(function* (
    request: { readonly path: string; readonly tag?: string; readonly platform?: Platform },
    emit: Emit
  ) {
    const tag = request.tag === undefined ? undefined : canonicalReference(yield* parseReference(request.tag))
    const archive = yield* sources.archive(request.path, { spoolDirectory: yield* spoolDirectory })
    yield* reach("load.opened")
    const named: Array<readonly [number, string]> = []
    if (tag !== undefined && archive.count > 1) {
      const names = archive.names.map((name) => name ?? "one without a name").slice(0, namesShownMax)
      return yield* new ArchiveInvalid({
        path: request.path,
        reason: `it holds ${archive.count} images (${names.join(", ")}${names.length < archive.names.length ? ", …" : ""}), and one name can not be given to all of them; leave the name out, or take one image out of it ('skopeo copy')`
      })
    }
    if (tag !== undefined) named.push([0, tag])
    else {
      for (const [index, name] of archive.names.entries()) {
        if (name !== undefined) named.push([index, canonicalReference(yield* parseReference(name))])
      }
    }
    if (named.length === 0) {
      return yield* new ArchiveInvalid({
        path: request.path,
        reason: "no image in it has a name; give one with -t NAME"
      })
    }
    for (const [index, reference] of named) {
      const platform = request.platform ?? defaultPlatform
      const image = yield* installer.install(archive.source(index), reference, platform, emit)
      emit(ImageEvent.cases.Done.make({ image, cached: false }))
    }
  }, Effect.scoped)

  const importRootfs = Effect.fn("ImageStore.import")(function* (
    request: {
      readonly path: string
      readonly reference: string
      readonly changes?: ReadonlyArray<string>
      readonly platform?: Platform
    },
    emit: Emit
  ) {
    const parsed = yield* parseReference(request.reference)
    if (parsed.digest !== undefined) {
      return yield* new InvalidReference({
        reference: request.reference,
        reason: "what is imported has its own digest"
      })
    }
    const source = sources.rootfs(request.path, yield* Effect.fromResult(parseChanges(request.changes ?? [])))
    const reference = canonicalReference(parsed)
    const image = yield* installer.install(source, reference, request.platform ?? defaultPlatform, emit)
    emit(ImageEvent.cases.Done.make({ image, cached: false }))
  })

  /** A directory for what a load inflates; a sweep takes it when this process dies. */
  const spoolDirectory = Effect.acquireRelease(
    Effect.andThen(
      files.sweepTemporary(),
      Effect.suspend(() => {
        const directory = temporaryName(paths.temporary, "load")
        return Effect.as(ensureDirectory(directory), directory)
      })
    ),
    (directory) => Effect.ignore(removeBelow(paths.temporary, directory))
  )

  const login = Effect.fnUntraced(function* (
    request: Login & { readonly registry: string; readonly insecure?: boolean }
  ) {
    const { insecure, registry, ...own } = request
    const domain = yield* registryDomain(registry)
    return yield* sources.login(domain, own, insecure === true || options.insecureRegistries?.includes(domain) === true)
  })

  const logout = (registry: string) => Effect.flatMap(registryDomain(registry), sources.logout)

  return { pull, load, importRootfs, save, login, logout, fetchAgain: installer.fetchAgain }
})
