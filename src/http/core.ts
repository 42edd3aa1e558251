/** Names the routes that are the server's own and no plugin's. Answers none of them (see app.ts). */
import { Schema } from "effect"

export interface CoreRoute {
  readonly path: string
  readonly summary: string
  /** Media type of the answer. */
  readonly media: string
  /** Absent: text. */
  readonly schema?: Schema.Top
}

const Ok = Schema.Struct({ ok: Schema.Literal(true) })

export const coreRoutes = [
  { path: "/healthz", summary: "Whether the server answers at all", media: "application/json", schema: Ok },
  { path: "/readyz", summary: "Whether the server takes work", media: "application/json", schema: Ok },
  { path: "/metrics", summary: "Numbers for Prometheus", media: "text/plain" },
  {
    path: "/v1/version",
    summary: "Versions of Bunker and of Bun",
    media: "application/json",
    schema: Schema.Struct({ version: Schema.String, bun: Schema.String })
  },
  {
    path: "/openapi.json",
    summary: "This document",
    media: "application/json",
    schema: Schema.Record(Schema.String, Schema.Unknown)
  },
  { path: "/docs", summary: "This document for people", media: "text/html" }
] as const satisfies ReadonlyArray<CoreRoute>
