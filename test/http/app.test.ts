/** The application over plugins of the test's own: no socket, no VM. */
import { describe, expect, test } from "bun:test"
import path from "node:path"
import { Context, Deferred, Effect, type Exit, ManagedRuntime, Schema, Stream } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { type Address, layerLocal } from "../../src/actors/kit/Actor.ts"
import { DiskFull } from "../../src/domain/errors.ts"
import { type HttpOptions, makeApp } from "../../src/http/app.ts"
import { definePlugin } from "../../src/plugin/Plugin.ts"
import { PluginHost } from "../../src/plugin/PluginHost.ts"
import { loadConfig } from "../../src/plugin/userConfig.ts"

const greeterFile = path.join(import.meta.dir, "../support/greeterPlugin.ts")

/** Says whether its work was interrupted. */
class Worker extends Context.Service<Worker, Address<RpcGroup.Rpcs<typeof Work>>>()("test/Worker") {}
const Work = RpcGroup.make(
  Rpc.make("Wait", {}),
  Rpc.make("Ticks", { success: Schema.Struct({ tickNumber: Schema.Int }), stream: true }),
  Rpc.make("Many", { success: Schema.Int, stream: true }),
  /** So many bytes of output in pieces. */
  Rpc.make("Output", {
    payload: { bytes: Schema.Int },
    success: Schema.Struct({ data: Schema.Uint8Array }),
    stream: true
  }),
  Rpc.make("Fill", { error: DiskFull }),
  Rpc.make("Break", {}),
  Rpc.make("Keep", {
    payload: { sandboxName: Schema.String, sizes: Schema.Struct({ memoryMb: Schema.Int }), loud: Schema.Boolean },
    success: Schema.Struct({
      sandboxName: Schema.String,
      memoryMb: Schema.Int,
      labels: Schema.Record(Schema.String, Schema.String)
    })
  })
)

const setUp = async () => {
  const interrupted = Deferred.makeUnsafe<string>()
  const started = Deferred.makeUnsafe<void>()
  const endless = (name: string) =>
    Effect.andThen(Deferred.succeed(started, undefined), Effect.never).pipe(
      Effect.onInterrupt(() => Deferred.succeed(interrupted, name))
    )
  const worker = definePlugin({
    name: "worker",
    options: Schema.Struct({}),
    address: Worker,
    protocol: Work,
    permissions: { Wait: "w:a", Ticks: "w:a", Many: "w:a", Output: "w:a", Fill: "w:a", Break: "w:a", Keep: "w:a" },
    layer: () =>
      layerLocal(
        Worker,
        Work,
        Effect.succeed(
          Work.of({
            Wait: () => Rpc.fork(endless("wait")),
            Ticks: () =>
              Rpc.fork(Stream.concat(Stream.succeed({ tickNumber: 1 }), Stream.fromEffect(endless("ticks")))),
            Many: () => Rpc.fork(Stream.range(1, 20_000)),
            Output: ({ bytes }) => {
              const pieces = Array.from({ length: Math.ceil(bytes / 65_536) }, (_, at) => ({
                data: new Uint8Array(Math.min(65_536, bytes - at * 65_536))
              }))
              return Rpc.fork(Stream.fromIterable(pieces))
            },
            Fill: () => Effect.fail(new DiskFull({ path: "/x", neededBytes: 7 })),
            Break: () => Effect.die(new Error("secret")),
            Keep: ({ sandboxName, sizes }) =>
              Effect.succeed({ sandboxName, memoryMb: sizes.memoryMb, labels: { fooBar: "kept" } })
          })
        )
      ),
    routes: [
      { method: "POST", path: "/w/wait", message: "Wait" },
      { method: "GET", path: "/w/ticks", message: "Ticks" },
      { method: "GET", path: "/w/many", message: "Many" },
      { method: "GET", path: "/w/output", message: "Output" },
      { method: "POST", path: "/w/fill", message: "Fill" },
      { method: "POST", path: "/w/break", message: "Break" },
      {
        method: "POST",
        path: "/w/keep/:sandbox_name",
        message: "Keep",
        defaults: { loud: false, sizes: { memory_mb: 5 } }
      }
    ]
  })
  const { plugins } = await Effect.runPromise(loadConfig(greeterFile))
  const runtime = ManagedRuntime.make(PluginHost.layer([...plugins, worker]))
  const host = await runtime.runPromise(PluginHost)
  const reported: Array<string> = []
  const options: HttpOptions = {
    version: "1.2.3",
    host,
    run: (effect, signal) => runtime.runPromiseExit(effect, { signal }) as Promise<Exit.Exit<never, never>>,
    spool: () => Effect.die("unused"),
    ready: () => true,
    report: (cause) => void reported.push(String(cause))
  }
  const app = makeApp(options)
  const ask = async (method: string, url: string, body?: string, headers: Record<string, string> = {}) => {
    const response = await app.request(url, { method, headers, ...(body === undefined ? {} : { body }) })
    const text = await response.text()
    return { status: response.status, body: text.startsWith("{") || text.startsWith("[") ? JSON.parse(text) : text }
  }
  return { app, options, ask, reported, started, interrupted, dispose: () => runtime.dispose() }
}

