import { describe, expect, test } from "bun:test"
import crypto from "node:crypto"
import fs from "node:fs"
import http2 from "node:http2"
import net from "node:net"
import path from "node:path"
import tls from "node:tls"
import { type Bench, listen, rawTlsServer, runProgram, secureServer, startBench } from "../../support/tlsBench.ts"

const placeholder = "bnk_AAAABBBBCCCCDDDDEEEEFFFFGGGG"
const value = "sk-live-the-value-that-no-guest-sees"
const secret = { name: "API_KEY", placeholder, hosts: ["api.test"], value }
const foreign = { name: "OTHER", placeholder: "bnk_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZ", hosts: ["other.test"], value: "v" }

const bench = (
  upstream: { readonly port: number; readonly trust: string },
  more: Partial<Parameters<typeof startBench>[0]> = {}
) =>
  startBench({
    secrets: [secret, foreign],
    hosts: ["api.test"],
    upstreamPort: upstream.port,
    trust: upstream.trust,
    ...more
  })

const curl = (at: Bench, ...args: ReadonlyArray<string>) =>
  runProgram([
    "curl",
    "-sS",
    "--max-time",
    "60",
    "--cacert",
    at.bundle,
    "--resolve",
    `api.test:${at.port}:127.0.0.1`,
    ...args
  ])

/** A TLS client that writes bytes as they are and gives all that came back. */
const speak = (at: Bench, text: string, options: tls.ConnectionOptions = {}): Promise<string> =>
  new Promise((resolve, reject) => {
    const socket = tls.connect({
      port: at.port,
      host: "127.0.0.1",
      servername: "api.test",
      ca: [at.authority.certificate],
      ALPNProtocols: ["http/1.1"],
      ...options
    })
    let got = ""
    socket.on("secureConnect", () => socket.write(Buffer.from(text, "latin1")))
    socket.on("data", (chunk) => (got += chunk.toString("latin1")))
    socket.on("end", () => socket.end())
    socket.on("error", reject)
    socket.on("close", () => resolve(got))
  })

/** Answers each request with its head, and keeps what came. */
const echoHeads = async (protocols: ReadonlyArray<string> = ["http/1.1"]) => {
  const got: Array<string> = []
  const server = await rawTlsServer(
    "api.test",
    (socket) => {
      socket.on("data", (chunk) => got.push(chunk.toString("latin1")))
      socket.on("error", () => undefined)
    },
    protocols
  )
  return { ...server, got }
}

