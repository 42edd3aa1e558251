/** Published ports, with a real agent process on this machine as the guest: its loopback is ours. */

import { describe, expect } from "bun:test"
import fs from "node:fs"
import net from "node:net"
import { Deferred, Effect, Exit, Schedule, Scope } from "effect"
import { checkPorts, publishPorts, withPorts } from "../../../../src/actors/keeper/network/publishedPorts.ts"
import type { Traffic } from "../../../../src/actors/keeper/runningVm.ts"
import { parsePort } from "../../../../src/domain/sandbox/ports.ts"
import type { PublishedPort, SandboxInfo } from "../../../../src/domain/sandbox/sandbox.ts"
import type { Termination } from "../../../../src/domain/sandbox/termination.ts"
import { Database } from "../../../../src/store/database/Database.ts"
import { findSandbox } from "../../../../src/store/database/sandboxes.ts"
import { Paths } from "../../../../src/store/files/Paths.ts"
import { freshHome } from "../../../support/home.ts"
import { it } from "../../../support/it.ts"
import { nativeAgent } from "../../../support/nativeAgent.ts"
import { putSandbox } from "../../../support/sandboxes.ts"
import { service } from "../../../support/service.ts"

/** A record of a running sandbox that publishes ports. */
const sandbox = Effect.fnUntraced(function* (name: string, ports: ReadonlyArray<PublishedPort | string>) {
  const db = yield* Database
  const paths = yield* Paths
  yield* putSandbox({ name, status: "running" })
  const { info } = (yield* findSandbox(db, name as never))!
  fs.mkdirSync(paths.run(info.id).directory, { recursive: true })
  const parsed = ports.map((port) => (typeof port === "string" ? (parsePort(port) as PublishedPort) : port))
  return { ...info, config: { ...info.config, ports: parsed } } as SandboxInfo
})

const published = Effect.fnUntraced(function* (
  name: string,
  guestPort: number,
  activity = () => {},
  traffic: Traffic = { received: 0, sent: 0 }
) {
  const { guest } = yield* nativeAgent
  const info = yield* sandbox(name, [`0:${guestPort}`])
  const ended = yield* Deferred.make<Termination>()
  const ports = yield* publishPorts(info, false)
  yield* ports.open({ channel: guest, ended, activity, traffic })
  const [port] = withPorts(yield* Paths, info).ports!
  return { port: port!.hostPort, info, ended }
})

interface Outcome {
  readonly said: string
  readonly how: string
}

/** Connects, sends, says that it is done, and answers all that came and how it ended. */
const client = (port: number, send: string | Uint8Array, half = true): Effect.Effect<Outcome> =>
  Effect.callback((resume) => {
    const pieces: Array<Buffer> = []
    let how = "end"
    const socket = net.connect({ host: "127.0.0.1", port, allowHalfOpen: true })
    socket.on("data", (bytes: Buffer) => pieces.push(bytes))
    socket.on("end", () => socket.end())
    socket.on("error", (error: NodeJS.ErrnoException) => {
      how = error.code ?? error.message
    })
    socket.on("close", () => resume(Effect.succeed({ said: Buffer.concat(pieces).toString("latin1"), how })))
    if (half) socket.end(send)
    else socket.write(send)
  })

const sha256 = (bytes: Uint8Array): string => new Bun.CryptoHasher("sha256").update(bytes).digest("hex")

