/**
 * Shows what a server sees in Prometheus' text format, version 0.0.4. Asks the actors for it at each scrape, with the permissions of
 * any other request, and leaves out what it may not see; counts only the requests itself.
 *
 * Names: `bunker_sandboxes{status}`, `bunker_images`, `bunker_http_requests_total{method,status}`,
 * `process_resident_memory_bytes`, `process_cpu_seconds_total`, `process_start_time_seconds`.
 */
import { Effect } from "effect"
import type { PluginHost } from "../plugin/PluginHost.ts"

const statuses = ["created", "starting", "running", "draining", "paused", "stopped", "crashed"] as const

/** Requests answered since the server started. */
export class RequestCounter {
  private readonly counts = new Map<string, number>()

  add(method: string, status: number): void {
    // Whoever makes methods up makes no series.
    const known = ["GET", "POST", "PUT", "DELETE", "HEAD"].includes(method) ? method : "other"
    const labels = `method="${known}",status="${status}"`
    this.counts.set(labels, (this.counts.get(labels) ?? 0) + 1)
  }

  get lines(): ReadonlyArray<string> {
    return [...this.counts].map(([labels, count]) => `bunker_http_requests_total{${labels}} ${count}`)
  }
}

const family = (name: string, type: "gauge" | "counter", help: string, lines: ReadonlyArray<string>): string =>
  lines.length === 0 ? "" : [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...lines, ""].join("\n")

type Row = Readonly<Record<string, unknown>>

/** The rows of a list; undefined where it may not be seen. */
const list = (host: PluginHost["Service"], plugin: string): Effect.Effect<ReadonlyArray<Row> | undefined> =>
  host.send({ plugin, message: "List" }).pipe(
    Effect.map((reply) =>
      reply._tag === "One" && Array.isArray(reply.value) ? (reply.value as Array<Row>) : undefined
    ),
    Effect.orElseSucceed(() => undefined)
  )

export const renderMetrics = Effect.fn("Http.metrics")(function* (
  host: PluginHost["Service"],
  requests: RequestCounter
) {
  const sandboxes = yield* list(host, "sandboxes")
  const images = yield* list(host, "images")
  const byStatus = statuses.map((status) => {
    const count = sandboxes?.filter((row) => row["status"] === status).length
    return `bunker_sandboxes{status="${status}"} ${count}`
  })
  const { user, system } = process.cpuUsage()
  return [
    family("bunker_sandboxes", "gauge", "Sandboxes by status.", sandboxes === undefined ? [] : byStatus),
    family(
      "bunker_images",
      "gauge",
      "Images in the cache.",
      images === undefined ? [] : [`bunker_images ${images.length}`]
    ),
    family("bunker_http_requests_total", "counter", "Requests answered.", requests.lines),
    family("process_resident_memory_bytes", "gauge", "Resident memory of the server.", [
      `process_resident_memory_bytes ${process.memoryUsage.rss()}`
    ]),
    family("process_cpu_seconds_total", "counter", "Processor time of the server.", [
      `process_cpu_seconds_total ${(user + system) / 1e6}`
    ]),
    family("process_start_time_seconds", "gauge", "When the server started, unix time.", [
      `process_start_time_seconds ${((Date.now() - process.uptime() * 1000) / 1000).toFixed(3)}`
    ])
  ].join("")
})
