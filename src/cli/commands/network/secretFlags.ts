/** The flags by which `run` and `create` give a sandbox secrets, and where their values come from. Takes no value from an argument. */
import fs from "node:fs"
import { Effect, Redacted } from "effect"
import { Flag } from "effect/cli"
import { InvalidSpec } from "../../../domain/errors/vm.ts"
import { parseSecret, type SecretBinding, secretBytesMax, valueProblem } from "../../../domain/network/secrets.ts"
import { readSecret } from "../../terminal/prompt.ts"

const repeated = (name: string, description: string) =>
  Flag.String(name).pipe(Flag.withDescription(description), Flag.atLeast(0))

export const secretFlags = {
  secret: repeated(
    "secret",
    "NAME=HOST[,HOST...][:header|basic|query]: requests to these hosts get the value; the guest has a placeholder in $NAME"
  ),
  secretFrom: repeated(
    "secret-from",
    "NAME=env:VARIABLE, file:PATH, store:NAME or stdin; default: your variable NAME, else the store's NAME"
  )
}

/** Words among them after which a value follows. */
export const valuedSecretFlags = ["--secret", "--secret-from"] as const

export interface ParsedSecrets {
  readonly secret: ReadonlyArray<string>
  readonly secretFrom: ReadonlyArray<string>
}

/** What a sandbox is told of its secrets: which there are, and the values that it has of its own. */
export interface GivenSecrets {
  readonly secrets: ReadonlyArray<SecretBinding>
  readonly values: Readonly<Record<string, Redacted.Redacted<string>>>
}

/** What a file holds, without the end of its last line. */
export const readSecretFile = (field: string, file: string): Effect.Effect<Redacted.Redacted<string>, InvalidSpec> =>
  Effect.try({
    try: () => {
      if (fs.statSync(file).size > secretBytesMax + 2) throw Object.assign(new Error(), { code: "EFBIG" })
      return Redacted.make(fs.readFileSync(file, "utf8").replace(/\r?\n$/, ""))
    },
    catch: (cause) =>
      new InvalidSpec({
        field,
        reason: `${file} can not be read: ${(cause as NodeJS.ErrnoException).code ?? "no file"}`
      })
  })

const fromField = "--secret-from"

/** `NAME=SOURCE`, by name. */
const sourcesOf = Effect.fnUntraced(function* (texts: ReadonlyArray<string>, names: ReadonlyArray<string>) {
  const sources = new Map<string, string>()
  for (const text of texts) {
    const [name = ""] = text.split("=", 1)
    const source = text.slice(name.length + 1)
    if (!names.includes(name)) {
      return yield* new InvalidSpec({
        field: fromField,
        reason: "it names no secret of --secret; write NAME=env:VARIABLE, NAME=file:PATH, NAME=store:NAME or NAME=stdin"
      })
    }
    if (!/^(?:env:.+|file:.+|store:[A-Za-z_][A-Za-z0-9_]*|stdin)$/s.test(source)) {
      // What is there may be a value that somebody typed.
      return yield* new InvalidSpec({
        field: fromField,
        reason: `${name} comes from env:VARIABLE, file:PATH, store:NAME or stdin; a value is never typed there`
      })
    }
    sources.set(name, source)
  }
  return sources
})

type Value = Redacted.Redacted<string> | { readonly store: string }

const valueOf = Effect.fnUntraced(function* (
  name: string,
  source: string | undefined,
  env: Readonly<Record<string, string | undefined>>
) {
  if (source === undefined) {
    const own = env[name]
    return (own === undefined ? { store: name } : Redacted.make(own)) as Value
  }
  const [kind = "", rest = ""] = [source.split(":", 1)[0], source.slice(source.indexOf(":") + 1)]
  if (kind === "store") return { store: rest } as Value
  if (kind === "file") return (yield* readSecretFile(fromField, rest)) as Value
  if (kind === "stdin")
    return (yield* Effect.mapError(
      readSecret,
      (error) => new InvalidSpec({ field: fromField, reason: error.message })
    )) as Value
  const value = env[rest]
  if (value === undefined) {
    return yield* new InvalidSpec({ field: fromField, reason: `there is no variable ${rest.slice(0, 64)}` })
  }
  return Redacted.make(value) as Value
})

/** The secrets that were asked for; `env` is this program's environment. */
export const readSecrets = Effect.fnUntraced(function* (
  parsed: ParsedSecrets,
  env: Readonly<Record<string, string | undefined>>
): Effect.fn.Return<GivenSecrets, InvalidSpec> {
  const bindings: Array<SecretBinding> = []
  for (const text of parsed.secret) {
    const binding = parseSecret(text)
    if (typeof binding === "string") return yield* new InvalidSpec({ field: "--secret", reason: binding })
    bindings.push(binding)
  }
  const sources = yield* sourcesOf(
    parsed.secretFrom,
    bindings.map(({ name }) => name)
  )
  const secrets: Array<SecretBinding> = []
  const values: Record<string, Redacted.Redacted<string>> = {}
  for (const binding of bindings) {
    const value = yield* valueOf(binding.name, sources.get(binding.name), env)
    if (!Redacted.isRedacted(value)) {
      secrets.push({ ...binding, store: value.store })
      continue
    }
    const problem = valueProblem(Redacted.value(value))
    if (problem !== undefined) {
      return yield* new InvalidSpec({
        field: "--secret",
        reason: `the value of ${binding.name} can not be used: ${problem}`
      })
    }
    secrets.push(binding)
    values[binding.name] = value
  }
  return { secrets, values }
})
