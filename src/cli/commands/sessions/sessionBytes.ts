/** `session commit|put|get|export|import`: what goes into a session and comes out of it as files, stdin and stdout among them. */

import fs from "node:fs"
import path from "node:path"
import { Effect, Option } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { SessionStore } from "../../../actors/sessions/SessionStore.ts"
import { SessionFileInvalid } from "../../../domain/errors/session.ts"
import { InvalidSpec } from "../../../domain/errors/vm.ts"
import { harmless } from "../../../domain/terminalText.ts"
import { PluginHost } from "../../../plugin/PluginHost.ts"
import { attemptFile } from "../../../store/files/files.ts"
import { inputFile, toFile, toStdout } from "../../byteStreams.ts"
import { withBunker } from "../../context.ts"
import { ExitWith, formatBytes, print, say } from "../../terminal/output.ts"

const session = Argument.String("id").pipe(Argument.withDescription("Session"))
const input = (what: string) =>
  Argument.String("file").pipe(Argument.withDescription(`${what}; - is stdin, the default`), Argument.withDefault("-"))
const output = Argument.String("file").pipe(
  Argument.withDescription("File to write; - is stdout, the default unless that is a terminal"),
  Argument.withDefault("-")
)

/** Most bytes of a commit on a command line. */
const commitBytesMax = 64 * 1024 * 1024

const refuseTerminal = Effect.fnUntraced(function* (file: string) {
  if (file !== "-" || !process.stdout.isTTY) return
  yield* say("bunker: these bytes are nothing for a terminal; give a file, or pipe them on")
  return yield* new ExitWith({ code: 125 })
})

const wrongJson = (reason: string) => new InvalidSpec({ field: "commit", reason })

/** The JSON object in a file. */
const readObject = Effect.fnUntraced(function* (given: string) {
  const file = yield* inputFile(given)
  const bytes = yield* attemptFile("read", file, () =>
    fs.statSync(file).size > commitBytesMax ? undefined : fs.readFileSync(file, "utf8")
  )
  if (bytes === undefined) return yield* wrongJson(`it has more than ${formatBytes(commitBytesMax)}`)
  const value: unknown = yield* Effect.try({ try: () => JSON.parse(bytes), catch: () => wrongJson("it is not JSON") })
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  return yield* wrongJson('it is not a JSON object; write {"turn_id": "1", "expected_revision": 0, "nodes": [...]}')
})

const commit = Command.make(
  "commit",
  { id: session, file: input("JSON as POST /v1/sessions/{id}/commit takes it") },
  Effect.fn("Cli.sessionCommit")(function* ({ id, file }) {
    const body = Effect.gen(function* () {
      const payload = yield* readObject(file)
      const host = yield* PluginHost
      const reply = yield* host.send({ plugin: "sessions", message: "Commit", payload, text: { session_id: id } })
      if (reply._tag === "One") yield* print(JSON.stringify(reply.value))
    })
    return yield* withBunker(Effect.scoped(body))
  })
).pipe(
  Command.withDescription("Commit a turn: nodes, leaf, checkpoint and artifacts at once. Prints the new head as JSON.")
)

const put = Command.make(
  "put",
  {
    kind: Flag.String("kind").pipe(
      Flag.withDescription("What it is: checkpoint, tool_state, module, …; default artifact"),
      Flag.withDefault("artifact")
    ),
    id: session,
    file: input("The bytes, 64 MiB at most")
  },
  Effect.fn("Cli.sessionPut")(function* ({ kind, id: sessionId, file }) {
    if (!/^[a-z][a-z0-9_]{0,63}$/.test(kind)) {
      const reason = `"${kind}" is no kind; use a to z, 0 to 9 and _`
      return yield* new InvalidSpec({ field: "--kind", reason })
    }
    const body = Effect.gen(function* () {
      const place = yield* inputFile(file)
      const { hash } = yield* (yield* SessionStore).PutBlobFile({ sessionId, kind, file: path.resolve(place) })
      yield* print(hash)
    })
    return yield* withBunker(Effect.scoped(body))
  })
).pipe(
  Command.withDescription("Store bytes in a session and print their hash; what no commit refers to is collected later.")
)

const get = Command.make(
  "get",
  { id: session, hash: Argument.String("hash").pipe(Argument.withDescription("sha256 of the bytes")), file: output },
  Effect.fn("Cli.sessionGet")(function* ({ id: sessionId, hash, file }) {
    if (!/^[0-9a-f]{64}$/.test(hash)) {
      return yield* new InvalidSpec({ field: "hash", reason: `"${hash}" is not 64 digits of 0 to 9 and a to f` })
    }
    yield* refuseTerminal(file)
    const body = Effect.gen(function* () {
      const bytes = (yield* SessionStore).ReadBlob({ sessionId, hash })
      yield* file === "-" ? toStdout(bytes) : toFile(bytes, path.resolve(file))
    })
    return yield* withBunker(body)
  })
).pipe(Command.withDescription("Write the bytes under a hash, verified."))

const exportOut = Command.make(
  "export",
  { id: session, file: output },
  Effect.fn("Cli.sessionExport")(function* ({ id: sessionId, file }) {
    yield* refuseTerminal(file)
    const body = Effect.gen(function* () {
      const pieces = (yield* SessionStore).Export({ sessionId })
      if (file === "-") return yield* toStdout(pieces)
      const bytes = yield* toFile(pieces, path.resolve(file))
      yield* say(`${file}: ${formatBytes(bytes)}`)
    })
    return yield* withBunker(body)
  })
).pipe(Command.withDescription("Write a session as one portable file of JSON lines; hidden nodes stay behind."))

const importIn = Command.make(
  "import",
  {
    as: Flag.String("as").pipe(
      Flag.withDescription("Id of the new session; default: the one that it was exported with"),
      Flag.optional
    ),
    file: input("An export")
  },
  Effect.fn("Cli.sessionImport")(function* ({ as, file }) {
    const id = Option.isSome(as) ? { sessionId: as.value } : {}
    const body = Effect.gen(function* () {
      const place = yield* inputFile(file)
      const made = yield* (yield* SessionStore).Import({ file: path.resolve(place), ...id })
      yield* print(harmless(made.sessionId))
    }).pipe(
      Effect.mapError((error) =>
        error instanceof SessionFileInvalid && file === "-"
          ? new SessionFileInvalid({ path: "what stdin gave", lineNumber: error.lineNumber, reason: error.reason })
          : error
      )
    )
    return yield* withBunker(Effect.scoped(body))
  })
).pipe(Command.withDescription("Make a session of an exported file, everything in it verified, and print its id."))

export const sessionBytes = [commit, put, get, exportOut, importIn] as const
