import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { type Bench, runProgram, secureServer, startBench } from "../../support/tlsBench.ts"

const placeholder = "bnk_AAAABBBBCCCCDDDDEEEEFFFFGGGG"
const value = "sk-live-the-value-that-no-guest-sees"
const secret = { name: "API_KEY", placeholder, hosts: ["api.test"], value }
const foreign = {
  name: "OTHER",
  placeholder: "bnk_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZ",
  hosts: ["other.test"],
  value: "x-other-value"
}

interface Seen {
  readonly version: string
  readonly url: string
  readonly headers: Record<string, unknown>
  body: number
}

describe("an opened host", () => {
  const seen: Array<Seen> = []
  let bench: Bench
  let upstream: Awaited<ReturnType<typeof secureServer>>
  beforeAll(async () => {
    upstream = await secureServer(["api.test"], (request, response) => {
      const entry: Seen = { version: request.httpVersion, url: request.url, headers: { ...request.headers }, body: 0 }
      seen.push(entry)
      request.on("data", (chunk: Buffer) => (entry.body += chunk.length))
      request.on("end", () => {
        response.setHeader("x-server", "real")
        response.end(`${request.method} ${request.url} ${entry.body}\n`)
      })
    })
    bench = await startBench({
      secrets: [secret, foreign],
      hosts: ["api.test"],
      upstreamPort: upstream.port,
      trust: upstream.trust
    })
  })
  afterAll(async () => {
    await bench[Symbol.asyncDispose]()
    upstream[Symbol.dispose]()
  })
  const curl = (...args: ReadonlyArray<string>) =>
    runProgram([
      "curl",
      "-sS",
      "--max-time",
      "30",
      "--cacert",
      bench.bundle,
      "--resolve",
      `api.test:${bench.port}:127.0.0.1`,
      ...args
    ])
  const url = (path: string) => `https://api.test:${bench.port}${path}`

  for (const [version, option] of [
    ["1.1", "--http1.1"],
    ["2.0", "--http2"]
  ] as const) {
    test(`curl over HTTP/${version} sends the placeholder, and the server gets the value`, async () => {
      const { stdout, stderr } = await curl(option, "-H", `authorization: Bearer ${placeholder}`, url("/a"))
      expect({ stdout, stderr }).toEqual({ stdout: "GET /a 0\n", stderr: "" })
      expect(seen.at(-1)).toMatchObject({ version, url: "/a", headers: { authorization: `Bearer ${value}` } })
    })
    test(`curl -u over HTTP/${version}: the value is put into Basic`, async () => {
      await curl(option, "-u", `user:${placeholder}`, url("/basic"))
      const basic = Buffer.from(`user:${value}`).toString("base64")
      expect(seen.at(-1)).toMatchObject({ url: "/basic", headers: { authorization: `Basic ${basic}` } })
    })
    test(`over HTTP/${version} a body and a query keep their placeholder`, async () => {
      const { stdout } = await curl(option, "-d", placeholder, url(`/post?key=${placeholder}`))
      expect(stdout).toBe(`POST /post?key=${placeholder} ${placeholder.length}\n`)
    })
    test(`over HTTP/${version} another host's placeholder is refused, and the request is not sent`, async () => {
      const before = seen.length
      const { stdout } = await curl(
        option,
        "-w",
        "%{http_code}",
        "-o",
        "/dev/null",
        "-H",
        `x-key: ${foreign.placeholder}`,
        url("/leak")
      )
      expect(stdout).toBe("403")
      expect(seen.length).toBe(before)
      expect(bench.events.at(-1)).toMatchObject({
        kind: "refused",
        secret: "OTHER",
        host: "api.test",
        reason: "other-host"
      })
    })
    test(`over HTTP/${version} a request for another host is refused`, async () => {
      const before = seen.length
      const { stdout } = await curl(option, "-w", "%{http_code}", "-o", "/dev/null", "-H", "host: evil.test", url("/"))
      expect(stdout).toBe("421")
      expect(seen.length).toBe(before)
    })
  }
})

