/**
 * Carries values of a schema over the doors as JSON with snake_case keys, and back. Renames only what a schema names: the keys of
 * a record (labels, environments) belong to whoever wrote them. Pure.
 */
import { type Effect, Schema, SchemaAST, SchemaIssue } from "effect"

/** `manifestDigest` → `manifest_digest`; what is not camelCase stays. */
export const snakeCase = (name: string): string =>
  /^[a-z][A-Za-z0-9]*$/.test(name) ? name.replace(/(?<=[a-z0-9])[A-Z]/g, (letter) => `_${letter.toLowerCase()}`) : name

/** One thing wrong with an input: where, in the names of the wire, and what. */
export interface WireIssue {
  /** `config.memory_mb`, empty for the whole. */
  readonly path: string
  readonly message: string
}

type Fields = Readonly<Record<string, unknown>>
type AnySchema = Schema.Codec<unknown, unknown>

const isFields = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array)

const codecs = new WeakMap<object, Schema.Codec<unknown, unknown>>()
const codecOf = (schema: Schema.Top): AnySchema => {
  const known = codecs.get(schema)
  if (known !== undefined) return known
  const codec = Schema.toCodecJson(schema as AnySchema) as unknown as AnySchema
  codecs.set(schema, codec)
  return codec
}
const encodedAst = (schema: Schema.Top): SchemaAST.AST => SchemaAST.toEncoded(codecOf(schema).ast)

type Direction = "toWire" | "fromWire"

/** Names a key that must not be known inside: the inner name where the wire has another. */
const refusedKey = (key: string): string => `${key} `

const rename = (ast: SchemaAST.AST, value: unknown, direction: Direction): unknown => {
  if (SchemaAST.isSuspend(ast)) return rename(ast.thunk(), value, direction)
  if (SchemaAST.isUnion(ast)) {
    const fitting = ast.types.find((member) => fits(member, value, direction)) ?? ast.types.find(SchemaAST.isObjects)
    return fitting === undefined ? value : rename(fitting, value, direction)
  }
  if (SchemaAST.isArrays(ast) && Array.isArray(value)) {
    return value.map((item: unknown, index) => {
      const element = ast.elements[index] ?? ast.rest[0]
      return element === undefined ? item : rename(element, item, direction)
    })
  }
  if (!SchemaAST.isObjects(ast) || !isFields(value)) return value
  const inner = new Map(ast.propertySignatures.map((field) => [String(field.name), field.type]))
  const wire = new Map([...inner.keys()].map((name) => [snakeCase(name), name]))
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => {
      const name = direction === "toWire" ? key : (wire.get(key) ?? key)
      const type = inner.get(name) ?? ast.indexSignatures[0]?.type
      const renamed = type === undefined ? item : rename(type, item, direction)
      if (direction === "toWire") return [inner.has(key) ? snakeCase(key) : key, renamed]
      return [!wire.has(key) && inner.has(key) ? refusedKey(key) : name, renamed]
    })
  )
}

/** True when a value of the wire or of the schema belongs to this member of a union: by its literals and its required keys. */
const fits = (ast: SchemaAST.AST, value: unknown, direction: Direction): boolean => {
  if (SchemaAST.isSuspend(ast)) return fits(ast.thunk(), value, direction)
  if (SchemaAST.isUnion(ast)) return ast.types.some((member) => fits(member, value, direction))
  if (SchemaAST.isLiteral(ast)) return ast.literal === value
  if (SchemaAST.isArrays(ast)) return Array.isArray(value)
  if (!SchemaAST.isObjects(ast)) return !isFields(value) && !Array.isArray(value)
  if (!isFields(value)) return false
  return ast.propertySignatures.every((field) => {
    const key = direction === "toWire" ? String(field.name) : snakeCase(String(field.name))
    if (!(key in value)) return SchemaAST.isOptional(field.type)
    return !SchemaAST.isLiteral(field.type) || field.type.literal === value[key]
  })
}

/** Text (of a query, a path, a command line) as the JSON that a field of the schema expects; what does not fit stays text. */
const typed = (ast: SchemaAST.AST, text: string): unknown => {
  if (SchemaAST.isSuspend(ast)) return typed(ast.thunk(), text)
  if (SchemaAST.isUnion(ast)) {
    const found = ast.types.map((member) => typed(member, text)).find((value) => typeof value !== "string")
    return found ?? text
  }
  if (SchemaAST.isBoolean(ast)) return text === "true" ? true : text === "false" ? false : text
  if (SchemaAST.isNumber(ast)) return /^-?\d+(\.\d+)?$/.test(text) ? Number(text) : text
  return SchemaAST.isArrays(ast) || SchemaAST.isObjects(ast) ? parsed(text) : text
}

/** A list or an object written as JSON; anything else stays text, and is refused for what it is. */
const parsed = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

/** Gives texts the types that the fields of the schema have. */
export const fromText = (schema: Schema.Top, texts: Readonly<Record<string, string>>): Fields => {
  const ast = encodedAst(schema)
  const fields = new Map(
    SchemaAST.isObjects(ast) ? ast.propertySignatures.map((field) => [snakeCase(String(field.name)), field.type]) : []
  )
  return Object.fromEntries(
    Object.entries(texts).map(([key, text]) => {
      const type = fields.get(key)
      return [key, type === undefined ? text : typed(type, text)]
    })
  )
}

/** Decodes what came over the wire; unknown keys are refused. */
export const fromWire = <A>(schema: Schema.Schema<A>, value: unknown): Effect.Effect<A, Schema.SchemaError> =>
  Schema.decodeUnknownEffect(codecOf(schema) as Schema.Codec<A>)(rename(encodedAst(schema), value, "fromWire"), {
    onExcessProperty: "error",
    errors: "all"
  })

/** The same for whoever reads what a server of another version may have added to: unknown keys are left out. */
export const readWire = <A>(schema: Schema.Schema<A>, value: unknown): Effect.Effect<A, Schema.SchemaError> =>
  Schema.decodeUnknownEffect(codecOf(schema) as Schema.Codec<A>)(rename(encodedAst(schema), value, "fromWire"))

/** Encodes what goes over the wire: JSON with snake_case keys. Dies when the value is not of the schema. */
export const toWire = (schema: Schema.Top, value: unknown): unknown =>
  rename(encodedAst(schema), Schema.encodeUnknownSync(codecOf(schema))(value), "toWire")

const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1()

/** What is wrong with an input, field by field, without the input itself. */
export const wireIssues = (error: { readonly issue: SchemaIssue.Issue }): ReadonlyArray<WireIssue> =>
  formatIssue(error.issue).issues.map(({ path = [], message }) => ({
    path: path.map((key) => shownKey(String(typeof key === "object" ? key.key : key))).join("."),
    message:
      message === "Expected no excess property" ? "there is no such field" : message.replace(/\s+/g, " ").slice(0, 500)
  }))

/** The first of them, as words that follow the field's name. */
export const firstIssue = (error: { readonly issue: SchemaIssue.Issue }): WireIssue => {
  const [{ path, message } = { path: "", message: "not valid" }] = wireIssues(error)
  return { path, message: message.replace(/^Expected/, "expected").replace(/^Missing key/, "it is missing") }
}

const shownKey = (key: string): string => (key.endsWith(" ") ? key.trimEnd() : snakeCase(key))
