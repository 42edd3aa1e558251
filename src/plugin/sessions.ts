/** Presents the SessionStore as a plugin: its permissions and its routes. Adds no behaviour to it. */

import { SessionOptions, SessionProtocol } from "../actors/sessions/protocol.ts"
import { SessionStore } from "../actors/sessions/SessionStore.ts"
import { blobBytesMax } from "../domain/session/session.ts"
import { sessionNeeds } from "./needs.ts"
import { definePlugin } from "./Plugin.ts"

/** The id may hold anything that a path can carry percent-encoded. */
const sessionRoutes = [
  { method: "GET", path: "/v1/sessions", message: "List" },
  { method: "POST", path: "/v1/sessions", message: "Create", status: 201 },
  { method: "GET", path: "/v1/sessions/:session_id", message: "Get" },
  { method: "DELETE", path: "/v1/sessions/:session_id", message: "Remove" },
  { method: "GET", path: "/v1/sessions/:session_id/graph", message: "Graph" },
  { method: "POST", path: "/v1/sessions/:session_id/append", message: "Append" },
  { method: "POST", path: "/v1/sessions/:session_id/replace", message: "Replace" },
  { method: "POST", path: "/v1/sessions/:session_id/tombstone", message: "Tombstone" },
  { method: "POST", path: "/v1/sessions/:session_id/commit", message: "Commit" },
  { method: "POST", path: "/v1/sessions/:session_id/branch", message: "Branch" },
  { method: "POST", path: "/v1/sessions/:session_id/fork", message: "Fork", status: 201 },
  { method: "POST", path: "/v1/sessions/:session_id/gc", message: "Gc" },
  { method: "POST", path: "/v1/sessions/:session_id/vacuum", message: "Vacuum" },
  {
    method: "PUT",
    path: "/v1/sessions/:session_id/blobs/:hash",
    message: "PutBlobFile",
    status: 201,
    upload: "file",
    uploadBytesMax: blobBytesMax,
    defaults: { kind: "artifact" }
  },
  {
    method: "GET",
    path: "/v1/sessions/:session_id/blobs/:hash",
    message: "ReadBlob",
    download: "application/octet-stream"
  },
  { method: "GET", path: "/v1/sessions/:session_id/export", message: "Export", download: "application/x-ndjson" },
  { method: "POST", path: "/v1/sessions/import", message: "Import", status: 201, upload: "file" }
] as const

export const sessionsPlugin = definePlugin({
  name: "sessions",
  options: SessionOptions,
  address: SessionStore,
  protocol: SessionProtocol,
  permissions: {
    Create: "sessions:write",
    List: "sessions:read",
    Get: "sessions:read",
    Graph: "sessions:read",
    Append: "sessions:write",
    Replace: "sessions:write",
    Tombstone: "sessions:write",
    Vacuum: "sessions:write",
    Branch: "sessions:write",
    Fork: "sessions:write",
    PutBlob: "sessions:write",
    PutBlobFile: "sessions:write",
    GetBlob: "sessions:read",
    ReadBlob: "sessions:read",
    Commit: "sessions:write",
    Gc: "sessions:write",
    Remove: "sessions:remove",
    Export: "sessions:export",
    Import: "sessions:import"
  },
  needs: sessionNeeds,
  layer: (given) => SessionStore.layer(given),
  routes: sessionRoutes
})
