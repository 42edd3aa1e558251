/** Files of a guest, through a real agent process on this machine, which works on a directory of the test's own. */
import { describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect, Exit, Scope, Stream } from "effect"
import type { FileOperation } from "../../../src/domain/sandbox/guestFiles.ts"
import { collectFiles } from "../../../src/vm/guest/files.ts"
import type { GuestChannel } from "../../../src/vm/guest/GuestChannel.ts"
import { HostTreeWriter, readHostTree } from "../../../src/vm/trees/hostTree.ts"
import { bareRecord, TreeReader, type TreeRecord } from "../../../src/vm/trees/treeEntries.ts"
import { it } from "../../support/it.ts"
import { nativeAgent, scratchDirectory } from "../../support/nativeAgent.ts"

const read = (guest: GuestChannel, operation: FileOperation) =>
  Effect.scoped(
    Effect.flatMap(guest.file(operation), (file) => Effect.map(Stream.runCollect(file.output), Buffer.concat))
  )

const write = (guest: GuestChannel, operation: FileOperation, input: Stream.Stream<Uint8Array, unknown> | Uint8Array) =>
  Effect.scoped(
    Effect.gen(function* () {
      const file = yield* guest.file(operation)
      const source = input instanceof Uint8Array ? Stream.succeed(input) : input
      yield* Effect.forkScoped(
        Effect.andThen(
          Stream.runForEach(source, (bytes) => file.write(bytes)),
          file.closeInput
        )
      )
      yield* Stream.runDrain(file.output)
    })
  )

const hostTree = (source: string, root = "") =>
  Stream.fromAsyncIterable(readHostTree(source, root, { follow: false, skipped: () => {} }), (cause) => cause)

const fails = (effect: Effect.Effect<unknown, unknown, Scope.Scope>) =>
  Effect.map(
    Effect.scoped(Effect.flip(effect)),
    (error) => error as { readonly _tag: string; readonly reason?: string }
  )

/** Everything about a tree that a copy has to keep, by name. */
const describeTree = (root: string): Record<string, string> => {
  const found: Record<string, string> = {}
  const walk = (place: Buffer, name: string) => {
    const stat = fs.lstatSync(place)
    const what = stat.isDirectory()
      ? "directory"
      : stat.isSymbolicLink()
        ? `-> ${fs.readlinkSync(place)}`
        : `${stat.nlink} ${Bun.hash(fs.readFileSync(place))}`
    const mode = stat.isSymbolicLink() ? "" : (stat.mode & 0o7777).toString(8)
    found[Buffer.from(name).toString("base64url")] = `${mode} ${what} ${Math.round(stat.mtimeMs)}`
    if (!stat.isDirectory()) return
    for (const entry of fs.readdirSync(place, { encoding: "buffer" as BufferEncoding }) as unknown as Array<Buffer>) {
      walk(Buffer.concat([place, Buffer.from("/"), entry]), `${name}/${entry.toString("latin1")}`)
    }
  }
  walk(Buffer.from(root), "")
  return found
}

/** A tree with everything that is hard to copy. */
const makeTree = (root: string): void => {
  const at = (name: string | Buffer) => Buffer.concat([Buffer.from(`${root}/`), Buffer.from(name)])
  fs.mkdirSync(root, { mode: 0o750 })
  for (const name of ["a", "a/b", "empty", "closed"]) fs.mkdirSync(at(name))
  fs.writeFileSync(at("a/file"), "text")
  fs.writeFileSync(at("a/b/large"), Buffer.alloc(300_000, "0123456789"))
  fs.writeFileSync(at("a/b/nothing"), "")
  fs.writeFileSync(at("line\nbreak"), "odd")
  fs.writeFileSync(at("ünï ☃"), "text")
  fs.writeFileSync(at(Buffer.from([0x66, 0xff, 0xfe])), "not UTF-8")
  fs.writeFileSync(at("x".repeat(255)), "long")
  fs.linkSync(at("a/file"), at("a/b/same"))
  fs.symlinkSync("../nowhere", at("dangling"))
  fs.symlinkSync("/etc", at("outside"))
  fs.writeFileSync(at("closed/inside"), "x", { mode: 0o600 })
  fs.chmodSync(at("a/file"), 0o751)
  fs.utimesSync(at("a/file"), 1_000_000_000.5, 1_000_000_000.5)
  fs.lutimesSync(at("dangling"), 1_100_000_000, 1_100_000_000)
  fs.chmodSync(at("closed"), 0o500)
  fs.utimesSync(at("closed"), 1_200_000_000, 1_200_000_000)
  fs.utimesSync(at("a"), 1_300_000_000, 1_300_000_000)
}

