/**
 * Shows the API's description to people: one HTML page with everything in it, no script, nothing from elsewhere. Made from the OpenAPI
 * document, so it says what that says.
 */
import type { OpenApi, Operation } from "./openapi.ts"
import type { JsonSchema } from "./wireSchema.ts"

/** Nothing may be loaded, run, framed or sent: a page about an API needs none of it. */
export const docsHeaders = {
  "content-type": "text/html; charset=utf-8",
  "content-security-policy":
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff"
} as const

const escaped = (text: string): string => text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`)

const style = `
:root { color-scheme: light dark; --line: #8886; --quiet: #595959; --link: #0b57d0 }
@media (prefers-color-scheme: dark) { :root { --quiet: #b3b3b3; --link: #8ab4f8 } }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 64rem; padding: 1rem }
a { color: var(--link) }
a:focus-visible, summary:focus-visible { outline: 3px solid var(--link); outline-offset: 2px }
.skip { position: absolute; left: -999rem } .skip:focus { position: static }
code, pre { font: .9em/1.4 ui-monospace, monospace }
pre { overflow-x: auto; border: 1px solid var(--line); padding: .5rem }
h3 code { overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100% } th, td { border-bottom: 1px solid var(--line); padding: .25rem .5rem; text-align: left; vertical-align: top }
summary { cursor: pointer } .quiet { color: var(--quiet) } article { margin-block: 1.5rem }
`

/** A schema in few words. */
const typeOf = (schema: JsonSchema | undefined): string => {
  if (schema === undefined) return "text"
  if (typeof schema["$ref"] === "string") return schema["$ref"].split("/").at(-1)!
  if (Array.isArray(schema["enum"])) return schema["enum"].map((value) => JSON.stringify(value)).join(" | ")
  const variants = (schema["anyOf"] ?? schema["oneOf"]) as ReadonlyArray<JsonSchema> | undefined
  if (variants !== undefined) return variants.map(typeOf).join(" | ")
  if (schema["type"] === "array") return `list of ${typeOf(schema["items"] as JsonSchema)}`
  return String(schema["format"] ?? schema["type"] ?? "anything")
}

const row = (...cells: ReadonlyArray<string>): string =>
  `<tr><th scope="row">${cells[0]}</th>${cells
    .slice(1)
    .map((cell) => `<td>${cell}</td>`)
    .join("")}</tr>`

const table = (caption: string, head: ReadonlyArray<string>, rows: ReadonlyArray<string>): string =>
  rows.length === 0
    ? ""
    : `<table><caption class="quiet">${caption}</caption><thead><tr>${head.map((cell) => `<th scope="col">${cell}</th>`).join("")}</tr></thead><tbody>${rows.join("")}</tbody></table>`

const code = (text: string): string => `<code>${escaped(text)}</code>`

const block = (title: string, schema: JsonSchema): string =>
  `<details><summary>${escaped(title)}</summary><pre tabindex="0">${escaped(JSON.stringify(schema, null, 2))}</pre></details>`

const idOf = (operation: Operation): string => operation.operationId.replace(/[^A-Za-z0-9_-]/g, "-")

const article = (method: string, path: string, operation: Operation): string => {
  const parameters = (operation.parameters ?? []).map((parameter) =>
    row(
      code(parameter.name),
      parameter.in,
      escaped(typeOf(parameter.schema ?? parameter.content?.["application/json"]?.schema)),
      parameter.required ? "yes" : "no"
    )
  )
  const bodies = Object.entries(operation.requestBody?.content ?? {}).map(([media, { schema }]) =>
    block(`Body: ${media}`, schema)
  )
  const answers = Object.entries(operation.responses).map(([status, { content, description }]) =>
    row(
      code(status),
      escaped(description),
      Object.entries(content ?? {})
        .map(([media, { schema }]) => (status < "300" ? block(media, schema) : ""))
        .join("")
    )
  )
  return `<article aria-labelledby="${idOf(operation)}"><h3 id="${idOf(operation)}">${code(`${method.toUpperCase()} ${path}`)}</h3>
<p>${escaped(operation.summary)}. <span class="quiet">${escaped(operation.description ?? "")}</span></p>
${table("Parameters", ["Name", "Where", "Type", "Required"], parameters)}${bodies.join("")}
${table("Answers", ["Status", "What", "Content"], answers)}</article>`
}

/** The page. */
export const docsPage = (document: OpenApi): string => {
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation }))
  )
  const groups = [...new Set(operations.map(({ operation }) => operation.tags[0]!))]
  const sections = groups.map((group) => {
    const own = operations.filter(({ operation }) => operation.tags[0] === group)
    return `<section aria-labelledby="group-${group}"><h2 id="group-${group}">${escaped(group)}</h2>${own
      .map(({ method, operation, path }) => article(method, path, operation))
      .join("\n")}</section>`
  })
  const links = groups.map((group) => `<li><a href="#group-${group}">${escaped(group)}</a></li>`)
  const schemas = Object.entries(document.components.schemas).map(([name, schema]) => block(name, schema))
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Bunker API ${escaped(document.info.version)}</title><style>${style}</style></head>
<body><a class="skip" href="#content">Skip to the routes</a>
<header><h1>Bunker API ${escaped(document.info.version)}</h1><p>${escaped(document.info.description)}
For programs: <a href="/openapi.json">openapi.json</a>.</p></header>
<nav aria-label="Groups of routes"><ul>${links.join("")}<li><a href="#group-schemas">schemas</a></li></ul></nav>
<main id="content">${sections.join("\n")}
<section aria-labelledby="group-schemas"><h2 id="group-schemas">schemas</h2>${schemas.join("\n")}</section></main></body></html>
`
}
