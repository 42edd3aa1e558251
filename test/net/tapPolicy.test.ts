/** What a guest with Linux's own TCP sees of the policy, of ends and of the host's proxies. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import fs from "node:fs"
import net from "node:net"
import { cardAddresses } from "../../src/net/addresses.ts"
import { makeDialer } from "../../src/net/dial/dialer.ts"
import { parseProxies } from "../../src/net/dial/proxy.ts"
import type { NetworkPolicy } from "../../src/net/types.ts"
import { allowAll, FakeUpstream } from "../support/frames.ts"
import { makeTapWorld, missingForTap, type TapWorld } from "../support/tapWorld.ts"

const missing = missingForTap()
if (missing !== undefined) console.warn(`skipped: the policy against Linux's TCP; missing: ${missing}`)

const listening = async (server: net.Server): Promise<number> => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  return (server.address() as net.AddressInfo).port
}

/** Connects in the guest and says what became of it. */
const connect = (host: string, port: number): string => `
  const done = (what) => { console.log(JSON.stringify(what)); process.exit(0) }
  const socket = require("node:net").connect(${port}, ${JSON.stringify(host)})
  socket.on("error", (error) => done(error.code))
  socket.on("data", (bytes) => done(bytes.toString()))
  socket.on("end", () => done("end"))
  setTimeout(() => done("nothing"), 20_000)`