describe("files in the guest", () => {
  it.live("are written at once, read back, looked at, listed and removed", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const root = yield* scratchDirectory
      const file = `${root}/ünï\n"file"`
      yield* write(guest, { do: "put", path: file, mode: 0o640 }, Buffer.from("one"))
      expect(fs.readFileSync(file, "utf8")).toBe("one")
      expect(fs.statSync(file).mode & 0o7777).toBe(0o640)
      expect((yield* read(guest, { do: "get", path: file })).toString()).toBe("one")
      // Replaced: the mode stays, nothing else is left.
      yield* write(guest, { do: "put", path: file }, Buffer.from("two"))
      expect(fs.statSync(file).mode & 0o7777).toBe(0o640)
      expect(fs.readdirSync(root)).toEqual([path.basename(file)])
      // Through a link: the target is written, the link stays.
      fs.symlinkSync(file, `${root}/link`)
      yield* write(guest, { do: "put", path: `${root}/link` }, Buffer.from("three"))
      expect(fs.readFileSync(file, "utf8")).toBe("three")
      expect(fs.lstatSync(`${root}/link`).isSymbolicLink()).toBe(true)

      yield* read(guest, { do: "mkdir", path: `${root}/deep/er`, recursive: true, mode: 0o711 })
      yield* read(guest, { do: "mkdir", path: `${root}/deep/er`, recursive: true })
      expect(fs.statSync(`${root}/deep/er`).mode & 0o7777).toBe(0o711)
      const listed = yield* collectFiles(root, Stream.fromEffect(read(guest, { do: "list", path: root })))
      expect(listed.map(({ name, type }) => [name, type])).toEqual([
        ["deep", "directory"],
        ["link", "symlink"],
        [path.basename(file), "file"]
      ])
      const [link] = yield* collectFiles("", Stream.fromEffect(read(guest, { do: "stat", path: `${root}/link` })))
      expect(link).toMatchObject({ type: "symlink", target: file })
      const [target] = yield* collectFiles(
        "",
        Stream.fromEffect(read(guest, { do: "stat", path: `${root}/link`, follow: true }))
      )
      expect(target).toMatchObject({ type: "file", size: 5, mode: 0o640, uid: process.getuid!() })

      yield* read(guest, { do: "remove", path: `${root}/link` })
      expect((yield* fails(read(guest, { do: "remove", path: `${root}/deep` }))).reason).toBe("not_empty")
      yield* read(guest, { do: "remove", path: `${root}/deep`, recursive: true })
      expect(fs.readdirSync(root)).toEqual([path.basename(file)])
    })
  )

  it.live("that are not there, or are something else, are refused with the reason", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const root = yield* scratchDirectory
      fs.writeFileSync(`${root}/file`, "x")
      const nothing = `${root}/nothing`
      expect((yield* fails(read(guest, { do: "get", path: nothing })))._tag).toBe("FileNotFound")
      expect((yield* fails(read(guest, { do: "stat", path: nothing })))._tag).toBe("FileNotFound")
      expect((yield* fails(read(guest, { do: "remove", path: nothing, recursive: true })))._tag).toBe("FileNotFound")
      expect((yield* fails(read(guest, { do: "pack", path: nothing })))._tag).toBe("FileNotFound")
      const empty = new Uint8Array(0)
      expect((yield* fails(write(guest, { do: "put", path: `${nothing}/x` }, empty)))._tag).toBe("FileNotFound")
      expect((yield* fails(read(guest, { do: "get", path: root }))).reason).toBe("is_directory")
      expect((yield* fails(write(guest, { do: "put", path: root }, empty))).reason).toBe("is_directory")
      expect((yield* fails(read(guest, { do: "list", path: `${root}/file` }))).reason).toBe("not_directory")
      expect((yield* fails(read(guest, { do: "mkdir", path: `${root}/file` }))).reason).toBe("exists")
      expect((yield* fails(read(guest, { do: "get", path: "/dev/zero" }))).reason).toBe("special")
      expect((yield* fails(write(guest, { do: "put", path: "/dev/null" }, empty))).reason).toBe("special")
      expect((yield* fails(read(guest, { do: "remove", path: "/", recursive: true }))).reason).toBe("failed")
      expect((yield* fails(read(guest, { do: "get", path: "relative" as never }))).reason).toBe("failed")
      expect((yield* fails(read(guest, { do: "get", path: `${root}/file`, user: "nobody-here" }))).reason).toBe(
        "bad_user"
      )
      expect(fs.readFileSync(`${root}/file`, "utf8")).toBe("x")
    })
  )

  it.live("of any size go both ways unchanged, and one that is given up leaves the old file and nothing else", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const root = yield* scratchDirectory
      const bytes = new Uint8Array(20_000_000)
      for (let at = 0; at < bytes.length; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536))
      const file = `${root}/large`
      yield* write(guest, { do: "put", path: file }, bytes)
      expect(Buffer.compare(fs.readFileSync(file), bytes)).toBe(0)
      expect(Buffer.compare(yield* read(guest, { do: "get", path: file }), bytes)).toBe(0)

      const scope = yield* Scope.make()
      const half = yield* guest.file({ do: "put", path: file }).pipe(Scope.provide(scope))
      yield* half.write(new Uint8Array(100_000))
      yield* Scope.close(scope, Exit.void)
      yield* guest.ping
      expect(Buffer.compare(fs.readFileSync(file), bytes)).toBe(0)
      expect(fs.readdirSync(root)).toEqual(["large"])
    })
  )

  it.live("are reached with the rights of the user that is named", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      if (process.getuid?.() !== 0) return console.warn("skipped: only root can become another user")
      const root = yield* scratchDirectory
      fs.chmodSync(root, 0o755)
      fs.writeFileSync(`${root}/secret`, "x", { mode: 0o600 })
      expect((yield* fails(read(guest, { do: "get", path: `${root}/secret`, user: "daemon" }))).reason).toBe(
        "permission"
      )
      expect(
        (yield* fails(write(guest, { do: "put", path: `${root}/new`, user: "1:1" }, Buffer.from("x")))).reason
      ).toBe("permission")
      fs.chmodSync(root, 0o777)
      yield* write(guest, { do: "put", path: `${root}/new`, user: "1:2" }, Buffer.from("x"))
      expect(fs.statSync(`${root}/new`)).toMatchObject({ uid: 1, gid: 2 })
    })
  )
})

