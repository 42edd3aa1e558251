/**
 * Files of running sandboxes: the messages of VmSupervisor about them, and what they do with the keeper. Reads and writes no
 * file of the host (see vm/trees/hostTree.ts).
 */
import { Effect, Schema, Stream } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { type FileErrors, FilePutErrors, FileReachErrors, type ReachError } from "../../domain/errors/groups.ts"
import { CopyFailed, FileFailed } from "../../domain/errors/guestIo.ts"
import { SupervisorUnreachable } from "../../domain/errors/vm.ts"
import { FileEvent, FileMode, type FileOperation, GuestFile, GuestFilePath } from "../../domain/sandbox/guestFiles.ts"
import { collectFiles } from "../../vm/guest/files.ts"
import { feedFile } from "../copying/feedFile.ts"
import type { Unreachable } from "../kit/Actor.ts"
import { makeRoutes } from "./execDirectory.ts"
import type { KeeperAddress } from "./keeperClient.ts"

const target = {
  name: Schema.String,
  path: GuestFilePath,
  /** As for commands; absent: root. */
  user: Schema.optionalKey(Schema.String.check(Schema.isMaxLength(256)))
}
const operation = Schema.Struct({ name: Schema.String, file: Schema.Int })
const flag = Schema.optionalKey(Schema.Boolean)

export const SandboxFiles = RpcGroup.make(
  /** Bytes of a file, or, with `tree`, of whatever is there as records of a tree (native/guest/README.md). */
  Rpc.make("FileRead", {
    payload: { ...target, tree: flag, follow: flag },
    success: Schema.Uint8Array,
    error: FileReachErrors,
    stream: true
  }),
  /** Replaces a file at once when its input has ended; with `tree`: makes what the records say below a directory. */
  Rpc.make("FileWrite", {
    payload: { ...target, mode: Schema.optionalKey(FileMode), tree: flag, owners: flag },
    success: FileEvent,
    error: FileReachErrors,
    stream: true
  }),
  /** The same with the bytes of a file of this machine: for doors that keep what is sent to them as a file. */
  Rpc.make("FilePut", {
    payload: { ...target, mode: Schema.optionalKey(FileMode), tree: flag, owners: flag, source: Schema.String },
    error: FilePutErrors
  }),
  /** Whatever is there as a tar stream (POSIX pax), below the last part of its path. */
  Rpc.make("TreeRead", {
    payload: { ...target, follow: flag },
    success: Schema.Uint8Array,
    error: FilePutErrors,
    stream: true
  }),
  /** Makes what a tar file of this machine says below a directory. `owners`: as recorded instead of the user's own. */
  Rpc.make("TreePut", {
    payload: { ...target, owners: flag, source: Schema.String },
    /** What was left out, and why, at most a thousand. */
    success: Schema.Struct({ skipped: Schema.Array(Schema.String) }),
    error: FilePutErrors
  }),
  Rpc.make("FileInput", { payload: { ...operation.fields, data: Schema.Uint8Array }, error: FileReachErrors }),
  Rpc.make("FileEnd", { payload: operation, error: FileReachErrors }),
  Rpc.make("FileStat", { payload: { ...target, follow: flag }, success: GuestFile, error: FileReachErrors }),
  /** The entries of a directory, by name. */
  Rpc.make("FileList", { payload: target, success: Schema.Array(GuestFile), error: FileReachErrors }),
  Rpc.make("FileRemove", { payload: { ...target, recursive: flag }, error: FileReachErrors }),
  /** `recursive`: missing parents, too, and an existing directory is fine. */
  Rpc.make("FileMkdir", {
    payload: { ...target, mode: Schema.optionalKey(FileMode), recursive: flag },
    error: FileReachErrors
  })
)

/** Names of what was left out that one answer has. */
const skippedMax = 1000

/** What knows tar is loaded by the first who wants it. */
const trees = Effect.promise(async () => ({
  copyTree: await import("../copying/copyTree.ts"),
  tarTree: await import("../copying/tarTree.ts")
}))

type Request = Omit<FileOperation, "do"> & { readonly name: string }

