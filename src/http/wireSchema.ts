/**
 * Makes JSON Schema (draft 2020-12) of what goes over the wire, from the schemas that decode it: the keys are those of domain/wire.ts.
 * Decodes nothing.
 */
import { Schema, SchemaAST } from "effect"
import { snakeCase } from "../domain/wire.ts"

export type JsonSchema = { readonly [key: string]: unknown }

/** Where schemas with a name go: each once, referred to from everywhere. */
export type Components = Map<string, JsonSchema>

const isObject = (value: unknown): value is JsonSchema =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** Names of the wire; objects whose keys are known take no others, as the server does. */
const toWireNames = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(toWireNames)
  if (!isObject(value)) return value
  const entries = Object.entries(value).map(([key, inner]): [string, unknown] => {
    if (key === "properties" && isObject(inner)) {
      return [
        key,
        Object.fromEntries(Object.entries(inner).map(([name, each]) => [snakeCase(name), toWireNames(each)]))
      ]
    }
    if (key === "required" && Array.isArray(inner)) return [key, inner.map((name) => snakeCase(String(name)))]
    if (key === "additionalProperties" && inner === true && isObject(value["properties"])) return [key, false]
    if (key === "$ref")
      return [
        key,
        String(inner)
          .replace("#/$defs/", "#/components/schemas/")
          .replace(/Encoded$/, "")
      ]
    return [key, key === "enum" || key === "const" || key === "default" ? inner : toWireNames(inner)]
  })
  return Object.fromEntries(entries)
}

/** The schema of a value on the wire; undefined for nothing. */
export const wireSchema = (schema: Schema.Top, components: Components): JsonSchema | undefined => {
  if (SchemaAST.isVoid(schema.ast)) return undefined
  const codec = Schema.toCodecJson(schema as unknown as Schema.Codec<unknown, unknown>)
  const document = Schema.toJsonSchemaDocument(codec)
  for (const [name, definition] of Object.entries(document.definitions)) {
    const known = name.replace(/Encoded$/, "")
    if (!components.has(known)) components.set(known, toWireNames(definition) as JsonSchema)
  }
  return toWireNames(document.schema) as JsonSchema
}

/** What a reference names. */
export const resolved = (schema: JsonSchema, components: Components): JsonSchema => {
  const name = typeof schema["$ref"] === "string" ? schema["$ref"].replace("#/components/schemas/", "") : undefined
  return name === undefined ? schema : (components.get(name) ?? {})
}

/** Fields of an object and which of them must be there. */
export const fieldsOf = (
  schema: JsonSchema | undefined,
  components: Components
): { readonly properties: Readonly<Record<string, JsonSchema>>; readonly required: ReadonlySet<string> } => {
  const { properties = {}, required = [] } = resolved(schema ?? {}, components) as {
    readonly properties?: Readonly<Record<string, JsonSchema>>
    readonly required?: ReadonlyArray<string>
  }
  return { properties, required: new Set(required) }
}

/** An object schema in which a server's defaults need not be sent. */
export const withDefaults = (
  schema: JsonSchema,
  defaults: Readonly<Record<string, unknown>>,
  components: Components
): JsonSchema => {
  const { properties, required } = fieldsOf(schema, components)
  const left = new Set(required)
  const changed = Object.entries(properties).map(([name, field]): [string, JsonSchema] => {
    const value = defaults[name]
    if (value === undefined) return [name, field]
    if (!isObject(value) || !isObject(resolved(field, components)["properties"])) {
      left.delete(name)
      return [name, { ...field, default: value }]
    }
    const inner = withDefaults(field, value, components)
    if ((inner["required"] as ReadonlyArray<string>).length === 0) left.delete(name)
    return [name, inner]
  })
  return {
    ...resolved(schema, components),
    properties: Object.fromEntries(changed),
    required: [...required].filter((name) => left.has(name))
  }
}
