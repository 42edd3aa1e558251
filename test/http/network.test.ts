/** The network listener: its token, and web pages that try to reach it. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs"
import net from "node:net"
import path from "node:path"
import { Admission, connectionsMax, ofOneAddressMax } from "../../src/http/front.ts"
import { makeGuard, parseListen } from "../../src/http/guard.ts"
import { Home, program } from "../support/bunker.ts"

test("addresses to listen on", () => {
  expect(parseListen("127.0.0.1:80")).toEqual({ host: "127.0.0.1", port: 80 })
  expect(parseListen("[::1]:0")).toEqual({ host: "::1", port: 0 })
  expect(parseListen("host.example:443")).toEqual({ host: "host.example", port: 443 })
  for (const text of ["", "80", ":80", "a:", "a:b", "a:65536", "::1:80", "[::1]", "a b:1", "http://a:1"]) {
    expect({ text, listen: parseListen(text) }).toEqual({ text, listen: undefined })
  }
})

describe("the guard", () => {
  const guard = makeGuard("right-token", { host: "0.0.0.0", port: 8080 }, () => 8080)
  const ask = (headers: Record<string, string>) => guard(new Request("http://x/v1/images", { headers }))?.status ?? 200
  const authorization = "Bearer right-token"
  const host = "127.0.0.1:8080"

  test("lets the token pass, and nothing else", () => {
    expect(ask({ host, authorization })).toBe(200)
    expect(ask({ host, authorization: "bearer  right-token" })).toBe(200)
    const wrong = [
      "",
      "Bearer",
      "Bearer ",
      "right-token",
      "Bearer right-toke",
      "Bearer right-token2",
      "Basic right-token"
    ]
    for (const given of wrong)
      expect({ given, status: ask({ host, authorization: given }) }).toEqual({ given, status: 401 })
    expect(ask({ host })).toBe(401)
  })

  test("wants one of its own addresses as Host: a name that was rebound to it is none", () => {
    for (const good of ["127.0.0.1:8080", "localhost:8080", "LOCALHOST:8080", "192.168.1.7:8080", "[::1]:8080"]) {
      expect({ good, status: ask({ host: good, authorization }) }).toEqual({ good, status: 200 })
    }
    for (const bad of [
      "evil.example:8080",
      "evil.example",
      "127.0.0.1",
      "127.0.0.1:81",
      "127.0.0.1.evil.example:8080",
      "a b",
      ""
    ]) {
      expect({ bad, status: ask({ host: bad, authorization }) }).toEqual({ bad, status: 403 })
    }
    expect(guard(new Request("http://x/", { headers: { authorization } }))?.status).toBe(403)
    const named = makeGuard("right-token", { host: "Box.example", port: 80 }, () => 80)
    const toName = (name: string) => named(new Request("http://x/", { headers: { host: name, authorization } }))?.status
    expect([toName("box.example"), toName("box.example:80"), toName("evil.example")]).toEqual([
      undefined,
      undefined,
      403
    ])
  })

  test("refuses pages of every other origin, also those without a name", () => {
    expect(ask({ host, authorization, origin: "http://127.0.0.1:8080" })).toBe(200)
    for (const origin of [
      "http://evil.example",
      "null",
      "http://127.0.0.1",
      "https://127.0.0.1:8080",
      "http://localhost:8080"
    ]) {
      expect({ origin, status: ask({ host, authorization, origin }) }).toEqual({ origin, status: 403 })
    }
  })
})

describe("connections", () => {
  test("are as many as may be at a time, and of another machine's one address fewer", () => {
    const admission = new Admission()
    const leave = Array.from({ length: ofOneAddressMax }, () => admission.admit("10.0.0.1"))
    expect(leave).not.toContain(undefined)
    expect(admission.admit("10.0.0.1")).toBeUndefined()
    // The end of one, however often it is told, is room for one.
    leave[0]!()
    leave[0]!()
    expect(admission.admit("10.0.0.1")).toBeDefined()
    expect(admission.admit("10.0.0.1")).toBeUndefined()
    const local = Array.from({ length: connectionsMax - ofOneAddressMax }, () => admission.admit("127.0.0.1"))
    expect(local).not.toContain(undefined)
    expect(admission.admit("10.0.0.2")).toBeUndefined()
    expect(admission.admit("::1")).toBeUndefined()
    local[0]!()
    expect(admission.admit("10.0.0.2")).toBeDefined()
  })
})

const suite = existsSync(program) ? describe : describe.skip
if (suite === describe.skip) console.warn("skipped: bunker serve on a network; missing: dist/bunker ('bun run build')")

suite("bunker serve --listen HOST:PORT", () => {
  let home: Home
  beforeAll(() => {
    home = new Home()
  })
  afterAll(() => home.dispose())
  const tokenFile = () => path.join(home.directory, "token")
  const serve = async (listen = "127.0.0.1:0") => {
    const child = home.start(["serve", "--listen", listen])
    const reader = child.stderr.getReader()
    const said = new TextDecoder().decode((await reader.read()).value)
    reader.releaseLock()
    const port = Number(/:(\d+)\s*$/.exec(said)?.[1])
    return { child, said, port }
  }
  /** One request as it stands on the wire: status and body. */
  const raw = (port: number, lines: ReadonlyArray<string>, at = "/v1/version") =>
    new Promise<{ status: number; text: string }>((resolve, reject) => {
      const socket = net.connect(port, "127.0.0.1", () => {
        socket.write(`GET ${at} HTTP/1.1\r\n${[...lines, "Connection: close"].join("\r\n")}\r\n\r\n`)
      })
      let text = ""
      socket.on("data", (data) => {
        text += data
      })
      socket.on("close", () => resolve({ status: Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1]), text }))
      socket.on("error", reject)
    })

  test("makes a token at first use, keeps it, and lets nobody in without it", async () => {
    const { child, port, said } = await serve()
    const token = readFileSync(tokenFile(), "utf8").trim()
    expect(token).toMatch(/^[A-Za-z0-9_-]{43}$/)
    expect(statSync(tokenFile()).mode & 0o777).toBe(0o600)
    expect(said).not.toContain(token)
    const host = `Host: 127.0.0.1:${port}`
    const bearer = `Authorization: Bearer ${token}`
    expect(await raw(port, [host, bearer])).toMatchObject({ status: 200 })
    const without = await raw(port, [host])
    expect(without.status).toBe(401)
    expect(without.text).toContain('"code":"Unauthorized"')
    expect(without.text.toLowerCase()).toContain("www-authenticate: bearer")
    expect(without.text).not.toContain(token)
    // Watchers and browsers have no token; what these say is nobody's secret.
    for (const open of ["/healthz", "/readyz", "/docs", "/openapi.json"]) {
      expect({ open, status: (await raw(port, [host], open)).status }).toEqual({ open, status: 200 })
      expect(await raw(port, [`Host: evil.example:${port}`], open)).toMatchObject({ status: 403 })
      expect(await raw(port, [host, "Origin: http://evil.example"], open)).toMatchObject({ status: 403 })
    }
    for (const closed of ["/metrics", "/v1/sandboxes", "/healthz/", "//healthz", "/docs/../v1/sandboxes"])
      expect({ closed, status: (await raw(port, [host], closed)).status }).toEqual({ closed, status: 401 })
    expect(await raw(port, [host, `${bearer}x`])).toMatchObject({ status: 401 })
    expect(await raw(port, [`Host: evil.example:${port}`, bearer])).toMatchObject({ status: 403 })
    expect(await raw(port, [host, bearer, "Origin: http://evil.example"])).toMatchObject({ status: 403 })
    const models = await fetch(`http://127.0.0.1:${port}/ai/models`, { headers: { authorization: `Bearer ${token}` } })
    expect(await models.json()).toEqual({ ok: true, count: 0, models: [] })
    const taken = await home.bunker(["serve", "--listen", `127.0.0.1:${port}`])
    expect({ code: taken.code, lines: taken.stderr.trim().split("\n").length }).toEqual({ code: 125, lines: 1 })
    child.kill("SIGTERM")
    expect(await child.exited).toBe(0)
    const again = await serve()
    expect(readFileSync(tokenFile(), "utf8").trim()).toBe(token)
    expect(await raw(again.port, [`Host: localhost:${again.port}`, bearer])).toMatchObject({ status: 200 })
    again.child.kill("SIGTERM")
    expect(await again.child.exited).toBe(0)
  }, 30_000)

  /** Waits for all that is said until it listens. */
  const listening = async (args: ReadonlyArray<string>) => {
    const child = home.start(["serve", ...args])
    let said = ""
    for await (const chunk of child.stderr) {
      said += new TextDecoder().decode(chunk)
      if (said.includes(" listens on ")) break
    }
    return { child, said, port: Number(/:(\d+)\s*$/.exec(said)?.[1]) }
  }

  test("who has no token keeps no connection, and sends no body", async () => {
    const { child, port } = await listening(["--listen", "127.0.0.1:0"])
    const closed = await new Promise<string>((resolve) => {
      const socket = net.connect(port, "127.0.0.1", () => {
        socket.write(`POST /v1/images/load HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nContent-Length: 1000000000\r\n\r\n`)
      })
      let text = ""
      socket.on("data", (data) => {
        text += data
      })
      socket.on("error", () => {})
      socket.on("close", () => resolve(text))
    })
    expect(closed).toStartWith("HTTP/1.1 401 ")
    child.kill("SIGTERM")
    expect(await child.exited).toBe(0)
  }, 30_000)

  test("an address that others reach is told as such, with a way to TLS, which works", async () => {
    const plain = await listening(["--listen", "0.0.0.0:0"])
    expect(plain.said).toContain("plain HTTP")
    expect(plain.said).toContain("--tls-cert")
    plain.child.kill("SIGTERM")
    await plain.child.exited

    const [cert, key] = [path.join(home.directory, "cert.pem"), path.join(home.directory, "key.pem")]
    const how = "req -x509 -newkey rsa:2048 -nodes -subj /CN=test -days 2".split(" ")
    Bun.spawnSync(["openssl", ...how, "-keyout", key, "-out", cert])
    const secured = await listening(["--listen", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key])
    expect(secured.said).toContain("https://127.0.0.1:")
    const token = readFileSync(tokenFile(), "utf8").trim()
    const ask = (headers: Record<string, string>) =>
      fetch(`https://127.0.0.1:${secured.port}/ai/models`, { headers, tls: { rejectUnauthorized: false } })
    expect((await ask({ authorization: `Bearer ${token}` })).status).toBe(200)
    expect((await ask({})).status).toBe(401)
    const origin = `https://127.0.0.1:${secured.port}`
    expect((await ask({ authorization: `Bearer ${token}`, origin })).status).toBe(200)
    expect((await ask({ authorization: `Bearer ${token}`, origin: origin.replace("https", "http") })).status).toBe(403)
    expect(await raw(secured.port, [`Host: 127.0.0.1:${secured.port}`])).not.toMatchObject({ status: 200 })
    secured.child.kill("SIGTERM")
    expect(await secured.child.exited).toBe(0)
  }, 30_000)

  test("flags for TLS that can not be followed are refused", async () => {
    for (const [args, words] of [
      [["--listen", "127.0.0.1:0", "--tls-cert", "/dev/null"], "belong together"],
      [["--tls-cert", "/dev/null", "--tls-key", "/dev/null"], "unix socket"],
      [["--listen", "127.0.0.1:0", "--tls-cert", "/no/such", "--tls-key", "/dev/null"], "/no/such can not be read"],
      [["--listen", "127.0.0.1:0", "--tls-cert", "/etc/passwd", "--tls-key", "/etc/passwd"], "certificate"]
    ] as const) {
      const { code, stderr } = await home.bunker(["serve", ...args])
      expect({ args, code, stderr }).toEqual({ args, code: 125, stderr: expect.stringContaining(words) })
      expect(stderr.trim().split("\n")).toHaveLength(1)
    }
  }, 30_000)

  test("a token file that holds none is refused", async () => {
    writeFileSync(tokenFile(), "short\n")
    const { code, stderr } = await home.bunker(["serve", "--listen", "127.0.0.1:0"])
    expect(code).toBe(125)
    expect(stderr).toContain(tokenFile())
    expect(stderr).not.toContain("short")
  }, 30_000)
})
