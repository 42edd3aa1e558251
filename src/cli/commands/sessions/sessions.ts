/** `session ls|show|create|commit|…`: what agents remember, listed, drawn, changed and moved between machines. */

import { Clock, Effect, Option, Schema } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { SessionStore } from "../../../actors/sessions/SessionStore.ts"
import {
  CollectionReport,
  SessionGraph,
  SessionHead,
  SessionInfo,
  SessionSummary,
  VacuumReport
} from "../../../domain/session/session.ts"
import { harmless } from "../../../domain/terminalText.ts"
import { toWire } from "../../../domain/wire.ts"
import { withBunker } from "../../context.ts"
import { forEachName, formatAge, formatBytes, print, printJson, say, table } from "../../terminal/output.ts"
import { sessionBytes } from "./sessionBytes.ts"
import { printTree } from "./sessionTree.ts"

const flag = (name: string, description: string, alias?: string) => {
  const base = Flag.Boolean(name).pipe(Flag.withDescription(description), Flag.withDefault(false))
  return alias === undefined ? base : base.pipe(Flag.withAlias(alias))
}
const text = (name: string, description: string) =>
  Flag.String(name).pipe(Flag.withDescription(description), Flag.optional)
const jsonFlag = flag("json", "Print JSON")
const session = Argument.String("id").pipe(Argument.withDescription("Session"))
const sessions = session.pipe(Argument.atLeast(1))

/** The fields that were given. */
const given = <K extends string>(
  fields: Readonly<Record<K, Option.Option<string>>>
): { readonly [key in K]?: string } =>
  Object.fromEntries(
    Object.entries<Option.Option<string>>(fields).flatMap(([key, value]) =>
      Option.isSome(value) ? [[key, value.value]] : []
    )
  ) as { readonly [key in K]?: string }

const shorten = (words: string, max: number): string => (words.length > max ? `${words.slice(0, max - 1)}…` : words)

const ls = Command.make(
  "ls",
  {
    json: jsonFlag,
    quiet: flag("quiet", "Ids only", "q"),
    limit: Flag.Int("limit").pipe(
      Flag.withAlias("n"),
      Flag.withDescription("Show this many, 1 to 1000; default 100"),
      Flag.withDefault(100)
    ),
    offset: Flag.Int("offset").pipe(Flag.withDescription("Leave out so many; default 0"), Flag.withDefault(0))
  },
  Effect.fn("Cli.sessionList")(function* ({ json, quiet, limit, offset }) {
    const window = { limit: Math.min(1000, Math.max(1, limit)), offset: Math.max(0, offset) }
    const found = yield* withBunker(SessionStore.use((store) => store.List(window)))
    if (json) return yield* printJson(Schema.Array(SessionSummary), found)
    if (quiet) return yield* Effect.forEach(found, (each) => print(harmless(each.sessionId)), { discard: true })
    const now = yield* Clock.currentTimeMillis
    const rows = found.map((each) => [
      harmless(each.sessionId),
      each.problem === null ? String(each.headRevision) : "?",
      each.problem === null ? String(each.userMessageCount) : "?",
      formatAge(each.updatedAt, now),
      shorten(harmless(each.cwd ?? "-"), 40),
      each.problem === null ? shorten(harmless(each.title ?? each.firstUserMessage ?? ""), 60) : "(can not be read)"
    ])
    yield* print(table(["SESSION", "REVISION", "MESSAGES", "CHANGED", "DIRECTORY", "ABOUT"], rows))
    for (const { problem } of found) if (problem !== null) yield* say(`bunker: ${harmless(problem)}`)
  })
).pipe(Command.withDescription("List sessions, the last changed first."))

const show = Command.make(
  "show",
  {
    json: flag("json", "Print the record and the nodes as JSON"),
    leaf: text("leaf", "Only the path from the root to this node"),
    active: flag("active", "Only the path to the leaf", "a"),
    id: session
  },
  Effect.fn("Cli.sessionShow")(function* ({ json, leaf, active, id: sessionId }) {
    const body = Effect.gen(function* () {
      const store = yield* SessionStore
      const info = yield* store.Get({ sessionId })
      const graph = yield* store.Graph({ sessionId, active, ...given({ leaf }) })
      return { info, graph }
    })
    const { info, graph } = yield* withBunker(body)
    if (json) {
      return yield* printJson(Schema.Struct({ session: SessionInfo, graph: SessionGraph }), { session: info, graph })
    }
    yield* printTree(info, graph)
  })
).pipe(Command.withDescription("Draw a session's graph as a tree; * marks the way from the root to the leaf."))

const create = Command.make(
  "create",
  {
    cwd: text("cwd", "Directory that the session is about; default: none"),
    title: text("title", "What the list says of it"),
    parent: text("parent", "Session that it is a child of"),
    id: session.pipe(Argument.optional)
  },
  Effect.fn("Cli.sessionCreate")(function* ({ cwd, title, parent, id }) {
    const wanted = given({ cwd, title, parentSessionId: parent, sessionId: id })
    const made = yield* withBunker(SessionStore.use((store) => store.Create({ ...wanted, exclusive: true })))
    yield* print(harmless(made.sessionId))
  })
).pipe(Command.withDescription("Make an empty session and print its id."))

