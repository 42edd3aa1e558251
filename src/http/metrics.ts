/**
 * Shows what a server sees in Prometheus' text format, version 0.0.4. Asks the actors for it at each scrape, with the permissions of
 * any other request, and leaves out what it may not see; counts only the requests itself.
 *
 * Names: `bunker_sandboxes{status}`, `bunker_images`, `bunker_leases{kind}`, `bunker_http_requests_total{method,status}`; of each
 * sandbox that runs `bunker_sandbox_…{name}`: `cpu_seconds_total`, `memory_bytes`, `disk_bytes`, `commands`,
 * `network_receive_bytes_total`, `network_transmit_bytes_total`; of the server `process_resident_memory_bytes`, `process_open_fds`,
 * `process_cpu_seconds_total`, `process_start_time_seconds`.
 */
import fs from "node:fs"
import { Effect, Stream } from "effect"
import type { PluginHost } from "../plugin/PluginHost.ts"

const statuses = ["created", "starting", "running", "draining", "paused", "stopped", "crashed"] as const

/** Requests answered since the server started. */
export class RequestCounter {
  private readonly counts = new Map<string, number>()

  add(method: string, status: number): void {
    // Whoever makes methods up makes no series.
    const known = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"].includes(method) ? method : "other"
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
type Host = PluginHost["Service"]

/** The rows of a list; undefined where it may not be seen. */
const list = (host: Host, plugin: string): Effect.Effect<ReadonlyArray<Row> | undefined> =>
  host.send({ plugin, message: "List" }).pipe(
    Effect.map((reply) =>
      reply._tag === "One" && Array.isArray(reply.value) ? (reply.value as Array<Row>) : undefined
    ),
    Effect.orElseSucceed(() => undefined)
  )

/** How long the sandboxes, all together, may take to answer, in milliseconds. */
const answerMs = 2000

/** One sample of each running sandbox that answers in time. All are asked at once: one that hangs costs the others nothing. */
const samples = Effect.fnUntraced(function* (host: Host, sandboxes: ReadonlyArray<Row>) {
  const found: Array<Row> = []
  const ask = ({ name }: Row) =>
    host.send({ plugin: "sandboxes", message: "Stats", payload: { name, watch: false } }).pipe(
      Effect.flatMap((reply) => (reply._tag === "Many" ? Stream.runCollect(reply.values) : Effect.succeed([]))),
      Effect.flatMap((rows) => Effect.sync(() => void found.push(...(rows as ReadonlyArray<Row>)))),
      Effect.ignore
    )
  const running = sandboxes.filter((row) => row["status"] === "running" || row["status"] === "draining")
  const all = Effect.forEach(running, ask, { concurrency: "unbounded", discard: true })
  yield* Effect.timeoutOption(all, answerMs)
  return found.toSorted((one, other) => String(one["name"]).localeCompare(String(other["name"])))
})

type Family = readonly [name: string, type: "gauge" | "counter", help: string, value: (sample: Row) => unknown]

const perSandbox: ReadonlyArray<Family> = [
  ["cpu_seconds_total", "counter", "Processor time of the VM on the host.", (s) => Number(s["host_cpu_ms"]) / 1000],
  ["memory_bytes", "gauge", "Resident memory of the VM on the host.", (s) => s["host_memory"]],
  ["disk_bytes", "gauge", "Host disk under the sandbox.", (s) => s["host_disk"]],
  ["commands", "gauge", "Commands that run in it.", (s) => s["commands"]],
  [
    "network_receive_bytes_total",
    "counter",
    "Bytes that ports and ended flows brought to it.",
    (s) => s["network_received"]
  ],
  [
    "network_transmit_bytes_total",
    "counter",
    "Bytes that ports and ended flows brought from it.",
    (s) => s["network_sent"]
  ],
  ["network_denied_total", "counter", "Names and connections that its rules denied.", (s) => s["network_denied"]],
  ["network_limited_total", "counter", "Connections and names refused by a bound.", (s) => s["network_limited"]],
  ["network_flows", "gauge", "Connections and UDP flows that are open.", (s) => s["network_flows"]]
]

/** One line for each kind of a list, those that have none included. */
const counted = (
  name: string,
  label: string,
  kinds: ReadonlyArray<string>,
  rows: ReadonlyArray<Row> | undefined
): ReadonlyArray<string> =>
  rows === undefined
    ? []
    : kinds.map((kind) => `${name}{${label}="${kind}"} ${rows.filter((row) => row[label] === kind).length}`)

export const renderMetrics = Effect.fn("Http.metrics")(function* (host: Host, requests: RequestCounter) {
  const [sandboxes, images, leases] = yield* Effect.all(
    [list(host, "sandboxes"), list(host, "images"), list(host, "leases")],
    { concurrency: "unbounded" }
  )
  const sampled = yield* samples(host, sandboxes ?? [])
  const { user, system } = process.cpuUsage()
  return [
    family(
      "bunker_sandboxes",
      "gauge",
      "Sandboxes by status.",
      counted("bunker_sandboxes", "status", statuses, sandboxes)
    ),
    ...perSandbox.map(([name, type, help, value]) => {
      // A sandbox without a network has no numbers of one.
      const lines = sampled.flatMap((sample) => {
        const measured = value(sample)
        return measured === undefined ? [] : [`bunker_sandbox_${name}{name="${sample["name"]}"} ${measured}`]
      })
      return family(`bunker_sandbox_${name}`, type, help, lines)
    }),
    family(
      "bunker_images",
      "gauge",
      "Images in the cache.",
      images === undefined ? [] : [`bunker_images ${images.length}`]
    ),
    family(
      "bunker_leases",
      "gauge",
      "Leases that are held.",
      counted("bunker_leases", "kind", ["maintenance", "content"], leases)
    ),
    family("bunker_http_requests_total", "counter", "Requests answered.", requests.lines),
    family("process_resident_memory_bytes", "gauge", "Resident memory of the server.", [
      `process_resident_memory_bytes ${process.memoryUsage.rss()}`
    ]),
    family("process_open_fds", "gauge", "Open descriptors of the server.", [
      `process_open_fds ${fs.readdirSync("/proc/self/fd").length}`
    ]),
    family("process_cpu_seconds_total", "counter", "Processor time of the server.", [
      `process_cpu_seconds_total ${(user + system) / 1e6}`
    ]),
    family("process_start_time_seconds", "gauge", "When the server started, unix time.", [
      `process_start_time_seconds ${((Date.now() - process.uptime() * 1000) / 1000).toFixed(3)}`
    ])
  ].join("")
})
