/** `cp`: files and trees between this machine and a sandbox. */
import { Effect } from "effect"
import { Argument, Command } from "effect/cli"
import { InvalidSpec } from "../../../domain/errors/vm.ts"
import { withBunker } from "../../context.ts"
import { flag } from "../../flags.ts"

const wrong = (reason: string) => new InvalidSpec({ field: "cp", reason })

export const cp = Command.make(
  "cp",
  {
    archive: flag("archive", "a", "Keep owners, and setuid and setgid bits of what comes out"),
    followLink: flag("follow-link", "L", "Copy what SOURCE points to where it is a link"),
    source: Argument.String("source").pipe(
      Argument.withDescription("NAME:PATH, a path of this machine, or - for a tar stream")
    ),
    destination: Argument.String("destination").pipe(Argument.withDescription("The same"))
  },
  Effect.fn("Cli.cp")(function* ({ archive, followLink, source, destination }) {
    // What it takes is loaded for this command only.
    const { copyIn, copyOut, packOut, parseEndpoint, unpackIn } = yield* Effect.promise(() => import("../../copy.ts"))
    const [from, to] = [parseEndpoint(source), parseEndpoint(destination)]
    const options = { archive, followLink }
    const body = Effect.gen(function* () {
      if (from._tag === "Guest" && to._tag === "Guest") {
        return yield* wrong("one side must be a path of this machine; pipe it: 'bunker cp A:/x - | bunker cp - B:/'")
      }
      if (from._tag === "Guest") {
        const target = { name: from.name, path: from.path }
        return yield* to._tag === "Here" ? copyOut(target, to.path, options) : packOut(target, options)
      }
      if (to._tag === "Guest") {
        const target = { name: to.name, path: to.path }
        return yield* from._tag === "Here" ? copyIn(from.path, target, options) : unpackIn(target, options)
      }
      return yield* wrong("one side must be in a sandbox: NAME:PATH")
    })
    return yield* withBunker(body)
  })
).pipe(
  Command.withDescription(
    "Copy files and directories between this machine and a running sandbox: into DESTINATION where that is a directory, else as DESTINATION. SOURCE/. copies what is in a directory. Modes, times and links are kept."
  ),
  Command.withShortDescription("Copy files to or from a sandbox"),
  Command.withExamples([
    { command: "bunker cp ./src box:/work", description: "Copy a directory into a sandbox" },
    { command: "bunker cp box:/work/out/. ./out", description: "Copy what is in a directory out of it" },
    { command: "bunker cp box:/etc - | tar tv", description: "Look at a directory as a tar stream" }
  ])
)
