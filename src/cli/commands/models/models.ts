/** `model add|ls|show|pull|status|drop|rm`: the registry of models and the cache of their files. */

import path from "node:path"
import { Clock, Effect, Option, Schema, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { ModelCache } from "../../../actors/models/ModelCache.ts"
import { InvalidInput } from "../../../domain/errors/plugin.ts"
import { ModelCacheReport, ModelEntry, ModelEvent, ModelReplacement, ModelSpec } from "../../../domain/model/model.ts"
import { harmless } from "../../../domain/terminalText.ts"
import { fromWire, toWire, wireIssues } from "../../../domain/wire.ts"
import { withBunker } from "../../context.ts"
import {
  ExitWith,
  forEachName,
  formatAge,
  formatBytes,
  onTerminal,
  print,
  printJson,
  say,
  table,
  writeAll
} from "../../terminal/output.ts"

const jsonFlag = Flag.Boolean("json").pipe(Flag.withDescription("Print JSON"), Flag.withDefault(false))
const quietFlag = (description: string) =>
  Flag.Boolean("quiet").pipe(Flag.withAlias("q"), Flag.withDescription(description), Flag.withDefault(false))
const text = (name: string, description: string) =>
  Flag.String(name).pipe(Flag.withDescription(description), Flag.optional)
const repeated = (name: string, description: string) =>
  Flag.String(name).pipe(Flag.withDescription(description), Flag.atLeast(0))
const name = Argument.String("name").pipe(Argument.withDescription("Model"))
const names = name.pipe(Argument.atLeast(1))

/** A field when it was given. */
const given = <V>(field: string, value: Option.Option<V>): Readonly<Record<string, V>> =>
  Option.isSome(value) ? { [field]: value.value } : {}

const add = Command.make(
  "add",
  {
    source: Flag.String("source").pipe(
      Flag.withDescription("hf:org/repo, https://host/file, dir:/path or oci:reference")
    ),
    revision: Flag.String("revision").pipe(
      Flag.withDescription("Branch, tag or commit; for https:// sha256:HEX pins the file; default main"),
      Flag.withDefault("main")
    ),
    task: Flag.String("task").pipe(
      Flag.withDescription("embedding, generation, classification or any; default any"),
      Flag.withDefault("any")
    ),
    engine: text("engine", "Runtime that it is meant for; default candle"),
    dimensions: Flag.Int("dimensions").pipe(
      Flag.withDescription("Length of an embedding model's vectors"),
      Flag.optional
    ),
    pullPolicy: text(
      "pull-policy",
      "never, if_missing or always: when a sandbox's start fetches it; default if_missing"
    ),
    trustRemoteCode: Flag.Boolean("allow-remote-code").pipe(
      Flag.withDescription("Record that the model's own code may run, and that you know the risk"),
      Flag.withDefault(false)
    ),
    credentialAlias: text(
      "credential",
      "Alias of the secret: environment BUNKER_HF_TOKEN_<ALIAS>, keyring or config file"
    ),
    allow: repeated("allow", "Take only files that a pattern like *.safetensors matches"),
    ignore: repeated("ignore", "Leave files that a pattern matches"),
    replace: Flag.Boolean("replace").pipe(
      Flag.withDescription("Change a model that is registered; its files stay until the next pull"),
      Flag.withDefault(false)
    ),
    json: jsonFlag,
    name
  },
  Effect.fn("Cli.modelAdd")(function* (flags) {
    const fields = {
      source: flags.source.startsWith("dir:") ? `dir:${path.resolve(flags.source.slice(4))}` : flags.source,
      revision: flags.revision,
      task: flags.task,
      ...given("engine", flags.engine),
      ...given("dimensions", flags.dimensions),
      ...given("pull_policy", flags.pullPolicy),
      ...(flags.trustRemoteCode ? { trust_policy: "allow_remote_code", acknowledge_remote_code_risk: true } : {}),
      ...given("credential_alias", flags.credentialAlias),
      ...(flags.allow.length > 0 ? { allow_patterns: flags.allow } : {}),
      ...(flags.ignore.length > 0 ? { ignore_patterns: flags.ignore } : {})
    }
    const invalid = Effect.mapError((error: Schema.SchemaError) => new InvalidInput({ issues: wireIssues(error) }))
    const body = Effect.gen(function* () {
      const models = yield* ModelCache
      const entry = flags.replace
        ? yield* models.Replace(yield* invalid(fromWire(ModelReplacement, { ...fields, target: flags.name })))
        : yield* models.Add(yield* invalid(fromWire(ModelSpec, { ...fields, name: flags.name })))
      yield* flags.json ? printJson(ModelEntry, entry) : print(entry.name)
    })
    return yield* withBunker(body)
  })
).pipe(Command.withDescription("Register a model. 'bunker model pull' fetches its files."))

const list = Command.make(
  "ls",
  { json: jsonFlag, quiet: quietFlag("Names only") },
  Effect.fn("Cli.modelList")(function* ({ json, quiet }) {
    const body = Effect.gen(function* () {
      const { models } = yield* ModelCache.use((cache) => cache.List())
      if (json) return yield* printJson(Schema.Array(ModelEntry), models)
      if (quiet) return yield* Effect.forEach(models, (each) => print(each.name), { discard: true })
      const now = yield* Clock.currentTimeMillis
      const rows = models.map((each) => [
        each.name,
        each.task,
        each.status,
        each.cacheSizeBytes === null ? "-" : formatBytes(each.cacheSizeBytes),
        each.installedAtUnixMs === null ? "-" : formatAge(each.installedAtUnixMs, now),
        each.source
      ])
      yield* print(table(["MODEL", "TASK", "STATUS", "SIZE", "INSTALLED", "SOURCE"], rows))
    })
    return yield* withBunker(body)
  })
).pipe(Command.withDescription("List the registered models."))

const show = Command.make(
  "show",
  { json: jsonFlag, name },
  Effect.fn("Cli.modelShow")(function* ({ name }) {
    const entry = yield* withBunker(ModelCache.use((cache) => cache.Get({ name })))
    yield* printJson(ModelEntry, entry)
  })
).pipe(Command.withDescription("Print a model's registry entry as JSON."))

const percent = (bytes: number, total: number): string =>
  total === 0 ? "100 %" : `${Math.floor((bytes / total) * 100)} %`

/** Shows a pull: JSON lines, a line that is drawn over, or two plain lines. */
const showPull = <E>(stream: Stream.Stream<ModelEvent, E>, style: "json" | "quiet" | "words") =>
  Stream.runForEach(stream, (event) => {
    if (style === "json") return print(JSON.stringify(toWire(ModelEvent, event)))
    if (style === "quiet") return Effect.void
    const live = onTerminal() && process.env["TERM"] !== "dumb"
    switch (event._tag) {
      case "Resolved":
        return say(`${event.name}: ${event.files} file(s), ${formatBytes(event.totalSizeBytes)} from ${event.source}`)
      case "Progress": {
        const { bytes, totalSizeBytes, files } = event
        if (!live) return Effect.void
        const line = `  ${percent(bytes, totalSizeBytes)}  ${formatBytes(bytes)} of ${formatBytes(totalSizeBytes)}, ${files} file(s) done`
        return Effect.asVoid(writeAll(2, `\r\x1b[K${line}`))
      }
      case "Done":
        return Effect.asVoid(writeAll(2, `${live ? "\r\x1b[K" : ""}  installed in ${harmless(event.cacheDir)}\n`))
    }
  })

const pull = Command.make(
  "pull",
  {
    from: text("from", "Take the files from this directory in place of the model's source"),
    credentialAlias: text("credential", "Alias of the secret, in place of the entry's"),
    json: Flag.Boolean("json").pipe(Flag.withDescription("Print events as JSON lines"), Flag.withDefault(false)),
    quiet: quietFlag("No progress"),
    name: names
  },
  Effect.fn("Cli.modelPull")(function* (flags) {
    const options = {
      ...given(
        "fixtureDir",
        Option.map(flags.from, (directory) => path.resolve(directory))
      ),
      ...given("credentialAlias", flags.credentialAlias)
    }
    const style = flags.json ? "json" : flags.quiet ? "quiet" : "words"
    const body = Effect.gen(function* () {
      const models = yield* ModelCache
      yield* forEachName(flags.name, (each) =>
        Effect.gen(function* () {
          yield* showPull(models.Pull({ name: each, ...options }), style)
          if (!flags.json) yield* print(each)
        })
      )
    })
    return yield* withBunker(body)
  })
).pipe(Command.withDescription("Fetch the files of models into the cache, checked and whole or not at all."))

const status = Command.make(
  "status",
  {
    verify: Flag.Boolean("verify").pipe(Flag.withDescription("Read and hash every file"), Flag.withDefault(false)),
    json: jsonFlag,
    name
  },
  Effect.fn("Cli.modelStatus")(function* ({ verify, json, name }) {
    const request = { name, verify: verify ? ("full" as const) : ("quick" as const) }
    const report = yield* withBunker(ModelCache.use((cache) => cache.Status(request)))
    if (json) yield* printJson(ModelCacheReport, report)
    else {
      const detail = report.detail === undefined ? "" : `: ${report.detail}`
      const size = report.status === "missing" ? "" : `, ${formatBytes(report.footprintBytes)} in ${report.cacheDir}`
      yield* print(`${report.status}${detail}${size}`)
    }
    if (report.status === "unhealthy") return yield* new ExitWith({ code: 1 })
  })
).pipe(Command.withDescription("Say what is in the cache of a model; ends with 1 when something is wrong with it."))

const drop = Command.make(
  "drop",
  { name: names },
  Effect.fn("Cli.modelDrop")(function* (flags) {
    const body = ModelCache.use((models) =>
      forEachName(flags.name, (each) =>
        Effect.andThen(models.Drop({ name: each }), ({ removed }) =>
          removed ? print(each) : say(`bunker: there were no files of "${each}"`)
        )
      )
    )
    return yield* withBunker(body)
  })
).pipe(Command.withDescription("Remove models' files and keep their entries."))

const remove = Command.make(
  "rm",
  { name: names },
  Effect.fn("Cli.modelRemove")(function* (flags) {
    const body = ModelCache.use((models) =>
      forEachName(flags.name, (each) => Effect.andThen(models.Remove({ name: each }), print(each)))
    )
    return yield* withBunker(body)
  })
).pipe(Command.withDescription("Remove models, files and entries. Refused while a sandbox mounts one."))

export const modelGroup = Command.make("model").pipe(
  Command.withDescription(
    "Keep AI models once, checked, for any sandbox to mount read-only ('bunker run --model NAME')."
  ),
  Command.withShortDescription("add, ls, show, pull, status, drop, rm"),
  Command.withSubcommands([add, list, show, pull, status, drop, remove])
)
