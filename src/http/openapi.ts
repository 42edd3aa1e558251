/**
 * Describes every route of a server as an OpenAPI 3.1 document, from the routes that are served and the schemas that decode their
 * requests. There is no other copy of either. Reached only from `serve`.
 */
import { type Schema, SchemaAST } from "effect"
import { type Rpc, RpcSchema } from "effect/rpc"
import type { Plugin, PluginRoute } from "../plugin/Plugin.ts"
import { type CoreRoute, coreRoutes } from "./core.ts"
import { statusOf } from "./errors.ts"
import { summaries } from "./summaries.ts"
import { type Components, fieldsOf, type JsonSchema, resolved, wireSchema, withDefaults } from "./wireSchema.ts"

/** One operation of the document. */
export interface Operation {
  readonly operationId: string
  readonly summary: string
  readonly description?: string
  readonly tags: ReadonlyArray<string>
  readonly parameters?: ReadonlyArray<{
    readonly name: string
    readonly in: "path" | "query"
    readonly required: boolean
    readonly schema?: JsonSchema
    readonly content?: Readonly<Record<string, { readonly schema: JsonSchema }>>
  }>
  readonly requestBody?: {
    readonly required: boolean
    readonly content: Readonly<Record<string, { readonly schema: JsonSchema }>>
  }
  readonly responses: Readonly<Record<string, Answer>>
}

interface Answer {
  readonly description: string
  readonly content?: Readonly<Record<string, { readonly schema: JsonSchema }>>
}

export interface OpenApi {
  readonly openapi: "3.1.0"
  readonly info: { readonly title: string; readonly version: string; readonly description: string }
  readonly servers: ReadonlyArray<{ readonly url: string; readonly description: string }>
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
  readonly components: {
    readonly schemas: Readonly<Record<string, JsonSchema>>
    readonly securitySchemes: Readonly<Record<string, JsonSchema>>
  }
  readonly security: ReadonlyArray<Readonly<Record<string, ReadonlyArray<string>>>>
}

const failureRef: JsonSchema = { $ref: "#/components/schemas/Failure" }

/** http/failure.ts. */
const failureSchema: JsonSchema = {
  type: "object",
  properties: {
    ok: { const: false },
    code: { type: "string", description: "The error's tag" },
    error: { type: "string", description: "What happened, why, and what to do" },
    details: { type: "object", description: "The error's fields", additionalProperties: true }
  },
  required: ["ok", "code", "error", "details"],
  additionalProperties: false
}

/** Codes that any route may answer with, besides those of its message. */
const common = ["InvalidInput", "PermissionDenied"] as const
const ofServer: ReadonlyArray<readonly [code: string, status: number]> = [
  ["BadRequest", 400],
  ["Unauthorized", 401],
  ["HostRefused", 403],
  ["OriginRefused", 403],
  ["BodyTooLarge", 413],
  ["InternalError", 500]
]

/** Tags of the errors in a schema. */
const tagsOf = (schema: Schema.Top): ReadonlyArray<string> => {
  const { members, identifier } = schema as {
    readonly members?: ReadonlyArray<Schema.Top>
    readonly identifier?: string
  }
  if (members !== undefined) return members.flatMap(tagsOf)
  return identifier === undefined || SchemaAST.isNever(schema.ast) ? [] : [identifier]
}

const json = (schema: JsonSchema) => ({ "application/json": { schema } })

/** `/v1/images/:reference{.+}` → `/v1/images/{reference}`. */
export const openApiPath = (path: string): string => path.replace(/:([a-z_]+)(\{[^}]+\})?/g, "{$1}")

const parametersOf = (path: string): ReadonlySet<string> =>
  new Set([...path.matchAll(/:([a-z_]+)/g)].map(([, name]) => name!))

