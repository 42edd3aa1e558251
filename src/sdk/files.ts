/**
 * Reads, writes, lists and copies files of a running sandbox from a Bun program. Opens a file of this machine only to copy it in or out.
 */

import { Effect, Stream } from "effect"
import type * as Trees from "../actors/copying/copyTree.ts"
import { readGuestFile, writeGuestFile } from "../actors/copying/fileTransfer.ts"
import type { FileTarget } from "../actors/copying/treeStream.ts"
import { VmSupervisor } from "../actors/sandboxes/VmSupervisor.ts"
import { OutputTooLarge } from "../domain/errors/vm.ts"
import type { GuestFile } from "../domain/sandbox/guestFiles.ts"
import { type PutFile, RemoteFiles } from "./remote.ts"
import { iterate, type Runtime, run } from "./runtime.ts"

export interface FileOptions {
  /** User of the guest whose rights count: `name`, `uid`, `name:group` or `uid:gid`; default: root. */
  readonly user?: string
}

export interface ReadFileOptions extends FileOptions {
  /** Most bytes that are held; default 256 MiB. */
  readonly bytesMax?: number
}

export interface WriteFileOptions extends FileOptions {
  /** Permission bits, at most 0o7777; default: the replaced file's, else 0o644. */
  readonly mode?: number
}

export interface StatOptions extends FileOptions {
  /** What a link points to instead of the link; default false. */
  readonly follow?: boolean
}

export interface RemoveOptions extends FileOptions {
  /** Everything below a directory, too; default false. */
  readonly recursive?: boolean
}

export interface MkdirOptions extends FileOptions {
  /** Permission bits, at most 0o7777; default 0o755. */
  readonly mode?: number
  /** Missing parents, too, and an existing directory is fine; default false. */
  readonly recursive?: boolean
}

export interface CopyTreeOptions extends FileOptions {
  /** Keeps owners, and setuid and setgid bits of what comes out; default false: what is made is the user's own. */
  readonly owners?: boolean
  /** Copies what the source points to where it is a link itself; default false. */
  readonly followLink?: boolean
}

/** Bytes of a file that are held in memory unless more are asked for. */
const readBytesMax = 256 * 1024 * 1024

const reading = "read it as it comes with files.readStream(), or allow more with bytesMax"

/** Files of one running sandbox. Paths are absolute; every failure is one of the tagged errors, like `FileNotFound`. */
export class Files {
  constructor(
    private readonly runtime: Runtime,
    private readonly name: string
  ) {}

  /** The bytes of a file, in memory as a whole. Rejects with `OutputTooLarge` for one with more than `bytesMax`: see `readStream`. */
  async read(path: string, options: ReadFileOptions = {}): Promise<Uint8Array> {
    const { name } = this
    const { bytesMax = readBytesMax, ...how } = options
    const pieces: Array<Uint8Array> = []
    let bytes = 0
    const take = (piece: Uint8Array) => {
      bytes += piece.length
      if (bytes > bytesMax) return Effect.fail(new OutputTooLarge({ bytesMax, advice: reading }))
      return Effect.sync(() => void pieces.push(piece))
    }
    await run(this.runtime, Stream.runForEach(readGuestFile({ name, path, ...how }), take))
    return Buffer.concat(pieces)
  }

  /** The bytes of a file as they come; leaving the loop ends the reading. */
  async *readStream(path: string, options: FileOptions = {}): AsyncGenerator<Uint8Array, void, void> {
    yield* iterate(this.runtime, readGuestFile({ name: this.name, path, ...options }))
  }

  /** Replaces a file at once when all of it has come: text as UTF-8. A source that fails leaves what was there. */
  async write(
    path: string,
    source: string | Uint8Array | AsyncIterable<Uint8Array>,
    options: WriteFileOptions = {}
  ): Promise<void> {
    const bytes = typeof source === "string" ? new TextEncoder().encode(source) : source
    const stream =
      bytes instanceof Uint8Array ? Stream.succeed(bytes) : Stream.fromAsyncIterable(bytes, (cause) => cause)
    await run(this.runtime, writeAnywhere({ name: this.name, path, ...options }, stream))
  }

  /**
   * Copies a file or directory of this machine into the sandbox as `bunker cp` does: into `target` where that is a directory, else as
   * `target`; `source/.` means what is in it. Modes, times and links are kept. Answers what was left out, and why.
   */
  copyIn(source: string, target: string, options: CopyTreeOptions = {}): Promise<ReadonlyArray<string>> {
    return this.copy(target, options, (trees, to, how) => trees.copyIn(source, to, how, writeAnywhere))
  }

  /** Copies a file or directory of the sandbox to this machine, in the same way. No link that the guest made is followed. */
  copyOut(source: string, target: string, options: CopyTreeOptions = {}): Promise<ReadonlyArray<string>> {
    return this.copy(source, options, (trees, from, how) => trees.copyOut(from, target, how))
  }

  /** The entries of a directory, by name. */
  list(path: string, options: FileOptions = {}): Promise<ReadonlyArray<GuestFile>> {
    const { name } = this
    return run(
      this.runtime,
      VmSupervisor.use((vms) => vms.FileList({ name, path, ...options }))
    )
  }

  /** Type, size, mode, owner and time of a file. */
  stat(path: string, options: StatOptions = {}): Promise<GuestFile> {
    const { name } = this
    return run(
      this.runtime,
      VmSupervisor.use((vms) => vms.FileStat({ name, path, ...options }))
    )
  }

  /** Removes a file, a link itself, or a directory, which must be empty unless `recursive`. */
  remove(path: string, options: RemoveOptions = {}): Promise<void> {
    const { name } = this
    return run(
      this.runtime,
      VmSupervisor.use((vms) => vms.FileRemove({ name, path, ...options }))
    )
  }

  /** Makes a directory. */
  mkdir(path: string, options: MkdirOptions = {}): Promise<void> {
    const { name } = this
    return run(
      this.runtime,
      VmSupervisor.use((vms) => vms.FileMkdir({ name, path, ...options }))
    )
  }

  private copy<E>(
    path: string,
    { followLink = false, owners = false, ...user }: CopyTreeOptions,
    work: (
      trees: typeof Trees,
      target: FileTarget,
      how: Trees.CopyOptions
    ) => Effect.Effect<ReadonlyArray<string>, E, VmSupervisor>
  ): Promise<ReadonlyArray<string>> {
    // What walks trees is loaded by programs that copy some.
    const copied = Effect.flatMap(
      Effect.promise(() => import("../actors/copying/copyTree.ts")),
      (trees) => work(trees, { name: this.name, path, ...user }, { archive: owners, followLink })
    )
    return run(this.runtime, copied)
  }
}

/** Writes with messages to the keeper, or with one request where that is a server's. */
const writeAnywhere = <E>(request: PutFile, stream: Stream.Stream<Uint8Array, E>) =>
  Effect.flatMap(RemoteFiles, (put) => (put === undefined ? writeGuestFile(request, stream) : put(request, stream)))
