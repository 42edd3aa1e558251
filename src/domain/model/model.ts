/**
 * Says what a model's registry entry is, how an installed model is described on disk, and what a pull reports. Pure: fetches
 * nothing and touches no files.
 */
import { Effect, Schema, SchemaGetter } from "effect"
import { InvalidModelName } from "../errors/model.ts"

/** A model's name: 1 to 128 of `A-Z a-z 0-9 _ -`, starting with a letter or `_`; it can stand in a path. */
export const ModelName = Schema.String.check(
  Schema.isPattern(/^[A-Za-z_][A-Za-z0-9_-]{0,127}$/, {
    expected: "1 to 128 of A-Z a-z 0-9 _ -, starting with a letter or _"
  })
).pipe(Schema.brand("ModelName"))
export type ModelName = typeof ModelName.Type

const isModelName = Schema.is(ModelName)

/** Parses a name at the door. */
export const parseModelName = (name: string): Effect.Effect<ModelName, InvalidModelName> =>
  isModelName(name) ? Effect.succeed(name) : Effect.fail(new InvalidModelName({ model: name }))

const textMax = 2048
const noWhiteSpace = Schema.isPattern(/^\S+$/, { expected: "text without white space" })

/** `hf:org/repo`, `https://…`, `dir:/path` or `oci:reference`. Plain HTTP is for loopback only. */
const Source = Schema.String.check(
  Schema.isMaxLength(textMax),
  noWhiteSpace,
  Schema.isPattern(
    /^(hf:(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]*(\/[A-Za-z0-9._-]+)?|https:\/\/.+|http:\/\/(localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])(:\d{1,5})?\/.+|dir:\/.*|oci:.+)$/,
    { expected: "hf:org/repo, https://…, dir:/path or oci:reference" }
  )
)

const Revision = Schema.String.check(Schema.isMaxLength(textMax), noWhiteSpace)
const Token = Schema.String.check(Schema.isMaxLength(128), noWhiteSpace)

/** Names a secret; never is one. */
export const CredentialAlias = Schema.String.check(
  Schema.isPattern(/^[A-Za-z0-9_-]{1,128}$/, { expected: "1 to 128 of A-Z a-z 0-9 _ -" })
)

const Patterns = Schema.Array(Schema.String.check(Schema.isMinLength(1), Schema.isMaxLength(256))).check(
  Schema.isMaxLength(100)
)

const Task = Schema.Literals(["embedding", "generation", "classification", "any"])

/** When a pull fetches: `never` only by hand, `if_missing` for a sandbox that wants it, `always` at each start of one. */
const ModelPullPolicy = Schema.Literals(["never", "if_missing", "always"])
export type ModelPullPolicy = typeof ModelPullPolicy.Type

const oldPolicyNames: Readonly<Record<string, ModelPullPolicy>> = {
  manual: "never",
  on_demand: "if_missing",
  eager: "always"
}

/** The policy under its own and its old names (`manual`, `on_demand`, `eager`), in any case. */
const PullPolicyInput = Schema.String.pipe(
  Schema.decodeTo(ModelPullPolicy, {
    decode: SchemaGetter.transform((text: string) => {
      const lower = text.toLowerCase()
      return (Object.hasOwn(oldPolicyNames, lower) ? oldPolicyNames[lower] : lower) as ModelPullPolicy
    }),
    encode: SchemaGetter.passthrough({ strict: false })
  })
)

const TrustPolicy = Schema.Literals(["disabled", "allow_remote_code"])

/** The fields of an entry that its owner chooses; what is absent has the default of the comment. */
const chosen = {
  /** Default `local`. */
  provider: Schema.optionalKey(Schema.Literal("local")),
  source: Source,
  /** For `hf:` a branch, tag or commit; a branch or tag is resolved once, at the pull. */
  revision: Revision,
  task: Task,
  /** The runtime that it is meant for: recorded, not run here. Default `candle`. */
  engine: Schema.optionalKey(Token),
  /** Length of the vectors of an embedding model. */
  dimensions: Schema.optionalKey(
    Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_536 }, { expected: "an integer between 1 and 65536" }))
  ),
  /** Default `if_missing`. */
  pullPolicy: Schema.optionalKey(PullPolicyInput),
  /** Default `disabled`. */
  trustPolicy: Schema.optionalKey(TrustPolicy),
  /** Must be true for `allow_remote_code`. */
  acknowledgeRemoteCodeRisk: Schema.optionalKey(Schema.Boolean),
  credentialAlias: Schema.optionalKey(CredentialAlias),
  /** Files to take, absent for all. */
  allowPatterns: Schema.optionalKey(Patterns),
  /** Files to leave, over `allowPatterns`. */
  ignorePatterns: Schema.optionalKey(Patterns)
} as const