const withApp = (body: (it: Awaited<ReturnType<typeof setUp>>) => Promise<void>) => async () => {
  const it = await setUp()
  try {
    await body(it)
  } finally {
    await it.dispose()
  }
}

describe("HTTP", () => {
  test(
    "answers health, version, routes of a plugin",
    withApp(async ({ ask }) => {
      expect(await ask("GET", "/healthz")).toEqual({ status: 200, body: { ok: true } })
      expect(await ask("GET", "/readyz")).toEqual({ status: 200, body: { ok: true } })
      expect((await ask("GET", "/v1/version")).body).toMatchObject({ version: "1.2.3" })
      expect(await ask("POST", "/x/greeter/Ada")).toEqual({ status: 201, body: { text: "hello, Ada" } })
    })
  )

  test(
    "keys are snake_case both ways, defaults lie under what is said, records keep their keys",
    withApp(async ({ ask }) => {
      const kept = { sandbox_name: "a", memory_mb: 5, labels: { fooBar: "kept" } }
      expect(await ask("POST", "/w/keep/a")).toEqual({ status: 200, body: kept })
      const asked = await ask("POST", "/w/keep/a?loud=true", '{"sizes":{"memory_mb":9}}')
      expect(asked).toEqual({ status: 200, body: { ...kept, memory_mb: 9 } })
    })
  )

  test(
    "wrong input is 400 with the path of each wrong field; unknown and camelCase keys are refused",
    withApp(async ({ ask }) => {
      const { status, body } = await ask(
        "POST",
        "/w/keep/a?loud=maybe",
        '{"sizes":{"memory_mb":"9"},"x":1,"sandboxName":"b"}'
      )
      expect({ status, ok: body.ok, code: body.code }).toEqual({ status: 400, ok: false, code: "InvalidInput" })
      expect(body.details.issues.map((issue: { path: string }) => issue.path).toSorted()).toEqual([
        "loud",
        "sandboxName",
        "sizes.memory_mb",
        "x"
      ])
      expect(await ask("POST", "/w/wait?x=1")).toMatchObject({
        status: 400,
        body: { details: { issues: [{ path: "x" }] } }
      })
      const polluting = '{"__proto__":{"loud":true},"sizes":{"__proto__":{"memory_mb":9},"constructor":1}}'
      const refused = await ask("POST", "/w/keep/a", polluting)
      expect(refused.body.details.issues.map((issue: { path: string }) => issue.path).toSorted()).toEqual([
        "__proto__",
        "sizes.__proto__",
        "sizes.constructor"
      ])
      for (const text of ["x", "[]", "1", "null", '"a"']) {
        expect(await ask("POST", "/w/keep/a", text)).toMatchObject({ status: 400, body: { code: "BadRequest" } })
      }
    })
  )

  test(
    "errors carry code, words and details; a plugin's own are 422; a defect shows nothing",
    withApp(async ({ ask, reported }) => {
      expect(await ask("POST", "/w/fill")).toMatchObject({
        status: 507,
        body: { ok: false, code: "DiskFull", details: { path: "/x", needed_bytes: 7 } }
      })
      expect(await ask("POST", "/x/greeter/nobody")).toMatchObject({
        status: 422,
        body: { ok: false, code: "NobodyThere", details: { who: "nobody" } }
      })
      const defect = await ask("POST", "/w/break")
      expect(defect).toMatchObject({ status: 500, body: { code: "InternalError", details: {} } })
      expect(JSON.stringify(defect)).not.toContain("secret")
      expect(reported.join()).toContain("secret")
    })
  )

  test(
    "unknown paths are 404, wrong methods 405, large bodies 413",
    withApp(async ({ app, ask }) => {
      expect(await ask("GET", "/nope")).toMatchObject({ status: 404, body: { code: "NotFound" } })
      const wrong = await app.request("/w/wait", { method: "PUT" })
      expect([wrong.status, wrong.headers.get("allow")]).toEqual([405, "POST"])
      const large = "x".repeat(1024 * 1024 + 1)
      expect(await ask("POST", "/w/wait", large)).toMatchObject({ status: 413, body: { code: "BodyTooLarge" } })
    })
  )

  test(
    "a stream is server-sent events for those who accept them, else one bounded array",
    withApp(async ({ ask }) => {
      const events = await ask("GET", "/x/greeter/count?to=2", undefined, { accept: "text/event-stream" })
      expect(events.body).toBe("event: message\ndata: 1\n\nevent: message\ndata: 2\n\nevent: end\ndata: {}\n\n")
      expect(await ask("GET", "/x/greeter/count?to=3")).toEqual({ status: 200, body: [1, 2, 3] })
      expect(await ask("GET", "/w/many")).toMatchObject({ status: 422, body: { code: "TooManyEvents" } })
    })
  )

  test(
    "output that is collected has at most 16 MiB; more ends what makes it, and is not held",
    withApp(async ({ app, ask }) => {
      const most = 16 * 1024 * 1024
      for (const bytes of [most - 1, most]) {
        const answer = await app.request(`/w/output?bytes=${bytes}`)
        const events = (await answer.json()) as ReadonlyArray<{ readonly data: string }>
        expect([answer.status, answer.headers.get("content-type")]).toEqual([200, "application/json"])
        expect(events.reduce((sum, { data }) => sum + Buffer.byteLength(data, "base64"), 0)).toBe(bytes)
      }
      const { status, body } = await ask("GET", `/w/output?bytes=${most + 1}`)
      expect({ status, code: body.code, details: body.details.bytes_max }).toEqual({
        status: 422,
        code: "OutputTooLarge",
        details: most
      })
      expect(body.error).toContain("'Accept: text/event-stream'")
    })
  )

  test(
    "a client that goes away interrupts what only it wanted",
    withApp(async ({ app, started, interrupted, reported }) => {
      const gone = new AbortController()
      const answer = app.request(new Request("http://x/w/wait", { method: "POST", signal: gone.signal }))
      await Effect.runPromise(Deferred.await(started))
      gone.abort()
      expect(await Effect.runPromise(Deferred.await(interrupted))).toBe("wait")
      await answer
      expect(reported).toEqual([])
    })
  )

  test(
    "a stream that is silent is kept alive with comments",
    withApp(async ({ options }) => {
      const app = makeApp({ ...options, keepAliveMs: 5 })
      const response = await app.request("/w/ticks", { headers: { accept: "text/event-stream" } })
      const reader = response.body!.getReader()
      let text = ""
      while (!text.endsWith("\n\n:\n\n:\n\n")) text += new TextDecoder().decode((await reader.read()).value)
      expect(text).toStartWith('event: message\ndata: {"tick_number":1}\n\n:\n\n')
      await reader.cancel()
    })
  )

  test(
    "a reader of events that goes away interrupts the stream",
    withApp(async ({ app, interrupted }) => {
      const response = await app.request("/w/ticks", { headers: { accept: "text/event-stream" } })
      const reader = response.body!.getReader()
      expect(new TextDecoder().decode((await reader.read()).value)).toContain('{"tick_number":1}')
      await reader.cancel()
      expect(await Effect.runPromise(Deferred.await(interrupted))).toBe("ticks")
    })
  )
})