describe.skipIf(missing !== undefined)("a guest with Linux's TCP", () => {
  let world: TapWorld
  /** What the resolver says next, so that it may change its mind. */
  let addresses: ReadonlyArray<string> = ["127.0.0.1"]
  let policy: NetworkPolicy = allowAll
  const resolve = async () => addresses
  beforeAll(async () => {
    world = await makeTapWorld({ resolve })
  })
  afterAll(() => world[Symbol.asyncDispose]())
  const use = (next: Partial<NetworkPolicy>): void => {
    policy = { ...allowAll, ...next }
    world.stack.setPolicy(policy)
  }

  test("a denied connect and a name that nobody listens for are refused alike", async () => {
    use({ decideName: (name) => ({ allow: name !== "denied.test" }) })
    const closed = net.createServer()
    const port = await listening(closed)
    closed.close()
    expect(await world.script(connect("open.test", port))).toBe("ECONNREFUSED")
    expect(await world.script(connect("8.8.8.8", 0 + port).replace("8.8.8.8", "192.0.0.1"))).toBe("ECONNREFUSED")
    const looked = await world.run(["getent", "ahosts", "denied.test"])
    expect(looked).toMatchObject({ code: 2, stdout: "" })
  })

  test("a name whose address the policy denies is refused: also when the resolver changes its mind after the question", async () => {
    const server = net.createServer((socket) => socket.end("reached"))
    const port = await listening(server)
    use({
      decideFlow: ({ address }) => ({ allow: address !== "169.254.169.254" && address !== "127.0.0.1", rule: "no" })
    })
    addresses = ["127.0.0.1"]
    expect(await world.script(connect("rebound.test", port))).toBe("ECONNREFUSED")
    expect(world.events.at(-1)).toMatchObject({
      kind: "denied",
      name: "rebound.test",
      address: "127.0.0.1",
      rule: "no"
    })
    use({ decideFlow: ({ address }) => ({ allow: address === "127.0.0.1" }) })
    // One of several that is allowed is the one that is connected to.
    addresses = ["169.254.169.254", "127.0.0.1"]
    expect(await world.script(connect("rebound.test", port))).toBe("reached")
    addresses = ["127.0.0.1"]
    server.close()
  })

  test("a reset of the server is a reset in the guest, an end is an end", async () => {
    use({})
    const server = net.createServer((socket) => {
      socket.on("error", () => {})
      socket.once("data", (bytes) => (bytes.toString() === "reset" ? socket.resetAndDestroy() : socket.end()))
    })
    const port = await listening(server)
    const say = (text: string) => connect("s.test", port).replace("socket.on", `socket.write("${text}"); socket.on`)
    expect(await world.script(say("reset"))).toBe("ECONNRESET")
    expect(await world.script(say("end"))).toBe("end")
    server.close()
  })

  test("a reset of the guest is a reset for the server", async () => {
    const seen = Promise.withResolvers<string>()
    const server = net.createServer((socket) => {
      socket.on("error", (error: NodeJS.ErrnoException) => seen.resolve(error.code ?? ""))
      socket.on("end", () => seen.resolve("end"))
      socket.write("x")
    })
    const port = await listening(server)
    const code = `const s = require("node:net").connect(${port}, "s.test", () => s.once("data", () => { s.resetAndDestroy(); console.log(1) }))`
    await world.script(code)
    expect(await seen.promise).toBe("ECONNRESET")
    server.close()
  })

  test("a narrowed policy resets what is open", async () => {
    use({})
    const opened = Promise.withResolvers<void>()
    const server = net.createServer((socket) => {
      socket.on("error", () => {})
      opened.resolve()
    })
    const port = await listening(server)
    const waiting = world.script(connect("s.test", port))
    await opened.promise
    while (!world.events.some(({ kind, port: to }) => kind === "opened" && to === port)) await Bun.sleep(5)
    use({ decideName: () => ({ allow: false }) })
    expect(await waiting).toBe("ECONNRESET")
    server.close()
    use({})
  })

  test("UDP goes and comes up to the largest datagram; nobody there is a refusal", async () => {
    const server = await Bun.udpSocket({
      hostname: "127.0.0.1",
      port: 0,
      socket: { data: (socket, bytes, port, address) => void socket.send(bytes, port, address) }
    })
    const code = (port: number, size: number) => `
      const dgram = require("node:dgram")
      const socket = dgram.createSocket("udp4")
      const body = Buffer.alloc(${size}, 7)
      const done = (what) => { console.log(JSON.stringify(what)); process.exit(0) }
      socket.on("message", (bytes) => done(bytes.equals(body) ? bytes.length : "other bytes"))
      socket.on("error", (error) => done(error.code))
      socket.connect(${port}, "udp.test", () => { socket.send(body); setInterval(() => socket.send(body), 1000) })
      setTimeout(() => done("nothing"), 20_000)`
    // Two headers less than the card's MTU: what a TAP device carries without fragments.
    for (const size of [1, 1500, 40_000, 65_492]) expect(await world.script(code(server.port, size))).toBe(size)
    const { port } = server
    server.close()
    expect(await world.script(code(port, 5))).toBe("ECONNREFUSED")
  })

  test("DNS by UDP and TCP at any address", async () => {
    for (const option of ["+notcp", "+tcp"]) {
      const asked = await world.run(["dig", option, "+short", "+tries=1", "@9.9.9.9", "a.test", "A", "a.test", "AAAA"])
      expect(asked.stdout).toMatch(/^198\.18\.\d+\.\d+\nfd42:[0-9a-f:]+\n$/)
    }
    use({ decideName: () => ({ allow: false }) })
    const refused = await world.run(["dig", "+tries=1", "@9.9.9.9", "a.test"])
    expect(refused.stdout).toContain("status: REFUSED")
    use({})
  })

  test("a guest that does not read is waited for, within a bound of memory", async () => {
    const server = net.createServer((socket) => {
      const go = (): void => {
        while (socket.writableLength < 1_048_576 && !socket.destroyed) socket.write(Buffer.alloc(262_144))
      }
      socket.on("error", () => {})
      socket.on("drain", go)
      go()
    })
    const port = await listening(server)
    const guest = world.spawn([
      process.execPath,
      "-e",
      `const s = Array.from({ length: 40 }, () => require("node:net").connect(${port}, "slow.test", function () { this.pause() }))
       setTimeout(() => {}, 60_000)`
    ])
    while (world.stack.stats().heldBytes <= 1_048_576) await Bun.sleep(10)
    let held = -1
    while (held !== world.stack.stats().heldBytes) {
      held = world.stack.stats().heldBytes
      await Bun.sleep(300)
    }
    expect(held).toBeLessThan(48 * 1_048_576)
    guest.kill("SIGKILL")
    await guest.exited
    while (world.stack.stats().heldBytes > 0) await Bun.sleep(10)
    server.close()
  }, 60_000)
})