const branch = Command.make(
  "branch",
  { json: jsonFlag, id: session, leaf: Argument.String("node").pipe(Argument.withDescription("The new leaf")) },
  Effect.fn("Cli.sessionBranch")(function* ({ json, id: sessionId, leaf }) {
    const head = yield* withBunker(SessionStore.use((store) => store.Branch({ sessionId, leaf })))
    if (json) yield* printJson(SessionHead, head)
  })
).pipe(Command.withDescription("Move a session's leaf to another node; nothing is lost."))

const tombstone = Command.make(
  "tombstone",
  {
    id: session,
    node: Argument.String("node").pipe(Argument.withDescription("Node to hide"), Argument.atLeast(1))
  },
  Effect.fn("Cli.sessionTombstone")(function* ({ id: sessionId, node: nodeIds }) {
    yield* withBunker(SessionStore.use((store) => store.Tombstone({ sessionId, nodeIds })))
  })
).pipe(Command.withDescription("Hide nodes of a session; 'bunker session vacuum' removes them for good."))

const gc = Command.make(
  "gc",
  {
    json: flag("json", "Print a report for each as JSON lines"),
    grace: Flag.Int("grace").pipe(
      Flag.withDescription("Seconds of age below which blobs stay, for commits to come; default 600"),
      Flag.optional
    ),
    id: sessions
  },
  Effect.fn("Cli.sessionGc")(function* ({ json, grace, id }) {
    const period = Option.isSome(grace) ? { gracePeriodMs: Math.max(0, grace.value) * 1000 } : {}
    const collect = (sessionId: string) =>
      Effect.flatMap(
        SessionStore.use((store) => store.Gc({ sessionId, ...period })),
        (report) => (json ? printLine(CollectionReport, report) : print(describeReport(sessionId, report)))
      )
    yield* withBunker(forEachName(id, collect))
  })
).pipe(Command.withDescription("Delete the blobs of sessions that neither a checkpoint nor an artifact needs."))

/** One line of JSON in the names of the wire. */
const printLine = <S extends Schema.Top>(schema: S, value: S["Type"]) => print(JSON.stringify(toWire(schema, value)))

const describeReport = (id: string, report: CollectionReport): string => {
  const young = report.youngBlobCount === 0 ? "" : `, ${report.youngBlobCount} too young to go`
  return `${harmless(id)}: ${report.deletedBlobCount} deleted, ${report.retainedBlobCount} kept${young}`
}

const vacuum = Command.make(
  "vacuum",
  { json: flag("json", "Print a report for each as JSON lines"), id: sessions },
  Effect.fn("Cli.sessionVacuum")(function* ({ json, id }) {
    const clean = (sessionId: string) =>
      Effect.flatMap(
        SessionStore.use((store) => store.Vacuum({ sessionId })),
        (report) =>
          json
            ? printLine(VacuumReport, report)
            : print(
                `${harmless(sessionId)}: ${report.removedNodeCount} removed, ${formatBytes(report.reclaimedBytes)} freed`
              )
      )
    yield* withBunker(forEachName(id, clean))
  })
).pipe(Command.withDescription("Remove hidden nodes for good, and give free space back."))

const fork = Command.make(
  "fork",
  {
    json: jsonFlag,
    id: session,
    newId: Argument.String("new-id").pipe(Argument.withDescription("Default: made up"), Argument.optional)
  },
  Effect.fn("Cli.sessionFork")(function* ({ json, id: sessionId, newId }) {
    const made = yield* withBunker(
      SessionStore.use((store) => store.Fork({ sessionId, ...given({ newSessionId: newId }) }))
    )
    yield* json ? printJson(SessionInfo, made) : print(harmless(made.sessionId))
  })
).pipe(Command.withDescription("Copy a session's active path and checkpoint into a new session and print its id."))

const remove = Command.make(
  "rm",
  { id: sessions },
  Effect.fn("Cli.sessionRemove")(function* ({ id }) {
    const one = (sessionId: string) =>
      Effect.flatMap(
        SessionStore.use((store) => store.Remove({ sessionId })),
        ({ removed }) =>
          removed
            ? print(harmless(sessionId))
            : say(`bunker: there is no session "${harmless(sessionId)}"; nothing to remove`)
      )
    yield* withBunker(forEachName(id, one))
  })
).pipe(Command.withDescription("Remove sessions and all that they remember."))

export const sessionGroup = Command.make("session").pipe(
  Command.withDescription("What agents remember: graphs of nodes, checkpoints and blobs, one file a session."),
  Command.withShortDescription("ls, show, create, commit, branch, fork, gc, export, …"),
  Command.withSubcommands([ls, show, create, ...sessionBytes, branch, tombstone, fork, gc, vacuum, remove])
)