const failures = (rpc: Rpc.AnyWithProps): Readonly<Record<string, Answer>> => {
  const byStatus = new Map<number, Set<string>>()
  const add = (status: number, code: string) => byStatus.set(status, (byStatus.get(status) ?? new Set()).add(code))
  const own = RpcSchema.isStreamSchema(rpc.successSchema) ? rpc.successSchema.error : rpc.errorSchema
  for (const tag of [...common, ...tagsOf(own)]) add(statusOf(tag), tag)
  for (const [code, status] of ofServer) add(status, code)
  if (RpcSchema.isStreamSchema(rpc.successSchema)) add(422, "TooManyEvents")
  return Object.fromEntries(
    [...byStatus]
      .toSorted(([a], [b]) => a - b)
      .map(([status, codes]) => [
        String(status),
        {
          description: [...codes].join(", "),
          content: json({ allOf: [failureRef, { type: "object", properties: { code: { enum: [...codes] } } }] })
        }
      ])
  )
}

/** The last event of a stream, without the tag that says which it is. */
const lastOf = (event: JsonSchema, components: Components): JsonSchema => {
  const whole = resolved(event, components)
  const variants = (whole["anyOf"] as ReadonlyArray<JsonSchema> | undefined) ?? [whole]
  return {
    anyOf: variants.map((variant) => {
      const { properties, required } = fieldsOf(variant, components)
      const { _tag, ...rest } = properties
      return {
        ...resolved(variant, components),
        properties: rest,
        required: [...required].filter((key) => key !== "_tag")
      }
    })
  }
}

const success = (
  route: PluginRoute,
  rpc: Rpc.AnyWithProps,
  components: Components
): Readonly<Record<string, Answer>> => {
  const { successSchema } = rpc
  if (!RpcSchema.isStreamSchema(successSchema)) {
    const schema = wireSchema(successSchema, components)
    if (schema === undefined) return { "204": { description: "Done" } }
    return { [String(route.status ?? 200)]: { description: "Done", content: json(schema) } }
  }
  if (route.download !== undefined) {
    const bytes = { [route.download]: { schema: { type: "string", format: "binary" } } }
    return {
      "200": { description: "Bytes as they come; a failure after the first breaks the connection off", content: bytes }
    }
  }
  const event = wireSchema(successSchema.success, components) ?? {}
  const events = {
    schema: {
      type: "string",
      description:
        "With 'Accept: text/event-stream': events 'message' whose data is one item as JSON, then 'end', or 'error' with a Failure",
      contentMediaType: "text/event-stream"
    }
  }
  const whole = route.answers === "last" ? lastOf(event, components) : { type: "array", items: event, maxItems: 10_000 }
  const none = route.answers === "last" ? { "204": { description: "Done, and nothing to say" } } : {}
  return {
    "200": { description: "All of it at the end, or events", content: { ...json(whole), "text/event-stream": events } },
    ...none
  }
}

const objectOf = (properties: Readonly<Record<string, JsonSchema>>, required: ReadonlySet<string>): JsonSchema => ({
  type: "object",
  properties,
  required: Object.keys(properties).filter((name) => required.has(name)),
  additionalProperties: false
})

/** What is left of the objects that take parameters of the path. */
const withoutPlaced = (payload: JsonSchema | undefined, route: PluginRoute, components: Components) => {
  if (payload === undefined || route.within === undefined) return payload
  const { properties } = fieldsOf(payload, components)
  const changed: Record<string, JsonSchema> = { ...properties }
  for (const [name, field] of Object.entries(route.within)) {
    const inner = fieldsOf(changed[field], components)
    const { [name]: _taken, ...rest } = inner.properties
    changed[field] = objectOf(rest, inner.required)
  }
  return { ...resolved(payload, components), properties: changed }
}