test.skipIf(missing !== undefined)(
  "a port of the guest is connected to from the gateway, one that is closed refuses",
  async () => {
    await using world = await makeTapWorld()
    const server = world.spawn([
      process.execPath,
      "-e",
      `require("node:net").createServer({ allowHalfOpen: true }, (socket) => {
       let got = ""
       socket.on("data", (bytes) => (got += bytes))
       socket.on("end", () => socket.end(got.length + " from " + socket.remoteAddress))
     }).listen(8080, "0.0.0.0", () => console.log("listening"))`
    ])
    await server.stdout.getReader().read()
    const upstream = new FakeUpstream({ data: () => {}, drain: () => {}, end: () => {}, closed: () => {} })
    const guest = await world.stack.connectGuest(8080, upstream)
    guest!.data(Buffer.alloc(300_000, 65))
    guest!.end()
    while (!upstream.ended) await Bun.sleep(5)
    expect(upstream.got.toString()).toBe(`300000 from ${cardAddresses.gateway4}`)
    expect(await world.stack.connectGuest(8081, upstream)).toBeUndefined()
    server.kill()
    await server.exited
  }
)

describe.skipIf(missing !== undefined)("through a proxy of the host", () => {
  /** A proxy that connects to a server of this test whatever the name, and remembers what it was asked. */
  const proxyServer = (asked: Array<string>, kind: "http" | "socks5", target: () => number): net.Server =>
    net.createServer((client) => {
      client.on("error", () => {})
      const join = (consent: Buffer): void => {
        const server = net.connect(target(), "127.0.0.1", () => {
          client.write(consent)
          client.pipe(server).pipe(client)
        })
        server.on("error", () => client.destroy())
      }
      client.once("data", (first: Buffer) => {
        if (kind === "http") {
          asked.push(first.toString("latin1").split("\r\n")[0]!)
          return join(Buffer.from("HTTP/1.1 200 Connected\r\n\r\n"))
        }
        client.write(Buffer.from([5, 0]))
        client.once("data", (request: Buffer) => {
          asked.push(request.toString("latin1", 5, 5 + request[4]!))
          join(Buffer.from([5, 0, 0, 1, 0, 0, 0, 0, 0, 0]))
        })
      })
    })

  for (const kind of ["http", "socks5"] as const)
    test(`${kind}: by name, without any DNS on the host`, async () => {
      const asked: Array<string> = []
      const server = net.createServer((socket) => socket.end("through"))
      const port = await listening(server)
      const proxy = proxyServer(asked, kind, () => port)
      const at = await listening(proxy)
      const resolve = () => Promise.reject(new Error("the host was asked"))
      const proxies = parseProxies({ all: `${kind}://127.0.0.1:${at}`, no: "direct.test" })
      await using world = await makeTapWorld({ dialer: makeDialer({ connectTimeoutMs: 5000, proxies, resolve }) })
      expect(await world.script(connect("far.test", 4443))).toBe("through")
      expect(asked).toEqual([kind === "http" ? "CONNECT far.test:4443 HTTP/1.1" : "far.test"])
      expect(await world.script(connect("direct.test", 4443))).toBe("ECONNREFUSED")
      proxy.close()
      server.close()
    })
})

test.skipIf(missing !== undefined)(
  "an interceptor gets the flow of its host as a real socket, and UDP to it is refused",
  async () => {
    await using world = await makeTapWorld({
      resolve: async () => ["127.0.0.1"],
      intercept: ({ name }) => {
        if (name === "broken.test") return () => Promise.reject(new Error("no"))
        if (name !== "secret.test") return undefined
        return async () => (socket: net.Socket) => {
          socket.once("data", (bytes) => socket.end(`intercepted ${bytes}`))
        }
      }
    })
    const say = connect("secret.test", 443).replace("socket.on", `socket.write("hello"); socket.on`)
    expect(await world.script(say)).toBe("intercepted hello")
    expect(await world.script(connect("broken.test", 443))).toBe("ECONNREFUSED")
    const quic = await world.script(`
    const socket = require("node:dgram").createSocket("udp4")
    socket.on("error", (error) => { console.log(JSON.stringify(error.code)); process.exit(0) })
    socket.connect(443, "secret.test", () => socket.send("x"))
    setTimeout(() => process.exit(0), 10_000)`)
    expect(quic).toBe("ECONNREFUSED")
    expect(fs.readdirSync("/proc/self/fd").length).toBeLessThan(200)
  }
)
