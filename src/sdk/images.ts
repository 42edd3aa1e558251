/**
 * Keeps images of a home directory from a Bun program: promises and async iterables over the same actor that the CLI uses. Boots
 * nothing (see Sandbox).
 */
import { Effect, Redacted, Stream } from "effect"
import { ImageStore } from "../actors/images/ImageStore.ts"
import type {
  CollectReport,
  ImageEvent,
  ImageHandle,
  ImageInspection,
  PullPolicy,
  Usage
} from "../domain/image/image.ts"
import type { Platform } from "../domain/image/platform.ts"
import { holding } from "./program/eventLoop.ts"
import { type PlaceOptions, type Runtime, run, runtimeOf } from "./runtime.ts"

export interface FetchOptions {
  /** Default: linux on this machine's CPU. */
  readonly platform?: Platform
  /** Told of each step: layers as they move, then the image. */
  readonly onEvent?: (event: ImageEvent) => void
  /** Ends the work; what it brought so far is removed. */
  readonly signal?: AbortSignal
}

export interface PullOptions extends FetchOptions {
  /** `if-missing` (default) asks no network for an image that is here whole; `always` follows a tag that moved. */
  readonly policy?: PullPolicy
  /** Plain HTTP to a registry that is not on this machine; default false. */
  readonly insecure?: boolean
  /** For this pull, before what environment and Docker's configuration have. */
  readonly login?: { readonly username: string; readonly password: string }
}

export interface ImportOptions extends FetchOptions {
  /** How the image wants to be run, in the words of a Dockerfile: `CMD ["sh"]`, `ENV A=b`, … */
  readonly changes?: ReadonlyArray<string>
}

type Store = ImageStore["Service"]

/** The images of a home directory. Dispose it when done; a second time does nothing. */
export class Images implements AsyncDisposable {
  private readonly runtime: Runtime

  constructor(options: PlaceOptions = {}) {
    this.runtime = runtimeOf(options)
  }

  /** Makes the image be here. Rejects with one of the tagged errors. */
  async pull(reference: string, options: PullOptions = {}): Promise<ImageHandle> {
    const { insecure, login, platform, policy = "if-missing" } = options
    const [image] = await this.fetch(options, (store) =>
      store.Pull({
        reference,
        policy,
        ...(platform === undefined ? {} : { platform }),
        ...(insecure === undefined ? {} : { insecure }),
        ...(login === undefined ? {} : { login: { username: login.username, password: Redacted.make(login.password) } })
      })
    )
    return image!
  }

  /** Loads an OCI layout directory, an OCI archive or a `docker save` archive; `tag` names an image that has no name. */
  load(path: string, options: FetchOptions & { readonly tag?: string } = {}): Promise<ReadonlyArray<ImageHandle>> {
    const { platform, tag } = options
    return this.fetch(options, (store) =>
      store.Load({ path, ...(tag === undefined ? {} : { tag }), ...(platform === undefined ? {} : { platform }) })
    )
  }

  /** Makes an image of a directory that holds a root file system, or of a tar of one. */
  async import(path: string, reference: string, options: ImportOptions = {}): Promise<ImageHandle> {
    const { changes = [], platform } = options
    const [image] = await this.fetch(options, (store) =>
      store.Import({ path, reference, changes, ...(platform === undefined ? {} : { platform }) })
    )
    return image!
  }

  /** An OCI archive of the images, piece by piece. An iteration that ends without a rejection gave all of it, checked. */
  async *save(first: string, ...others: ReadonlyArray<string>): AsyncGenerator<Uint8Array, void, void> {
    const context = await this.runtime.context()
    const pieces = Stream.unwrap(Effect.map(ImageStore, (store) => store.Save({ references: [first, ...others] })))
    yield* Stream.toAsyncIterableWith(pieces, context)
  }

  /** Newest first. */
  list(): Promise<ReadonlyArray<ImageHandle>> {
    return this.ask((store) => store.List())
  }

  /** Record, run configuration and layers. */
  inspect(reference: string): Promise<ImageInspection> {
    return this.ask((store) => store.Inspect({ reference }))
  }

  /** Removes a name, and what only it needed; `force` also where a sandbox is made from it, which keeps its files. */
  remove(reference: string, options: { readonly force?: boolean } = {}): Promise<CollectReport> {
    return this.ask((store) => store.Remove({ reference, force: options.force === true }))
  }

  /** Removes every image that no sandbox is made from; a dry run only says what would go. */
  prune(options: { readonly dryRun?: boolean } = {}): Promise<CollectReport> {
    return this.ask((store) => store.Prune({ dryRun: options.dryRun === true }))
  }

  /** Where the bytes of the home directory are. */
  usage(): Promise<Usage> {
    return this.ask((store) => store.Usage())
  }

  /** Checks a user name and password with a registry, and keeps them where `bunker login` does. */
  login(
    registry: string,
    login: { readonly username: string; readonly password: string }
  ): Promise<{ readonly place: string; readonly plain: boolean }> {
    const password = Redacted.make(login.password)
    return this.ask((store) => store.Login({ registry, username: login.username, password }))
  }

  /** Forgets a registry's credentials; answers whether there were any. */
  async logout(registry: string): Promise<boolean> {
    return (await this.ask((store) => store.Logout({ registry }))).forgotten
  }

  async dispose(): Promise<void> {
    await holding(this.runtime.dispose())
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }

  private ask<A, E>(message: (store: Store) => Effect.Effect<A, E>): Promise<A> {
    return run(this.runtime, Effect.flatMap(ImageStore, message))
  }

  /** Runs a message that brings images to its end, and answers them. */
  private async fetch<E>(
    options: FetchOptions,
    message: (store: Store) => Stream.Stream<ImageEvent, E>
  ): Promise<ReadonlyArray<ImageHandle>> {
    const images: Array<ImageHandle> = []
    const take = (event: ImageEvent) =>
      Effect.sync(() => {
        if (event._tag === "Done") images.push(event.image)
        options.onEvent?.(event)
      })
    const work = Effect.flatMap(ImageStore, (store) => Stream.runForEach(message(store), take))
    await run(this.runtime, work, options.signal)
    return images
  }
}