const operation = (plugin: Plugin, route: PluginRoute, components: Components): Operation => {
  const rpc = plugin.protocol.requests.get(route.message) as unknown as Rpc.AnyWithProps
  const { payloadSchema } = rpc
  const given = wireSchema(payloadSchema, components)
  const payload = given === undefined ? undefined : withDefaults(given, route.defaults ?? {}, components)
  const { properties, required } = fieldsOf(withoutPlaced(payload, route, components), components)
  const inPath = parametersOf(route.path)
  const others = Object.entries(properties).filter(([name]) => !inPath.has(name) && name !== route.upload)
  const inQuery = route.method === "GET" || route.method === "DELETE" || route.upload !== undefined
  const parameters = [
    ...[...inPath].map((name) => ({
      name,
      in: "path" as const,
      required: true,
      schema: properties[name] ?? { type: "string" }
    })),
    ...(inQuery ? others : []).map(([name, schema]) => {
      const { type } = resolved(schema, components)
      const place = { name, in: "query" as const, required: required.has(name) }
      return type === "object" || type === "array" ? { ...place, content: json(schema) } : { ...place, schema }
    })
  ]
  const fields = Object.fromEntries(Object.entries(properties).filter(([name]) => !inPath.has(name)))
  const asJson = json(objectOf(fields, required))
  const asBytes = { "application/octet-stream": { schema: { type: "string", format: "binary" } } }
  const body =
    route.upload !== undefined
      ? { required: true, content: route.uploadBytesMax === undefined ? { ...asBytes, ...asJson } : asBytes }
      : inQuery || others.length === 0
        ? undefined
        : { required: others.some(([name]) => required.has(name)), content: asJson }
  const permission = plugin.permissions[route.message]
  return {
    operationId: `${plugin.name}.${route.message}`,
    summary: summaries[`${plugin.name}.${route.message}`] ?? route.summary ?? `${route.message} of ${plugin.name}`,
    description: `Permission: ${permission}.`,
    tags: [plugin.name],
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(body === undefined ? {} : { requestBody: body }),
    responses: { ...success(route, rpc, components), ...failures(rpc) }
  }
}

const coreOperation = ({ path, summary, media, schema }: CoreRoute, components: Components): Operation => ({
  operationId: `server.${path.split("/").at(-1)!.replace(".", "_")}`,
  summary,
  tags: ["server"],
  responses: {
    "200": {
      description: "Done",
      content: { [media]: { schema: (schema && wireSchema(schema, components)) ?? { type: "string" } } }
    },
    ...(path === "/readyz" ? { "503": { description: "NotReady", content: json(failureRef) } } : {})
  }
})

const namesIn = (path: string): ReadonlyArray<string> => [...path.matchAll(/\{([^}]+)\}/g)].map(([, name]) => name!)

/** A path without the names of its parameters. */
export const shapeOf = (path: string): string => path.replace(/\{[^}]+\}/g, "{}")

/** The same operation with other names for the parameters of its path. */
const renamed = (made: Operation, from: ReadonlyArray<string>, to: ReadonlyArray<string>): Operation => ({
  ...made,
  parameters: (made.parameters ?? []).map((each) =>
    each.in === "path" ? { ...each, name: to[from.indexOf(each.name)] ?? each.name } : each
  )
})

/** The document of a server with these plugins. */
export const openApi = (plugins: ReadonlyArray<Plugin>, version: string): OpenApi => {
  const components: Components = new Map([["Failure", failureSchema]])
  const paths: Record<string, Record<string, Operation>> = {}
  const add = (method: string, path: string, made: Operation) => {
    const own = openApiPath(path)
    // Paths that differ by the names of parameters alone are one path (OpenAPI 3.1, section 4.8.8.1).
    const at = Object.keys(paths).find((known) => shapeOf(known) === shapeOf(own)) ?? own
    paths[at] = { ...paths[at], [method.toLowerCase()]: at === own ? made : renamed(made, namesIn(own), namesIn(at)) }
  }
  for (const route of coreRoutes) add("GET", route.path, coreOperation(route, components))
  for (const plugin of plugins) {
    for (const route of plugin.routes) add(route.method, route.path, operation(plugin, route, components))
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "Bunker",
      version,
      description:
        "MicroVM sandboxes. JSON with snake_case keys; unknown keys are refused. Names that hold slashes (image references) stand in a path as they are."
    },
    servers: [{ url: "/", description: "The server that this document came from" }],
    paths,
    components: {
      schemas: Object.fromEntries([...components].toSorted(([a], [b]) => a.localeCompare(b))),
      securitySchemes: {
        token: {
          type: "http",
          scheme: "bearer",
          description: "The file 'token' of the server's home; no unix socket asks for it"
        }
      }
    },
    security: [{ token: [] }, {}]
  }
}