interface Together {
  readonly task: string
  readonly dimensions?: number
  readonly trustPolicy?: string
  readonly acknowledgeRemoteCodeRisk?: boolean
}

/** What must hold between fields. */
const together = Schema.makeFilter((spec: Together) => {
  const issues: Array<Schema.FilterIssue> = []
  if (spec.task === "embedding" && spec.dimensions === undefined) {
    issues.push({ path: ["dimensions"], issue: "an embedding model needs the length of its vectors" })
  }
  if (spec.trustPolicy === "allow_remote_code" && spec.acknowledgeRemoteCodeRisk !== true) {
    const issue = 'trust_policy "allow_remote_code" lets the model\'s own code run; it must be true to allow that'
    issues.push({ path: ["acknowledgeRemoteCodeRisk"], issue })
  }
  return issues
})

/** What registers a model. */
export const ModelSpec = Schema.Struct({ name: ModelName, ...chosen }).check(together)
export type ModelSpec = typeof ModelSpec.Type

/** What replaces an entry: `target` is the model, `name`, where given, must be the same. */
export const ModelReplacement = Schema.Struct({
  target: ModelName,
  name: Schema.optionalKey(ModelName),
  ...chosen
}).check(together)
export type ModelReplacement = typeof ModelReplacement.Type

/** Whether the files of an entry's source, revision and patterns are in the cache, as far as the registry knows. */
const EntryStatus = Schema.Literals(["registered", "installed"])

/** One registered model. Times are unix milliseconds. */
export class ModelEntry extends Schema.Class<ModelEntry>("ModelEntry")({
  name: ModelName,
  provider: Schema.String,
  source: Schema.String,
  revision: Schema.String,
  task: Task,
  engine: Schema.String,
  dimensions: Schema.NullOr(Schema.Int),
  pullPolicy: ModelPullPolicy,
  trustPolicy: TrustPolicy,
  acknowledgeRemoteCodeRisk: Schema.Boolean,
  credentialAlias: Schema.NullOr(Schema.String),
  allowPatterns: Schema.NullOr(Schema.Array(Schema.String)),
  ignorePatterns: Schema.NullOr(Schema.Array(Schema.String)),
  status: EntryStatus,
  createdAtUnixMs: Schema.Int,
  updatedAtUnixMs: Schema.Int,
  /** Directory of the newest install. */
  cacheDir: Schema.NullOr(Schema.String),
  installedAtUnixMs: Schema.NullOr(Schema.Int),
  cacheSizeBytes: Schema.NullOr(Schema.Int),
  /** The commit, digest or revision that was installed. */
  resolvedRevision: Schema.NullOr(Schema.String)
}) {}

/** The chosen fields with their defaults filled in. */
export const withDefaults = (spec: Omit<ModelSpec, "name">) => ({
  provider: spec.provider ?? "local",
  source: spec.source,
  revision: spec.revision,
  task: spec.task,
  engine: spec.engine ?? "candle",
  dimensions: spec.dimensions ?? null,
  pullPolicy: spec.pullPolicy ?? ("if_missing" as const),
  trustPolicy: spec.trustPolicy ?? ("disabled" as const),
  acknowledgeRemoteCodeRisk: spec.acknowledgeRemoteCodeRisk ?? false,
  credentialAlias: spec.credentialAlias ?? null,
  allowPatterns: spec.allowPatterns ?? null,
  ignorePatterns: spec.ignorePatterns ?? null
})
export type ChosenFields = ReturnType<typeof withDefaults>

type Contents = Pick<ChosenFields, "source" | "revision" | "allowPatterns" | "ignorePatterns">