/** The handlers; `reach` answers the keeper of a sandbox that must be running. */
export const sandboxFileHandlers = (
  reach: (name: string, operation: string) => Effect.Effect<KeeperAddress, ReachError>
) => {
  const unreachable = (name: string) => ({
    RpcClientError: (error: { readonly message: string }) =>
      Effect.fail(new SupervisorUnreachable({ sandbox: name, reason: error.message }))
  })

  const operations = makeRoutes()
  const numberOf = (event: FileEvent) => (event._tag === "Started" ? event.file : undefined)

  const run = (what: FileOperation["do"], { name, ...rest }: Request) =>
    Stream.unwrap(
      Effect.map(reach(name, "reach files of"), (keeper) =>
        operations.follow(name, keeper, keeper.File({ do: what, ...rest }), numberOf)
      )
    ).pipe(
      Stream.catchTags({
        RpcClientError: (error) => Stream.fail(new SupervisorUnreachable({ sandbox: name, reason: error.message }))
      })
    )

  const bytes = (what: FileOperation["do"], request: Request) =>
    Stream.flatMap(run(what, request), (event) => (event._tag === "Data" ? Stream.succeed(event.data) : Stream.empty))

  const files = (what: "list" | "stat", request: Request) => collectFiles(request.path, bytes(what, request))

  const stat = (request: Request) =>
    Effect.flatMap(files("stat", request), ([found]) =>
      found === undefined
        ? Effect.fail(new FileFailed({ path: request.path, reason: "failed", detail: "the guest said nothing of it" }))
        : Effect.succeed(found)
    )

  const feedAll = Effect.fnUntraced(function* <E>(
    what: "put" | "unpack",
    request: Request,
    pieces: Stream.Stream<Uint8Array, E>
  ) {
    const keeper = yield* reach(request.name, "reach files of")
    yield* feedFile(run(what, request), keeper.FileInput, keeper.FileEnd, pieces)
  })

  const put = Effect.fn("Files.put")(function* (source: string, what: "put" | "unpack", request: Request) {
    const pieces = Stream.fromAsyncIterable(Bun.file(source).stream(), (cause) => {
      return new CopyFailed({ path: source, reason: (cause as NodeJS.ErrnoException).code ?? String(cause) })
    })
    yield* feedAll(what, request, pieces)
  })

  const pack = (request: Request) =>
    Stream.unwrap(
      Effect.map(trees, ({ copyTree, tarTree }) =>
        tarTree.tarOf(bytes("pack", request), {
          root: copyTree.rootOf(request.path),
          shown: copyTree.shownGuest(request),
          skipped: () => {}
        })
      )
    )

  const unpack = Effect.fn("Files.unpack")(function* (source: string, request: Request) {
    const { tarTree } = yield* trees
    const skipped: Array<string> = []
    const records = tarTree.recordsOf(Bun.file(source).stream(), {
      shown: "the tar stream",
      skipped: (what) => void (skipped.length < skippedMax && skipped.push(what))
    })
    yield* feedAll("unpack", request, records)
    return { skipped }
  })

  const feed = (
    { name, file }: typeof operation.Type,
    send: (keeper: KeeperAddress) => Effect.Effect<void, typeof FileErrors.Type | Unreachable>
  ) => {
    const known = operations.find(name, file)
    const keeper = known === undefined ? reach(name, "reach files of") : Effect.succeed(known)
    return Rpc.fork(Effect.flatMap(keeper, send).pipe(Effect.catchTags(unreachable(name))))
  }

  type Tree = { readonly tree?: boolean }
  return {
    FileRead: ({ tree, ...request }: Request & Tree) => Rpc.fork(bytes(tree === true ? "pack" : "get", request)),
    FilePut: ({ source, tree, ...request }: Request & Tree & { readonly source: string }) =>
      Rpc.fork(put(source, tree === true ? "unpack" : "put", request)),
    TreeRead: (request: Request) => Rpc.fork(pack(request)),
    TreePut: ({ source, ...request }: Request & { readonly source: string }) => Rpc.fork(unpack(source, request)),
    FileWrite: ({ tree, ...request }: Request & Tree) => Rpc.fork(run(tree === true ? "unpack" : "put", request)),
    FileInput: ({ data, ...to }: typeof operation.Type & { readonly data: Uint8Array }) =>
      feed(to, (keeper) => keeper.FileInput({ file: to.file, data })),
    FileEnd: (to: typeof operation.Type) => feed(to, (keeper) => keeper.FileEnd({ file: to.file })),
    FileStat: (request: Request) => Rpc.fork(stat(request)),
    FileList: (request: Request) => Rpc.fork(files("list", request)),
    FileRemove: (request: Request) => Rpc.fork(Stream.runDrain(bytes("remove", request))),
    FileMkdir: (request: Request) => Rpc.fork(Stream.runDrain(bytes("mkdir", request)))
  }
}
