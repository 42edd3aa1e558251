/**
 * Files of running sandboxes: the messages of VmSupervisor about them, and what they do with the keeper. Reads and writes no
 * file of the host (see vm/trees/hostTree.ts).
 */

import { Effect, Stream } from "effect"
import { Rpc } from "effect/rpc"
import type { FileErrors, ReachError } from "../../domain/errors/groups.ts"
import { CopyFailed, FileFailed } from "../../domain/errors/guestIo.ts"
import { SupervisorUnreachable } from "../../domain/errors/vm.ts"
import type { FileEvent, FileOperation } from "../../domain/sandbox/guestFiles.ts"
import { collectFiles } from "../../vm/guest/files.ts"
import { feedFile } from "../copying/feedFile.ts"
import { rootOf, shownGuest } from "../copying/treeStream.ts"
import type { KeeperAddress } from "../keeper/protocol.ts"
import type { Unreachable } from "../kit/Actor.ts"
import { makeRoutes } from "./execDirectory.ts"
import type { operation } from "./fileProtocol.ts"

/** Names of what was left out that one answer has. */
const skippedMax = 1000

/** What knows tar is loaded by the first who wants it. */
const trees = Effect.promise(async () => ({
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
      Effect.map(trees, ({ tarTree }) =>
        tarTree.tarOf(bytes("pack", request), {
          root: rootOf(request.path),
          shown: shownGuest(request),
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