describe("an opened HTTP/1.1 connection", () => {
  const wrong: ReadonlyArray<readonly [what: string, request: string]> = [
    [
      "a length and chunks",
      "POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ],
    ["two lengths", "POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"],
    ["a line that ends with LF alone", "GET / HTTP/1.1\r\nHost: api.test\nX: y\r\n\r\n"],
    ["two hosts", "GET / HTTP/1.1\r\nHost: api.test\r\nHost: api.test\r\n\r\n"],
    ["a folded field", "GET / HTTP/1.1\r\nHost: api.test\r\nX: a\r\n b\r\n\r\n"],
    ["a space in front of a colon", "GET / HTTP/1.1\r\nHost : api.test\r\n\r\n"],
    [
      "a coding that is not chunked",
      "POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
    ],
    ["a target of another host", "GET https://evil.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n"],
    ["HTTP/2 without having agreed on it", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
    ["CONNECT", "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n"]
  ]
  test.each(wrong)("refuses a request with %s", async (_what, request) => {
    using upstream = await echoHeads()
    await using at = await bench(upstream)
    expect(await speak(at, request)).toMatch(/^HTTP\/1\.1 400 /)
    expect(upstream.got).toEqual([])
  })
  test("a request without a host is misdirected", async () => {
    using upstream = await echoHeads()
    await using at = await bench(upstream)
    expect(await speak(at, "GET / HTTP/1.0\r\n\r\n")).toMatch(/^HTTP\/1\.1 421 /)
  })
  test("answers a refused request behind the ones that were sent before it", async () => {
    using upstream = await rawTlsServer("api.test", (socket) => {
      socket.on("error", () => undefined)
      socket.on("data", () => setTimeout(() => socket.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"), 50))
    })
    await using at = await bench(upstream)
    const got = await speak(
      at,
      `GET /1 HTTP/1.1\r\nHost: api.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: api.test\r\nX: ${foreign.placeholder}\r\n\r\n`
    )
    expect(got).toMatch(/^HTTP\/1\.1 200 OK[\s\S]*firstHTTP\/1\.1 403 Forbidden/)
  })
  test("waits for 100 Continue, and relays trailers both ways", async () => {
    const got: Array<string> = []
    using upstream = await rawTlsServer("api.test", (socket) => {
      socket.on("error", () => undefined)
      socket.on("data", (chunk) => {
        got.push(chunk.toString("latin1"))
        if (got.length === 1) socket.write("HTTP/1.1 100 Continue\r\n\r\n")
        if (got.join("").includes("X-Sum: 1\r\n\r\n")) {
          socket.end(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Back\r\n\r\n2\r\nok\r\n0\r\nX-Back: 2\r\n\r\n"
          )
        }
      })
    })
    await using at = await bench(upstream)
    const socket = tls.connect({
      port: at.port,
      host: "127.0.0.1",
      servername: "api.test",
      ca: [at.authority.certificate]
    })
    let back = ""
    const ended = new Promise<void>((resolve) => socket.on("end", resolve))
    socket.on("data", (chunk) => {
      back += chunk.toString("latin1")
      if (back.endsWith("100 Continue\r\n\r\n")) socket.write("5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")
    })
    socket.write(
      `POST / HTTP/1.1\r\nHost: api.test\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\nAuthorization: ${placeholder}\r\n\r\n`
    )
    await ended
    socket.destroy()
    expect(got[0]).toContain(`Authorization: ${value}`)
    expect(back).toContain("X-Back: 2\r\n\r\n")
  })
  test("ends a request whose trailers hold another host's placeholder", async () => {
    using upstream = await echoHeads()
    await using at = await bench(upstream)
    await speak(
      at,
      `POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: ${foreign.placeholder}\r\n\r\n`
    ).catch(() => "")
    expect(upstream.got.join("")).not.toContain("bnk_")
    expect(at.events.at(-1)).toMatchObject({ kind: "refused", secret: "OTHER" })
  })
  test("a WebSocket opens with the value, and its messages are left alone", async () => {
    const authority = await import("../../../src/net/tls/authority.ts").then((m) =>
      m.makeAuthority("upstream", ["api.test"])
    )
    const seen: Array<string | null> = []
    const server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      tls: authority.certificateFor("api.test"),
      fetch: (request, self) => {
        seen.push(request.headers.get("authorization"))
        return self.upgrade(request) ? undefined : new Response("no", { status: 400 })
      },
      websocket: { message: (socket, message) => void socket.send(message) }
    })
    await using at = await bench({ port: server.port ?? 0, trust: authority.certificate })
    const socket = new WebSocket(`wss://127.0.0.1:${at.port}/`, {
      headers: { host: `api.test:${at.port}`, authorization: placeholder },
      tls: { ca: at.authority.certificate, serverName: "api.test", checkServerIdentity: () => undefined }
    } as never)
    const messages: Array<unknown> = []
    await new Promise<void>((resolve, reject) => {
      socket.onopen = () => socket.send(placeholder)
      socket.onerror = () => reject(new Error("no WebSocket"))
      socket.onmessage = ({ data }) => {
        messages.push(data)
        if (messages.length === 1) socket.send("x".repeat(300_000))
        else resolve()
      }
    })
    socket.close()
    expect(seen).toEqual([value])
    expect(messages).toEqual([placeholder, "x".repeat(300_000)])
    await server.stop(true)
  })
})

describe("an opened connection", () => {
  test("speaks what the server speaks: HTTP/1.1 to a client that would have HTTP/2", async () => {
    using upstream = await rawTlsServer("api.test", (socket) => {
      socket.on("error", () => undefined)
      socket.on("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    })
    await using at = await bench(upstream)
    expect((await curl(at, "--http2", "-w", "%{http_version}", `https://api.test:${at.port}/`)).stdout).toBe("ok1.1")
  })
  test("is not opened to a server whose certificate is not trusted", async () => {
    const seen: Array<string> = []
    using upstream = await secureServer(["api.test"], (request, response) => {
      seen.push(request.url)
      response.end()
    })
    using other = await secureServer(["api.test"], () => undefined)
    await using at = await bench({ port: upstream.port, trust: other.trust })
    const { stdout } = await curl(at, "-w", "%{http_code}", "-H", `x: ${placeholder}`, `https://api.test:${at.port}/`)
    expect(stdout).toContain("the server api.test can not be trusted")
    expect(stdout).toEndWith("502")
    expect(seen).toEqual([])
    expect(at.events).toEqual([expect.objectContaining({ kind: "untrusted", host: "api.test" })])
  })
  test("is not opened to a trusted server of another name", async () => {
    using upstream = await secureServer(["other.test"], () => undefined)
    await using at = await bench(upstream)
    const { stdout } = await curl(at, "-w", "%{http_code}", `https://api.test:${at.port}/`)
    expect(stdout).toEndWith("502")
  })
  test("ends when the client's hello names another host", async () => {
    using upstream = await secureServer(["api.test"], () => undefined)
    await using at = await bench(upstream, { hosts: ["api.test", "other.test"] })
    await expect(speak(at, "GET / HTTP/1.1\r\n\r\n", { servername: "other.test" })).rejects.toThrow()
    expect(at.events).toEqual([{ kind: "misdirected", host: "api.test", port: at.port, named: "other.test" }])
  })
  test("a placeholder in HTTP without TLS is refused, and what holds none passes", async () => {
    const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("plain") })
    await using at = await bench({ port: server.port ?? 0, trust: "" })
    const url = `http://api.test:${at.port}/`
    expect((await curl(at, url)).stdout).toBe("plain")
    expect((await curl(at, "-H", `x: ${placeholder}`, url)).stdout).toContain("is not encrypted; use https")
    await server.stop(true)
  })
  test("a server that speaks first is relayed as bytes", async () => {
    const server = net.createServer((socket) => {
      socket.write("220 hello\r\n")
      socket.on("data", (chunk) => socket.end(chunk))
    })
    await using at = await bench({ port: await listen(server), trust: "" })
    const client = net.connect(at.port, "127.0.0.1")
    let got = ""
    client.on("data", (chunk) => {
      got += chunk.toString()
      if (got === "220 hello\r\n") client.write("QUIT\r\n")
    })
    await new Promise((resolve) => client.on("end", resolve))
    client.destroy()
    server.close()
    expect(got).toBe("220 hello\r\nQUIT\r\n")
  })
  test("a new value goes into the next request; without one the open flows end, and requests are refused", async () => {
    const seen: Array<unknown> = []
    using upstream = await secureServer(["api.test"], (request, response) => {
      seen.push(request.headers["authorization"])
      response.end("ok")
    })
    await using at = await bench(upstream)
    const session = http2.connect(`https://127.0.0.1:${at.port}`, {
      servername: "api.test",
      ca: [at.authority.certificate]
    } as never)
    const closed = new Promise<void>((resolve) => session.on("close", () => resolve()))
    session.on("error", () => undefined)
    const ask = () =>
      new Promise<unknown>((resolve, reject) => {
        const stream = session.request({ ":path": "/", ":authority": "api.test", authorization: placeholder })
        stream.on("response", (headers) => resolve(headers[":status"]))
        stream.on("error", reject)
        stream.resume()
        stream.end()
      })
    expect(await ask()).toBe(200)
    at.interceptor.update({ secrets: [{ ...secret, value: "second" }], inspected: [] })
    expect(await ask()).toBe(200)
    expect(seen).toEqual([value, "second"])
    at.interceptor.update({ secrets: [{ ...secret, value: undefined }], inspected: [] })
    await closed
    const { stdout } = await curl(
      at,
      "--http1.1",
      "-H",
      `authorization: ${placeholder}`,
      `https://api.test:${at.port}/`
    )
    expect(stdout).toContain("the secret API_KEY was revoked")
    expect(seen).toHaveLength(2)
  })
  test("an inspected host's requests are told, without their query", async () => {
    using upstream = await secureServer(["api.test"], (_request, response) => void response.end("ok"))
    await using at = await bench(upstream, { secrets: [], inspected: ["api.test"] })
    await curl(at, `https://api.test:${at.port}/path?q=1`)
    expect(at.events).toEqual([{ kind: "request", host: "api.test", port: at.port, method: "GET", path: "/path" }])
  })
  test("git clones over https with the value as its password", async () => {
    const repository = fs.mkdtempSync(path.join(process.env["TMPDIR"] ?? "/tmp", "bunker-git-"))
    const quiet = { HOME: repository, GIT_CONFIG_NOSYSTEM: "1", GIT_TERMINAL_PROMPT: "0" }
    const origin = path.join(repository, "origin")
    await runProgram(
      [
        "sh",
        "-c",
        `git init -q "$0" && cd "$0" && echo hi > file && git add file && git -c user.name=a -c user.email=a@b commit -qm one && git update-server-info`,
        origin
      ],
      quiet
    )
    using upstream = await secureServer(["api.test"], (request, response) => {
      const [, encoded = ""] = String(request.headers.authorization ?? "").split(" ")
      const file = path.join(
        origin,
        ".git",
        path.normalize(new URL(request.url, "https://x").pathname.replace("/repo.git", ""))
      )
      if (Buffer.from(encoded, "base64").toString() !== `git:${value}`) {
        response.writeHead(401, { "www-authenticate": 'Basic realm="x"' }).end()
      } else if (!fs.existsSync(file)) response.writeHead(404).end()
      else response.end(fs.readFileSync(file))
    })
    await using at = await bench(upstream)
    const clone = path.join(repository, "clone")
    const { code, stderr } = await runProgram(
      [
        "git",
        "-c",
        `http.curloptResolve=api.test:${at.port}:127.0.0.1`,
        "clone",
        "-q",
        `https://git:${placeholder}@api.test:${at.port}/repo.git`,
        clone
      ],
      { ...quiet, GIT_SSL_CAINFO: at.bundle }
    )
    expect({ code, stderr, file: fs.existsSync(path.join(clone, "file")) }).toEqual({ code: 0, stderr: "", file: true })
    fs.rmSync(repository, { recursive: true, force: true })
  })
})

const megabytes = Number(process.env["BUNKER_TEST_TLS_MIB"] ?? 24)

describe("large bodies", () => {
  test("a guest that does not read holds the server up, not this process's memory", async () => {
    const block = Buffer.alloc(256 * 1024)
    let sent = 0
    let progress = () => {}
    using upstream = await rawTlsServer("api.test", (socket) => {
      socket.on("error", () => undefined)
      const more = () => {
        for (;;) {
          sent += block.length
          progress()
          if (!socket.write(block) || sent > 512 * 1024 * 1024) return
        }
      }
      socket.on("drain", more)
      socket.once("data", () => {
        socket.write("HTTP/1.1 200 OK\r\n\r\n")
        more()
      })
    })
    await using at = await bench(upstream)
    const client = tls.connect({
      port: at.port,
      host: "127.0.0.1",
      servername: "api.test",
      ca: [at.authority.certificate]
    })
    client.on("error", () => undefined)
    client.pause()
    client.write("GET / HTTP/1.1\r\nHost: api.test\r\n\r\n")
    await new Promise<void>((resolve) => {
      let timer = setTimeout(resolve, 10_000)
      progress = () => {
        clearTimeout(timer)
        timer = setTimeout(resolve, 500)
        if (sent > 256 * 1024 * 1024) resolve()
      }
    })
    expect(sent).toBeLessThan(64 * 1024 * 1024)
    client.destroy()
  })
  for (const [version, option] of [
    ["1.1", "--http1.1"],
    ["2.0", "--http2"]
  ] as const) {
    test(`${megabytes} MiB up and down over HTTP/${version} arrive whole while little of them is held`, async () => {
      const bytes = crypto.randomBytes(megabytes * 1024 * 1024)
      const sum = crypto.createHash("sha256").update(bytes).digest("hex")
      let came = ""
      using upstream = await secureServer(["api.test"], (request, response) => {
        if (request.method === "GET") return void response.end(bytes)
        const hash = crypto.createHash("sha256")
        request.on("data", (chunk: Buffer) => void hash.update(chunk))
        request.on("end", () => {
          came = hash.digest("hex")
          response.end("done")
        })
      })
      await using at = await bench(upstream)
      const file = path.join(at.directory, "big")
      fs.writeFileSync(file, bytes)
      const url = `https://api.test:${at.port}/`
      const up = await curl(at, option, "-T", file, url)
      expect({ ...up, came }).toEqual({ stdout: "done", stderr: "", code: 0, came: sum })
      const down = await curl(at, option, "-o", `${file}.back`, url)
      expect(down.stderr).toBe("")
      expect(
        crypto
          .createHash("sha256")
          .update(fs.readFileSync(`${file}.back`))
          .digest("hex")
      ).toBe(sum)
    }, 120_000)
  }
})