describe("trees", () => {
  it.live("keep names, bytes, modes, times and links on their way into the guest and out of it", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const root = yield* scratchDirectory
      makeTree(`${root}/source`)
      fs.mkdirSync(`${root}/guest`)
      fs.mkdirSync(`${root}/back`)
      yield* write(guest, { do: "unpack", path: `${root}/guest` }, hostTree(`${root}/source`, "copy"))
      expect(describeTree(`${root}/guest/copy`)).toEqual(describeTree(`${root}/source`))
      // Again over itself: nothing changes and nothing is left over.
      yield* write(guest, { do: "unpack", path: `${root}/guest` }, hostTree(`${root}/source`, "copy"))
      expect(Object.keys(describeTree(`${root}/guest/copy`))).toEqual(Object.keys(describeTree(`${root}/source`)))

      const writer = new HostTreeWriter(`${root}/back`, { owners: false })
      const reader = new TreeReader({
        record: (record) =>
          writer.record({
            ...record,
            name: record.name === "" ? "out" : `out/${record.name}`,
            target: record.type === "link" ? `out/${record.target}` : record.target
          }),
        data: (bytes) => writer.data(bytes),
        fileEnd: () => writer.fileEnd()
      })
      reader.push(yield* read(guest, { do: "pack", path: `${root}/guest/copy` }))
      reader.finish()
      writer.close()
      expect(describeTree(`${root}/back/out`)).toEqual(describeTree(`${root}/guest/copy`))
    })
  )

  it.live("link to files of the same copy only", () =>
    Effect.gen(function* () {
      const root = yield* scratchDirectory
      fs.writeFileSync(`${root}/mine`, "of somebody else")
      const copy = (records: ReadonlyArray<TreeRecord>) => {
        const writer = new HostTreeWriter(root, { owners: false })
        try {
          for (const record of records) {
            writer.record(record)
            if (record.type === "file") writer.fileEnd()
          }
        } finally {
          writer.close()
        }
      }
      const made = [bareRecord("file", "first"), bareRecord("link", "second", "first")]
      copy(made)
      expect(fs.statSync(`${root}/first`).nlink).toBe(2)
      expect(() => copy([bareRecord("link", "alias", "mine")])).toThrow("this copy did not make it")
      // Nor to what an earlier copy made, or to what has replaced a file of this one.
      expect(() => copy([bareRecord("link", "third", "first")])).toThrow("this copy did not make it")
      const replaced = [...made, bareRecord("symlink", "first", "mine"), bareRecord("link", "fourth", "first")]
      expect(() => copy(replaced)).toThrow("this copy did not make it")
      expect(fs.readdirSync(root).toSorted()).toEqual(["first", "mine", "second"])
      expect(fs.statSync(`${root}/mine`).nlink).toBe(1)
    })
  )

  it.live("follow no link in the guest but the one that names the destination", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const root = yield* scratchDirectory
      for (const name of ["elsewhere", "destination", "source", "source/sub"]) fs.mkdirSync(`${root}/${name}`)
      fs.writeFileSync(`${root}/source/sub/file`, "x")
      fs.symlinkSync("../elsewhere", `${root}/destination/sub`)
      const into = (name: string) => write(guest, { do: "unpack", path: `${root}/${name}` }, hostTree(`${root}/source`))
      expect((yield* fails(into("destination"))).reason).toBe("not_directory")
      fs.rmSync(`${root}/destination/sub`)
      fs.symlinkSync("destination", `${root}/link`)
      yield* into("link")
      expect(fs.readFileSync(`${root}/destination/sub/file`, "utf8")).toBe("x")
      expect(fs.readdirSync(`${root}/elsewhere`)).toEqual([])
    })
  )

  it.live("that are malformed or cut off end with an error", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const root = yield* scratchDirectory
      const unpack = (bytes: Uint8Array) => fails(write(guest, { do: "unpack", path: root }, bytes))
      expect((yield* unpack(new Uint8Array(0))).reason).toBe("bad_stream")
      expect((yield* unpack(Buffer.alloc(1000, "x"))).reason).toBe("bad_stream")
      expect(fs.readdirSync(root)).toEqual([])
    })
  )
})