describe("a published port", () => {
  it.live("counts the bytes of each direction, of connections that break, too", () =>
    Effect.gen(function* () {
      const traffic = { received: 0, sent: 0 }
      const answer = Buffer.alloc(300_000, "x")
      const talkative = yield* service((socket) => {
        socket.on("data", () => {})
        socket.on("end", () => socket.end(answer))
      })
      const { port } = yield* published("counts", talkative, () => {}, traffic)
      expect((yield* client(port, Buffer.alloc(70_000))).said.length).toBe(answer.length)
      expect(traffic).toEqual({ received: 70_000, sent: answer.length })
      const rude = yield* service((socket) => socket.once("data", () => socket.resetAndDestroy()))
      const cut = yield* published("cut", rude, () => {}, traffic)
      yield* client(cut.port, "12345", false)
      expect(traffic).toEqual({ received: 70_005, sent: answer.length })
    }).pipe(Effect.provide(freshHome))
  )

  it.live("carries connections to the service in the guest, ends in order, and tells of traffic", () =>
    Effect.gen(function* () {
      let traffic = 0
      const echo = yield* service((socket) => {
        let heard = ""
        socket.on("data", (bytes) => void (heard += bytes.toString()))
        socket.on("end", () => socket.end(`heard ${heard}`))
      })
      const { port } = yield* published("a", echo, () => void (traffic += 1))
      expect(yield* client(port, "hello")).toEqual({ said: "heard hello", how: "end" })
      const many = yield* Effect.forEach(
        Array.from({ length: 40 }, (_, index) => `${index}`),
        (text) => client(port, text),
        {
          concurrency: "unbounded"
        }
      )
      expect(many.map(({ said }) => said)).toEqual(Array.from({ length: 40 }, (_, index) => `heard ${index}`))
      expect(traffic).toBeGreaterThan(80)
    }).pipe(Effect.scoped, Effect.provide(freshHome))
  )

  it.live("carries 10 MB both ways at once unchanged", () =>
    Effect.gen(function* () {
      const echo = yield* service((socket) => void socket.pipe(socket))
      const { port } = yield* published("a", echo)
      const bytes = Buffer.alloc(10_000_000)
      for (let at = 0; at < bytes.length; at += 50_000) crypto.getRandomValues(bytes.subarray(at, at + 50_000))
      const { said, how } = yield* client(port, bytes)
      expect({ hash: sha256(Buffer.from(said, "latin1")), how }).toEqual({ hash: sha256(bytes), how: "end" })
    }).pipe(Effect.scoped, Effect.provide(freshHome))
  )

  it.live("resets connections where nobody listens in the guest, and those that the service resets", () =>
    Effect.gen(function* () {
      const nobody = yield* Effect.scoped(service(() => {}))
      const first = yield* published("a", nobody)
      expect((yield* client(first.port, "x", false)).how).toBe("ECONNRESET")
      const rude = yield* service((socket) => socket.once("data", () => socket.resetAndDestroy()))
      const second = yield* published("b", rude)
      expect((yield* client(second.port, "x", false)).how).toBe("ECONNRESET")
    }).pipe(Effect.scoped, Effect.provide(freshHome))
  )

  it.live("shows the service a reset when the client resets", () =>
    Effect.gen(function* () {
      const seen = yield* Deferred.make<string>()
      const port = yield* service((socket) => {
        socket.on("error", (error: NodeJS.ErrnoException) =>
          Deferred.doneUnsafe(seen, Effect.succeed(error.code ?? ""))
        )
        socket.write("hi")
      })
      const host = yield* published("a", port)
      const socket = net.connect({ host: "127.0.0.1", port: host.port })
      socket.once("data", () => socket.resetAndDestroy())
      expect(yield* Deferred.await(seen)).toBe("ECONNRESET")
    }).pipe(Effect.scoped, Effect.provide(freshHome))
  )

  it.live("is free again when the VM has ended, and when its scope has closed", () =>
    Effect.gen(function* () {
      const echo = yield* service((socket) => void socket.pipe(socket))
      const { port, ended } = yield* published("a", echo)
      const config = { ports: [{ hostIp: "127.0.0.1", hostPort: port, guestPort: 1 }] }
      expect((yield* Effect.flip(checkPorts(config, undefined)))._tag).toBe("PortTaken")
      yield* Deferred.succeed(ended, undefined as never)
      yield* checkPorts(config, undefined).pipe(Effect.retry({ times: 100, schedule: Schedule.spaced(10) }))

      const scope = yield* Scope.make()
      yield* publishPorts(yield* sandbox("b", config.ports), false).pipe(Scope.provide(scope))
      expect((yield* Effect.flip(checkPorts(config, undefined)))._tag).toBe("PortTaken")
      yield* Scope.close(scope, Exit.void)
      yield* checkPorts(config, undefined)
    }).pipe(Effect.scoped, Effect.provide(freshHome))
  )

  it.live("that is taken names the sandbox or the process that has it", () =>
    Effect.gen(function* () {
      const info = yield* sandbox("holder", ["0:80"])
      yield* publishPorts(info, false)
      const held = withPorts(yield* Paths, info).ports!
      const bySandbox = yield* Effect.flip(publishPorts(yield* sandbox("late", held), false))
      expect(bySandbox.message).toContain('sandbox "holder" publishes it')
      expect(bySandbox.message).toContain(`127.0.0.1:${held[0]!.hostPort}`)
      // The one that is about to go may be replaced.
      yield* checkPorts({ ports: held }, info)

      const ours = yield* service(() => {})
      const byProcess = yield* Effect.flip(checkPorts({ ports: [{ ...held[0]!, hostPort: ours }] }, undefined))
      expect(byProcess.message).toContain(`process ${process.pid} (`)
      // One that has the number on another address has nothing to do with it.
      const elsewhere = net.createServer()
      const address = { ...held[0]!, hostIp: "127.0.0.9" }
      yield* Effect.callback<void>((resume) => {
        elsewhere.listen({ host: address.hostIp, port: address.hostPort }, () => resume(Effect.void))
      })
      yield* Effect.addFinalizer(() => Effect.sync(() => elsewhere.close()))
      const other = yield* Effect.flip(checkPorts({ ports: [address] }, undefined))
      expect(other.message).toContain(`127.0.0.9:${address.hostPort} can not be published: process ${process.pid} (`)

      // Nor has another process that has the number there.
      const script = `require("net").createServer().listen(${address.hostPort}, "127.0.0.8", () => console.log("up"))`
      const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" })
      yield* Effect.addFinalizer(() => Effect.sync(() => child.kill()))
      yield* Effect.promise(() => child.stdout.getReader().read())
      const childs = yield* Effect.flip(checkPorts({ ports: [{ ...address, hostIp: "127.0.0.8" }] }, undefined))
      expect(childs.message).toContain(`process ${child.pid} (`)

      const nowhere = yield* Effect.flip(checkPorts({ ports: [{ ...held[0]!, hostIp: "192.0.2.1" }] }, undefined))
      expect(nowhere.message).toContain("no address 192.0.2.1")
    }).pipe(Effect.scoped, Effect.provide(freshHome))
  )

  it.live("keeps the free number that was picked when another keeper takes over", () =>
    Effect.gen(function* () {
      const info = yield* sandbox("a", ["0:80", "0:81"])
      yield* Effect.scoped(publishPorts(info, false))
      const before = withPorts(yield* Paths, info).ports
      yield* publishPorts(info, true)
      expect(withPorts(yield* Paths, info).ports).toEqual(before)
    }).pipe(Effect.scoped, Effect.provide(freshHome))
  )

  it.live("is added and taken away while others go on, and not at all where one can not be had", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const hello = yield* service((socket) => void socket.end("hello"))
      const info = yield* sandbox("a", [`0:${hello}`])
      const ports = yield* publishPorts(info, false)
      yield* ports.open({ channel: guest, ended: yield* Deferred.make<Termination>() })
      const [first] = withPorts(yield* Paths, info).ports!
      const asked = { ...info.config.ports![0]!, hostIp: "127.0.0.1" }
      const both = yield* ports.set([asked, asked])
      expect(both[0]).toEqual(first!)
      expect(both[1]!.hostPort).not.toBe(first!.hostPort)
      for (const { hostPort } of both) expect(yield* client(hostPort, "")).toEqual({ said: "hello", how: "end" })
      const taken = { ...asked, hostPort: both[0]!.hostPort }
      expect((yield* Effect.flip(ports.set([asked, taken])))._tag).toBe("PortTaken")
      // All is as it was.
      for (const { hostPort } of both) expect((yield* client(hostPort, "")).said).toBe("hello")
      expect(yield* ports.set([])).toEqual([])
      const refused = client(first!.hostPort, "")
      const gone = yield* refused.pipe(Effect.repeat({ until: ({ how }) => how === "ECONNREFUSED", times: 100 }))
      expect(gone.how).toBe("ECONNREFUSED")
    }).pipe(Effect.scoped, Effect.provide(freshHome))
  )
})
