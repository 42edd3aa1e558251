import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { makeAuthority } from "../../../../src/net/tls/authority.ts"
import { type Bench, runProgram, startBench } from "../../../support/tlsBench.ts"

const placeholder = "bnk_AAAABBBBCCCCDDDDEEEEFFFFGGGG"
const value = "sk-live-the-value-that-no-guest-sees"
const secrets = [
  { name: "API_KEY", placeholder, hosts: ["api.test"], value },
  { name: "OTHER", placeholder: "bnk_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZ", hosts: ["other.test"], value: "v" }
]

/** Node's server is nghttp2, which takes no frame that is out of order; it prints its port, then a line for each request. */
const nodeServer = `
const http2 = require("http2")
const server = http2.createSecureServer({ key: process.env.KEY, cert: process.env.CERT, settings: { headerTableSize: Number(process.env.TABLE) } })
server.on("sessionError", (error) => console.log("BROKEN " + error.message))
server.on("stream", (stream, headers) => {
  let bytes = 0
  let sum = ""
  stream.on("error", () => {})
  stream.on("data", (chunk) => { bytes += chunk.length })
  stream.on("trailers", (trailers) => { sum = trailers["x-sum"] })
  stream.on("end", () => {
    stream.respond({ ":status": 200, seen: String(headers.authorization), bytes: String(bytes), sum }, { waitForTrailers: true })
    stream.on("wantTrailers", () => stream.sendTrailers({ "x-back": "1" }))
    stream.end("body of " + headers[":path"])
  })
})
server.listen(0, "127.0.0.1", () => console.log(server.address().port))`

describe.each([0, 4096, 1_000_000])("HTTP/2 to a strict server with a table of %d bytes", (table) => {
  let at: Bench
  let child: ReturnType<typeof startServer>
  const lines: Array<string> = []
  const startServer = (key: string, cert: string) =>
    Bun.spawn(["node", "-e", nodeServer], {
      env: { PATH: process.env["PATH"] ?? "", KEY: key, CERT: cert, TABLE: String(table) },
      stdio: ["ignore", "pipe", "inherit"]
    })
  beforeAll(async () => {
    const authority = makeAuthority("upstream", ["api.test"])
    const { cert, key } = authority.certificateFor("api.test")
    child = startServer(key, cert)
    const { promise, resolve } = Promise.withResolvers<number>()
    void (async () => {
      for await (const chunk of child.stdout) {
        lines.push(...new TextDecoder().decode(chunk).trim().split("\n"))
        resolve(Number(lines[0]))
      }
    })()
    at = await startBench({ secrets, hosts: ["api.test"], upstreamPort: await promise, trust: authority.certificate })
  })
  afterAll(async () => {
    await at[Symbol.asyncDispose]()
    child.kill()
  })

  test("a hundred streams at once, every fifth refused, each with its body and trailers", async () => {
    const client = `
const http2 = require("http2")
const c = http2.connect("https://api.test:" + process.env.PORT, { ca: process.env.CA, lookup: (n, o, f) => o.all ? f(null, [{ address: "127.0.0.1", family: 4 }]) : f(null, "127.0.0.1", 4) })
const one = (i) => new Promise((resolve, reject) => {
  const refused = i % 5 === 0
  const r = c.request({ ":method": "POST", ":path": "/" + i, authorization: refused ? process.env.FOREIGN : process.env.KEY, ["x-" + i]: "y".repeat(i * 10) }, { waitForTrailers: true })
  let status = 0, body = "", seen, back, sum, bytes
  r.on("response", (h) => { status = h[":status"]; seen = h.seen; sum = h.sum; bytes = h.bytes })
  r.on("trailers", (t) => { back = t["x-back"] })
  r.on("data", (d) => { body += d })
  r.on("wantTrailers", () => r.sendTrailers({ "x-sum": "s" + i }))
  r.on("error", reject)
  r.on("close", () => resolve([i, status, seen, body, sum, bytes, back]))
  r.end(Buffer.alloc(20000))
})
Promise.all(Array.from({ length: 100 }, (_, i) => one(i))).then((all) => { console.log(JSON.stringify(all)); c.close() })`
    const { stdout, stderr } = await runProgram(["node", "-e", client], {
      PORT: String(at.port),
      CA: at.authority.certificate,
      KEY: placeholder,
      FOREIGN: secrets[1]!.placeholder
    })
    expect(stderr).toBe("")
    const answers = JSON.parse(stdout) as ReadonlyArray<ReadonlyArray<unknown>>
    for (const [i, status, seen, body, sum, bytes, back] of answers) {
      if (Number(i) % 5 === 0) expect([i, status, body]).toEqual([i, 403, ""])
      else expect([status, seen, body, sum, bytes, back]).toEqual([200, value, `body of /${i}`, `s${i}`, "20000", "1"])
    }
    expect(lines.filter((line) => line.startsWith("BROKEN"))).toEqual([])
  }, 60_000)
})
