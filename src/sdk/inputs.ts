/**
 * The types of what programs give, as schemas: a program in plain JavaScript hears of a wrong one as `InvalidSpec`, which names the
 * field, before anything is done. Bounds are the actors' to check.
 */
import { Result, Schema } from "effect"
import { InvalidSpec } from "../domain/errors/vm.ts"
import { snakeCase, wireIssues } from "../domain/wire.ts"
import { thrown } from "./thrown.ts"

const { Array: List, Boolean, Number, Record, String, Struct, Unknown, optionalKey, Union } = Schema
const Texts = List(String)
const Variables = Record(String, String)
const Limits = List(Struct({ resource: String, soft: Number, hard: optionalKey(Number) }))
const callback = Schema.declare((value): value is () => void => typeof value === "function", {
  expected: "a function"
})
const signal = Schema.declare((value): value is AbortSignal => value instanceof AbortSignal, {
  expected: "an AbortSignal"
})
const pattern = Schema.declare((value): value is RegExp => value instanceof RegExp, { expected: "a RegExp" })

const place = {
  home: optionalKey(String),
  nativeDir: optionalKey(String),
  server: optionalKey(Struct({ url: String, token: optionalKey(String) })),
  log: optionalKey(callback)
}

const Command = Union([String, Texts])

/** `SandboxOptions`. */
export const CreateInput = Struct({
  ...place,
  image: String,
  pull: optionalKey(String),
  platform: optionalKey(Unknown),
  insecure: optionalKey(Boolean),
  name: optionalKey(String),
  persistent: optionalKey(Boolean),
  start: optionalKey(Boolean),
  replace: optionalKey(Boolean),
  cpus: optionalKey(Number),
  memoryMb: optionalKey(Number),
  diskMb: optionalKey(Number),
  hostname: optionalKey(String),
  env: optionalKey(Variables),
  workdir: optionalKey(String),
  user: optionalKey(String),
  command: optionalKey(Texts),
  entrypoint: optionalKey(Union([Texts, Schema.Literal("image")])),
  endsWithCommand: optionalKey(Boolean),
  tty: optionalKey(Boolean),
  openStdin: optionalKey(Boolean),
  mounts: optionalKey(List(Struct({ source: String, target: String, readOnly: optionalKey(Boolean) }))),
  tmpfs: optionalKey(List(Struct({ target: String, sizeMb: optionalKey(Number) }))),
  ports: optionalKey(List(Struct({ guestPort: Number, hostPort: optionalKey(Number), hostIp: optionalKey(String) }))),
  network: optionalKey(Record(String, Unknown)),
  secrets: optionalKey(List(Record(String, Unknown))),
  rlimits: optionalKey(Limits),
  restart: optionalKey(Struct({ policy: String, attemptsMax: optionalKey(Number) })),
  models: optionalKey(List(Struct({ name: String, target: optionalKey(String) }))),
  engine: optionalKey(String),
  session: optionalKey(String),
  labels: optionalKey(Variables),
  maxDurationMs: optionalKey(Number),
  idleTimeoutMs: optionalKey(Number),
  ready: optionalKey(
    Struct({
      port: optionalKey(Number),
      log: optionalKey(Union([String, pattern])),
      command: optionalKey(Command),
      timeoutMs: optionalKey(Number)
    })
  ),
  signal: optionalKey(signal),
  onProgress: optionalKey(callback)
})

/** A command with its options. */
export const ExecInput = Struct({
  command: Command,
  env: optionalKey(Variables),
  cwd: optionalKey(String),
  user: optionalKey(String),
  rlimits: optionalKey(Limits),
  stdin: optionalKey(Unknown),
  timeoutMs: optionalKey(Number),
  signal: optionalKey(signal),
  outputBytesMax: optionalKey(Number),
  check: optionalKey(Boolean),
  tty: optionalKey(Struct({ cols: Number, rows: Number })),
  openStdin: optionalKey(Boolean)
})

/** Options that were given as undefined were not given. */
const givenOf = (value: unknown): unknown =>
  typeof value === "object" && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined))
    : value

/** Throws `InvalidSpec` for the first field that has another type, or that there is none of. */
export const checkInput = (schema: Schema.Top, value: unknown): void => {
  const checked = Schema.decodeUnknownResult(schema as Schema.Codec<unknown>)(givenOf(value), {
    onExcessProperty: "error"
  })
  if (Result.isSuccess(checked)) return
  const [{ path, message } = { path: "", message: "not valid" }] = wireIssues(checked.failure)
  const names = Object.keys((schema as unknown as { readonly fields: object }).fields)
  const [first = "", ...rest] = path.split(".")
  const field = [names.find((name) => snakeCase(name) === first) ?? first, ...rest].join(".")
  throw thrown(new InvalidSpec({ field: field === "" ? "options" : field, reason: message }))
}
