/** `files ls|stat|mkdir|rm`: files of a running sandbox, without a shell in it. Carries none (see cp.ts). */

import { Effect, Option, Schema } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { InvalidSpec } from "../../../domain/errors/vm.ts"
import { GuestFile, GuestFilePath } from "../../../domain/sandbox/guestFiles.ts"
import { harmless } from "../../../domain/terminalText.ts"
import { withBunker } from "../../context.ts"
import { flag } from "../../flags.ts"
import { forEachName, formatBytes, print, printJson, table } from "../../terminal/output.ts"

const user = Flag.String("user").pipe(
  Flag.withAlias("u"),
  Flag.withDescription("Whose rights count: name, uid, name:group or uid:gid; default root"),
  Flag.optional
)
const json = flag("json", undefined, "Print JSON")
const name = Argument.String("name").pipe(Argument.withDescription("Running sandbox"))
const paths = Argument.String("path").pipe(Argument.withDescription("Path in the sandbox"), Argument.atLeast(1))

const isPath = Schema.is(GuestFilePath)
const isUser = Schema.is(Schema.String.check(Schema.isMaxLength(256)))
const GuestFiles = Schema.Array(GuestFile)

/** A path of the guest; as `cp` has it, one without a slash in front begins at the root. */
const target = Effect.fnUntraced(function* (box: string, text: string, given: Option.Option<string>) {
  const path = text.startsWith("/") ? text : `/${text}`
  if (!isPath(path)) {
    return yield* new InvalidSpec({ field: "path", reason: "it is longer than 4095 characters" })
  }
  if (Option.isNone(given)) return { name: box, path }
  if (!isUser(given.value)) {
    return yield* new InvalidSpec({ field: "--user", reason: "it is longer than 256 characters" })
  }
  return { name: box, path, user: given.value }
})

const letters: Readonly<Record<GuestFile["type"], string>> = {
  file: "-",
  directory: "d",
  symlink: "l",
  char: "c",
  block: "b",
  fifo: "p",
  socket: "s"
}

/** `drwxr-xr-x`, as ls(1) writes modes. */
export const formatMode = ({ type, mode }: Pick<GuestFile, "type" | "mode">): string => {
  const special = [
    [0o4000, "s"],
    [0o2000, "s"],
    [0o1000, "t"]
  ] as const
  const groups = special.map(([bit, letter], index) => {
    const bits = mode >> (6 - 3 * index)
    const executes = (bits & 1) !== 0
    const last = (mode & bit) === 0 ? (executes ? "x" : "-") : executes ? letter : letter.toUpperCase()
    return `${(bits & 4) === 0 ? "-" : "r"}${(bits & 2) === 0 ? "-" : "w"}${last}`
  })
  return `${letters[type]}${groups.join("")}`
}

const show = (files: ReadonlyArray<GuestFile>, nameOf: (file: GuestFile, index: number) => string) =>
  print(
    table(
      ["MODE", "OWNER", "SIZE", "MODIFIED", "NAME"],
      files.map((file, index) => [
        formatMode(file),
        `${file.uid}:${file.gid}`,
        formatBytes(file.size),
        new Date(file.mtimeMs).toISOString().replace(/\.\d+Z$/, "Z"),
        harmless(`${nameOf(file, index)}${file.target === undefined ? "" : ` -> ${file.target}`}`)
      ])
    )
  )

const list = Command.make(
  "ls",
  {
    json,
    quiet: flag("quiet", "q", "Names only"),
    user,
    name,
    path: Argument.String("path").pipe(Argument.withDescription("Directory; default /"), Argument.withDefault("/"))
  },
  Effect.fn("Cli.filesList")(function* (flags) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const files = yield* vms.FileList(yield* target(flags.name, flags.path, flags.user))
      if (flags.json) return yield* printJson(GuestFiles, files)
      if (flags.quiet) return yield* Effect.forEach(files, (file) => print(harmless(file.name)), { discard: true })
      yield* show(files, (file) => file.name)
    })
    return yield* withBunker(body)
  })
).pipe(Command.withDescription("List a directory of a running sandbox, by name; times are UTC."))

const stat = Command.make(
  "stat",
  { json, followLink: flag("follow-link", "L", "What PATH points to where it is a link"), user, name, path: paths },
  Effect.fn("Cli.filesStat")(function* (flags) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const found: Array<{ readonly path: string; readonly file: GuestFile }> = []
      const one = Effect.fnUntraced(function* (path: string) {
        const file = yield* vms.FileStat({
          ...(yield* target(flags.name, path, flags.user)),
          follow: flags.followLink
        })
        found.push({ path, file })
      })
      const files = () => found.map(({ file }) => file)
      const said = Effect.suspend(() =>
        flags.json
          ? printJson(GuestFiles, files())
          : found.length === 0
            ? Effect.void
            : show(files(), (_, index) => found[index]!.path)
      )
      yield* Effect.ensuring(forEachName(flags.path, one), said)
    })
    return yield* withBunker(body)
  })
).pipe(Command.withDescription("Show type, mode, owner, size and time of files of a running sandbox; times are UTC."))

const mkdir = Command.make(
  "mkdir",
  {
    parents: flag("parents", "p", "Missing parents, too, and an existing directory is fine"),
    mode: Flag.String("mode").pipe(
      Flag.withAlias("m"),
      Flag.withDescription("Permission bits, octal; default 755"),
      Flag.withDefault("755")
    ),
    user,
    name,
    path: paths
  },
  Effect.fn("Cli.filesMkdir")(function* (flags) {
    if (!/^[0-7]{1,5}$/.test(flags.mode) || Number.parseInt(flags.mode, 8) > 0o7777) {
      return yield* new InvalidSpec({
        field: "--mode",
        reason: `"${flags.mode}" is not a mode in octal; write 755 or 1777`
      })
    }
    const how = { mode: Number.parseInt(flags.mode, 8), recursive: flags.parents }
    const body = VmSupervisor.use((vms) =>
      forEachName(flags.path, (path) =>
        Effect.flatMap(target(flags.name, path, flags.user), (where) => vms.FileMkdir({ ...where, ...how }))
      )
    )
    return yield* withBunker(body)
  })
).pipe(Command.withDescription("Make directories in a running sandbox."))

const remove = Command.make(
  "rm",
  {
    recursive: flag("recursive", "r", "Directories with everything in them"),
    force: flag("force", "f", "What is not there is fine"),
    user,
    name,
    path: paths
  },
  Effect.fn("Cli.filesRemove")(function* (flags) {
    const body = VmSupervisor.use((vms) =>
      forEachName(flags.path, (path) =>
        Effect.flatMap(target(flags.name, path, flags.user), (where) =>
          vms.FileRemove({ ...where, recursive: flags.recursive }).pipe(
            Effect.catchIf(
              (error) => flags.force && error._tag === "FileNotFound",
              () => Effect.void
            )
          )
        )
      )
    )
    return yield* withBunker(body)
  })
).pipe(Command.withDescription("Remove files, links themselves, and directories, which must be empty unless -r."))

export const filesGroup = Command.make("files").pipe(
  Command.withDescription(
    "Look at files of a running sandbox, make and remove directories, without a shell in it. 'bunker cp' carries files."
  ),
  Command.withShortDescription("ls, stat, mkdir, rm"),
  Command.withSubcommands([list, stat, mkdir, remove])
)
