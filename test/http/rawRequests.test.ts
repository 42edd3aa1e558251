/** Request lines as no client library would write them, against a real server on a socket and on a network address. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import net from "node:net"
import { tmpdir } from "node:os"
import path from "node:path"
import { program } from "../support/bunker.ts"
import { generator, seedOf } from "../support/random.ts"
import { startServer, type TestServer } from "../support/server.ts"

const suite = existsSync(program) ? describe : describe.skip
if (suite === describe.skip) console.warn("skipped: raw requests; missing: dist/bunker ('bun run build' makes it)")

/** Longest wait for the first line of an answer: streams that go on are left then. */
const answerMs = 3000

suite.each(["unix", "tcp"] as const)("a server (%s)", (kind) => {
  let home: string
  let server: TestServer
  let paths: ReadonlyArray<string>

  /** Sends bytes and answers the status and what came, 0 when the server just hung up. */
  const raw = (bytes: Buffer) =>
    new Promise<{ readonly status: number; readonly text: string }>((resolve) => {
      const { url, token } = server.options
      const socket =
        kind === "unix" ? net.connect(url.slice("unix:".length)) : net.connect(Number(new URL(url).port), "127.0.0.1")
      let text = ""
      const end = () => {
        socket.destroy()
        resolve({ status: Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1] ?? 0), text })
      }
      const timer = setTimeout(end, answerMs)
      socket.on("data", (data) => {
        text += data.toString("latin1")
      })
      socket.on("error", () => {})
      socket.on("close", () => {
        clearTimeout(timer)
        end()
      })
      const authority = kind === "unix" ? "x" : new URL(url).host
      const rest = token === undefined ? "" : `Authorization: Bearer ${token}\r\n`
      const head = `Host: ${authority}\r\n${rest}Connection: close\r\n`
      socket.write(Buffer.from(bytes.toString("latin1").replace("{head}", head), "latin1"))
    })

  beforeAll(async () => {
    home = mkdtempSync(path.join(tmpdir(), "bk-"))
    server = await startServer(home, kind)
    const { text } = await raw(Buffer.from("GET /openapi.json HTTP/1.1\r\n{head}\r\n"))
    paths = Object.keys(JSON.parse(text.slice(text.indexOf("{"), text.lastIndexOf("}") + 1)).paths)
  }, 30_000)
  afterAll(async () => {
    await server.stop()
    rmSync(home, { recursive: true, force: true })
  })

  test("has no page of Bun's own and no development mode", async () => {
    for (const page of ["/bun:info", "/_bun/info", "/_bun/client", "/bun:report"]) {
      expect(await raw(Buffer.from(`GET ${page} HTTP/1.1\r\n{head}\r\n`))).toMatchObject({ status: 404 })
    }
  })

  test("answers a socket to a sandbox whose name is not encoded as one", async () => {
    const upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    const { status, text } = await raw(Buffer.from(`GET /v1/sandboxes/%ff/attach HTTP/1.1\r\n{head}${upgrade}\r\n`))
    expect(status).toBeGreaterThanOrEqual(400)
    expect(status).toBeLessThan(500)
    expect(text).not.toContain("<")
  })

  test("has no internal error, whatever a request line says", async () => {
    const random = generator(seedOf(`raw requests over ${kind}`))
    const pick = <A>(all: ReadonlyArray<A>): A => all[random(all.length)]!
    const names = [
      ..."%ff %zz % %00 %2e%2e .. . %2f a%2fb %c3%28 %e2%82 %F0%9F%98%80 a;b a%20b ~ __proto__ constructor".split(" "),
      ...["\xff\xfe", "x".repeat(3000), "%25ff", "a?b=%ff&c[]=%", "a?__proto__=1&tail=x&follow=%", "a#b", "sha256:0"]
    ]
    const methods = "GET POST PUT DELETE HEAD OPTIONS PATCH TRACE get CONNECT X".split(" ")
    const bodies = [
      "",
      "{}",
      "null",
      "[]",
      "{",
      '"x"',
      '{"__proto__":{"a":1}}',
      '{"config":{"image":1}}',
      "\xff\xfe\x00"
    ]
    const types = ["application/json", "text/plain", "application/x-tar", "multipart/form-data", "\xff", ""]
    for (let count = 0; count < 350; count += 1) {
      const named = pick(paths).replace(/\{[^}]+\}/g, () => pick(names))
      const where = pick([
        () => named,
        () => `/${pick(names)}`,
        () => `${named}/${pick(names)}`,
        () => `${named}?${pick(names)}`
      ])()
      // What would really do something, or wait for something, is not what is looked for here.
      const [method, body] = [pick(methods), pick(bodies)]
      const type = pick(types)
      const more = random(6) === 0 ? `Accept: ${pick(["text/event-stream", "*/*;q=x", "\xff"])}\r\n` : ""
      const length = random(8) === 0 ? pick(["-1", "x", "99999999999999999999"]) : String(body.length)
      const request = `${method} ${where} HTTP/1.1\r\n{head}Content-Type: ${type}\r\n${more}Content-Length: ${length}\r\n\r\n${body}`
      const { status, text } = await raw(Buffer.from(request, "latin1"))
      const told = { request: request.slice(0, 300), status, text: text.slice(0, 500) }
      if (status >= 500 && status !== 503 && status !== 507) expect(told).toEqual({ ...told, status: 400 })
      if (/<html|<!doctype/i.test(text) && !where.includes("/docs")) expect(told).toEqual({ ...told, text: "no page" })
    }
    expect(await raw(Buffer.from("GET /healthz HTTP/1.1\r\n{head}\r\n"))).toMatchObject({ status: 200 })
  }, 120_000)
})