describe("clients of an opened host", () => {
  const seen: Array<{ readonly url: string; readonly authorization: unknown }> = []
  let bench: Bench
  let upstream: Awaited<ReturnType<typeof secureServer>>
  beforeAll(async () => {
    upstream = await secureServer(["api.test"], (request, response) => {
      seen.push({ url: request.url, authorization: request.headers.authorization })
      response.end(`hello over ${request.httpVersion}`)
    })
    bench = await startBench({
      secrets: [secret],
      hosts: ["api.test"],
      upstreamPort: upstream.port,
      trust: upstream.trust
    })
  })
  afterAll(async () => {
    await bench[Symbol.asyncDispose]()
    upstream[Symbol.dispose]()
  })
  const programs: ReadonlyArray<readonly [what: string, command: (port: number) => ReadonlyArray<string>]> = [
    [
      "Node's https",
      (port) => [
        "node",
        "-e",
        `require("https").get({ host: "127.0.0.1", port: ${port}, servername: "api.test", path: "/node", headers: { host: "api.test:${port}", authorization: process.env.KEY } },
          (r) => r.pipe(process.stdout))`
      ]
    ],
    [
      "Node's http2",
      (port) => [
        "node",
        "-e",
        `const c = require("http2").connect("https://api.test:${port}", { lookup: (_n, o, f) => o.all ? f(null, [{ address: "127.0.0.1", family: 4 }]) : f(null, "127.0.0.1", 4) });
         const r = c.request({ ":path": "/node", authorization: process.env.KEY }); r.pipe(process.stdout); r.on("end", () => c.close()); r.end()`
      ]
    ],
    [
      "Bun's fetch",
      (port) => [
        process.execPath,
        "-e",
        `const r = await fetch("https://127.0.0.1:${port}/node", { headers: { host: "api.test:${port}", authorization: process.env.KEY }, tls: { serverName: "api.test",
           ca: require("fs").readFileSync(process.env.NODE_EXTRA_CA_CERTS), checkServerIdentity: () => undefined } }); process.stdout.write(await r.text())`
      ]
    ],
    [
      "Python's ssl",
      (port) => [
        "python3",
        "-c",
        `import http.client, os, socket, ssl, sys
c = ssl.create_default_context(cafile=os.environ["NODE_EXTRA_CA_CERTS"]); c.verify_flags |= ssl.VERIFY_X509_STRICT
h = http.client.HTTPConnection("api.test", ${port}); h.sock = c.wrap_socket(socket.create_connection(("127.0.0.1", ${port})), server_hostname="api.test")
h.request("GET", "/node", headers={"authorization": os.environ["KEY"]}); sys.stdout.write(h.getresponse().read().decode())`
      ]
    ],
    [
      "openssl s_client",
      (port) => [
        "sh",
        "-c",
        `printf 'GET /node HTTP/1.1\\r\\nhost: api.test:${port}\\r\\nauthorization: %s\\r\\nconnection: close\\r\\n\\r\\n' "$KEY" |
          openssl s_client -quiet -verify_return_error -CAfile "$NODE_EXTRA_CA_CERTS" -servername api.test -verify_hostname api.test -connect 127.0.0.1:${port} 2>/dev/null`
      ]
    ]
  ]
  for (const [what, command] of programs) {
    test(`${what} trusts the authority, and its placeholder arrives as the value`, async () => {
      const env = { KEY: `token ${placeholder}`, NODE_EXTRA_CA_CERTS: bench.bundle, HOME: bench.directory }
      const { stderr, stdout } = await runProgram(command(bench.port), env)
      expect({ stdout: stdout.slice(stdout.indexOf("hello")), stderr }).toEqual({
        stdout: expect.stringMatching(/hello over [12]\./) as never,
        stderr: ""
      })
      expect(seen.at(-1)).toEqual({ url: "/node", authorization: `token ${value}` })
    })
  }
})