/** True when two entries mean the same files. */
export const sameContents = (a: Contents, b: Contents): boolean =>
  JSON.stringify([a.source, a.revision, a.allowPatterns, a.ignorePatterns]) ===
  JSON.stringify([b.source, b.revision, b.allowPatterns, b.ignorePatterns])

/** One file of an installed model. */
export const ModelFile = Schema.Struct({
  /** Relative to the payload, `/`-separated. */
  path: Schema.String,
  /** 64 hexadecimal digits. */
  sha256: Schema.String,
  sizeBytes: Schema.Int
})
export type ModelFile = typeof ModelFile.Type

/** `manifest.json` of an install, beside its payload directory; on disk in the names of the wire. */
export class ModelManifest extends Schema.Class<ModelManifest>("ModelManifest")({
  name: Schema.String,
  source: Schema.String,
  revision: Schema.String,
  resolvedRevision: Schema.NullOr(Schema.String),
  task: Schema.String,
  engine: Schema.String,
  dimensions: Schema.NullOr(Schema.Int),
  installedAtUnixMs: Schema.Int,
  totalSizeBytes: Schema.Int,
  /** Sorted by path. */
  files: Schema.Array(ModelFile)
}) {}

/** What a pull reports, in this order; files interleave. */
export const ModelEvent = Schema.TaggedUnion({
  /** What will be fetched is known. */
  Resolved: {
    name: Schema.String,
    source: Schema.String,
    resolvedRevision: Schema.NullOr(Schema.String),
    files: Schema.Int,
    totalSizeBytes: Schema.Int
  },
  /** Bytes so far, over all files. At most ten a second. */
  Progress: { files: Schema.Int, bytes: Schema.Int, totalSizeBytes: Schema.Int },
  /** Installed and recorded, or found to be so; the last event. */
  Done: {
    ok: Schema.Literal(true),
    name: Schema.String,
    status: Schema.Literal("installed"),
    cacheDir: Schema.String,
    manifest: ModelManifest
  }
})
export type ModelEvent = typeof ModelEvent.Type

export class ModelList extends Schema.Class<ModelList>("ModelList")({
  ok: Schema.Literal(true),
  count: Schema.Int,
  /** By name. */
  models: Schema.Array(ModelEntry)
}) {}

/** What is in the cache of one model. */
export class ModelCacheReport extends Schema.Class<ModelCacheReport>("ModelCacheReport")({
  ok: Schema.Literal(true),
  name: Schema.String,
  status: Schema.Literals(["missing", "installed", "unhealthy"]),
  cacheDir: Schema.String,
  manifest: Schema.optionalKey(ModelManifest),
  /** What is wrong, for `unhealthy`. */
  detail: Schema.optionalKey(Schema.String),
  /** Bytes of the files on disk. */
  footprintBytes: Schema.Int
}) {}

export class ModelDropped extends Schema.Class<ModelDropped>("ModelDropped")({
  ok: Schema.Literal(true),
  name: Schema.String,
  /** True when there was something to remove. */
  removed: Schema.Boolean,
  status: Schema.Literal("registered")
}) {}

export class ModelRemoved extends Schema.Class<ModelRemoved>("ModelRemoved")({
  ok: Schema.Literal(true),
  name: Schema.String,
  /** True when there were files to remove. */
  removed: Schema.Boolean
}) {}

const secretKeys: ReadonlySet<string> = new Set([
  "api_key",
  "apikey",
  "api_token",
  "token",
  "auth_token",
  "bearer_token",
  "password",
  "secret",
  "hf_token",
  "huggingface_token",
  "huggingface_api_key"
])

/** Path of the first key in a JSON value, at any depth and in any case, that is meant for a secret; undefined for none. */
export const plaintextCredential = (value: unknown): string | undefined => {
  const waiting: Array<readonly [string, unknown]> = [["", value]]
  // A queue and not a recursion: how deep the value goes is its sender's choice.
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const [path, item] = next
    if (typeof item !== "object" || item === null) continue
    for (const [key, inner] of Object.entries(item)) {
      const here = path === "" ? key : `${path}.${key}`
      if (!Array.isArray(item) && secretKeys.has(key.toLowerCase())) return here.slice(-500)
      waiting.push([here, inner])
    }
  }
  return undefined
}
