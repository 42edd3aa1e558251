/**
 * Publishes ports of a guest: listens on this machine and carries each connection to the guest's loopback. TCP only; decides
 * nothing about who may connect.
 *
 * Invariants: a port that can not be had is known before the VM starts; what listens ends with the scope and with the VM; a
 * connection that breaks on one side is reset on the other.
 */

import fs from "node:fs"
import net from "node:net"
import { Deferred, Effect, Exit, Schema, Scope, Semaphore, Stream } from "effect"
import { PortTaken } from "../../../domain/errors/guestIo.ts"
import { addressesOverlap, formatAddress } from "../../../domain/sandbox/ports.ts"
import { isLive, PublishedPort, type SandboxConfig, SandboxInfo } from "../../../domain/sandbox/sandbox.ts"
import { Database } from "../../../store/database/Database.ts"
import { listSandboxes } from "../../../store/database/sandboxes.ts"
import { attemptFile } from "../../../store/files/files.ts"
import { Paths } from "../../../store/files/Paths.ts"
import { findListener } from "../../../store/processes/listeners.ts"
import type { DialedConnection } from "../../../vm/guest/dial.ts"
import type { Published, Traffic } from "../runningVm.ts"

/** Connections that are carried at the same time; more wait, and above `waitingMax` they are reset. */
const connectionsMax = 128
const waitingMax = 1024

const PortsFile = Schema.fromJsonString(Schema.Array(PublishedPort))
const encodePorts = Schema.encodeSync(PortsFile)
const decodePorts = Schema.decodeUnknownOption(PortsFile)

const readPorts = (file: string): ReadonlyArray<PublishedPort> => {
  try {
    const found = decodePorts(fs.readFileSync(file, "utf8"))
    return found._tag === "Some" ? found.value : []
  } catch {
    return []
  }
}

/** The record with the ports that are listened on now, where the definition publishes any and it is live. */
export const withPorts = (paths: Paths["Service"], info: SandboxInfo): SandboxInfo => {
  if ((info.config.ports ?? []).length === 0 || !isLive(info.status)) return info
  return new SandboxInfo({ ...info, ports: readPorts(paths.run(info.id).ports) })
}

/** Who has a port, as a phrase. */
const ownerOf = Effect.fnUntraced(function* (port: PublishedPort) {
  const db = yield* Database
  const paths = yield* Paths
  const sandboxes = yield* Effect.orElseSucceed(listSandboxes(db), () => [])
  const holder = sandboxes.find(
    ({ info }) =>
      isLive(info.status) &&
      readPorts(paths.run(info.id).ports).some(
        ({ hostIp, hostPort }) => hostPort === port.hostPort && addressesOverlap(hostIp, port.hostIp)
      )
  )
  if (holder !== undefined) return `sandbox "${holder.info.name}" publishes it`
  const listener = yield* Effect.sync(() =>
    findListener(port.hostPort, (address) => addressesOverlap(address, port.hostIp))
  )
  return listener === undefined
    ? "another process listens on it"
    : `process ${listener.pid} (${listener.command}) listens on it`
})

const explain = Effect.fnUntraced(function* (port: PublishedPort, cause: NodeJS.ErrnoException) {
  const address = formatAddress(port.hostIp, port.hostPort)
  const code = cause.code ?? cause.message
  const owner =
    code === "EADDRINUSE"
      ? yield* ownerOf(port)
      : code === "EADDRNOTAVAIL"
        ? `this machine has no address ${port.hostIp}`
        : code === "EACCES"
          ? "ports below 1024 need the right CAP_NET_BIND_SERVICE"
          : code
  return yield* new PortTaken({ address, owner })
})

const listen = Effect.fnUntraced(function* (port: PublishedPort) {
  return yield* Effect.acquireRelease(
    Effect.callback<net.Server, NodeJS.ErrnoException>((resume) => {
      // Neither direction ends the other, and nothing is read before somebody takes it.
      const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true })
      server.once("error", (error: NodeJS.ErrnoException) => resume(Effect.fail(error)))
      server.listen({ host: port.hostIp, port: port.hostPort, exclusive: true }, () => {
        server.on("error", () => {})
        server.unref()
        resume(Effect.succeed(server))
      })
    }),
    (server) => Effect.sync(() => server.close())
  ).pipe(Effect.catch((cause) => explain(port, cause)))
})

/**
 * Fails with the owner when one of the fixed ports can not be had now. Listens only as long as it looks. Those that `leaving` has
 * count as free.
 */
export const checkPorts = Effect.fn("Ports.check")(function* (
  config: Pick<SandboxConfig, "ports">,
  leaving: SandboxInfo | undefined
) {
  const free = leaving === undefined ? [] : (withPorts(yield* Paths, leaving).ports ?? [])
  const fixed = (config.ports ?? []).filter(
    ({ hostIp, hostPort }) =>
      hostPort !== 0 && !free.some((port) => port.hostPort === hostPort && addressesOverlap(port.hostIp, hostIp))
  )
  yield* Effect.scoped(Effect.forEach(fixed, listen, { discard: true }))
})

interface Listening {
  /** As it was asked for, with host port 0 for a free one. */
  readonly asked: PublishedPort
  readonly port: PublishedPort
  readonly scope: Scope.Closeable
}

const isSame = (one: PublishedPort, other: PublishedPort): boolean =>
  one.hostIp === other.hostIp && one.hostPort === other.hostPort && one.guestPort === other.guestPort

/** Listens on the ports of a sandbox. `again`: those that its last keeper had, free ones included. */
export const publishPorts = Effect.fn("Ports.publish")(function* (info: SandboxInfo, again: boolean) {
  const paths = yield* Paths
  const db = yield* Database
  const file = paths.run(info.id).ports
  const own = yield* Effect.scope
  const turn = yield* Semaphore.make(1)
  const waiting: Array<readonly [socket: net.Socket, port: PublishedPort]> = []
  let take = (socket: net.Socket, port: PublishedPort): void => {
    if (waiting.length >= waitingMax) socket.resetAndDestroy()
    else waiting.push([socket, port])
  }
  let listening: ReadonlyArray<Listening> = []

  /** `wanted`: the host port that is tried for it. */
  const begin = Effect.fnUntraced(function* (asked: PublishedPort, wanted: PublishedPort) {
    const scope = yield* Scope.fork(own)
    const server = yield* listen(wanted).pipe(
      Scope.provide(scope),
      Effect.onError(() => Scope.close(scope, Exit.void))
    )
    const port = { ...asked, hostPort: (server.address() as net.AddressInfo).port }
    server.on("connection", (socket) => {
      socket.on("error", () => {})
      socket.unref()
      take(socket, port)
    })
    return { asked, port, scope } satisfies Listening
  })
  const stop = (each: Listening) => Scope.close(each.scope, Exit.void)

  /** New ones first: where one can not be had, everything stays as it is. */
  const set = Effect.fn("Ports.set")(function* (
    asked: ReadonlyArray<PublishedPort>,
    before: ReadonlyArray<PublishedPort>
  ) {
    const left = [...listening]
    const started: Array<Listening> = []
    const next: Array<Listening> = []
    yield* Effect.forEach(
      asked,
      Effect.fnUntraced(function* (port, index) {
        const held = left.findIndex((each) => isSame(each.port, port))
        const at = held >= 0 ? held : left.findIndex((each) => isSame(each.asked, port))
        if (at >= 0) return void next.push(...left.splice(at, 1))
        const had = before[index]
        const free = had !== undefined && had.guestPort === port.guestPort && port.hostPort === 0
        const made = yield* begin(port, free ? had : port)
        started.push(made)
        next.push(made)
      }),
      { discard: true }
    ).pipe(Effect.onError(() => Effect.forEach(started, stop, { discard: true })))
    yield* Effect.forEach(left, stop, { discard: true })
    const ports = next.map(({ port }) => port)
    if (ports.length > 0 || listening.length > 0) {
      yield* attemptFile("write", file, () => fs.writeFileSync(file, encodePorts(ports), { mode: 0o600 }))
    }
    listening = next
    return ports
  })

  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      for (const [socket] of waiting.splice(0)) socket.resetAndDestroy()
    })
  )
  yield* set(info.config.ports ?? [], again ? readPorts(file) : [])
  const open: Published["open"] = Effect.fnUntraced(function* (vm) {
    const { channel, ended, activity = () => {}, traffic = { received: 0, sent: 0 } } = vm
    const slots = yield* Semaphore.make(Math.min(connectionsMax, channel.streamsMax))
    const run = Effect.runForkWith(yield* Effect.context<Scope.Scope>())
    const scope = yield* Effect.scope
    let held = 0
    take = (socket, port) => {
      if (held >= waitingMax) return void socket.resetAndDestroy()
      held += 1
      run(
        carry(socket, channel.dial(port.guestPort), { activity, traffic }).pipe(
          slots.withPermits(1),
          Effect.ensuring(Effect.sync(() => void (held -= 1))),
          Effect.forkIn(scope)
        )
      )
    }
    for (const [socket, port] of waiting.splice(0)) take(socket, port)
    yield* Effect.forkScoped(
      Effect.andThen(
        Deferred.await(ended),
        Effect.suspend(() => Effect.forEach(listening, stop, { discard: true }))
      )
    )
  })
  return {
    open,
    set: (ports) =>
      set(ports, []).pipe(turn.withPermits(1), Effect.provideService(Paths, paths), Effect.provideService(Database, db))
  } satisfies Published
})

interface Observer {
  readonly activity: () => void
  readonly traffic: Traffic
}

/** Carries one connection to its end; one that does not end in order is reset. */
const carry = <E>(socket: net.Socket, dial: Effect.Effect<DialedConnection, E, Scope.Scope>, observer: Observer) => {
  let orderly = false
  const both = Effect.gen(function* () {
    const dialed = yield* dial
    yield* Effect.forkScoped(upstream(socket, dialed, observer))
    yield* Stream.runForEach(dialed.incoming, (piece) => {
      observer.activity()
      if (piece === "End") return Effect.sync(() => void socket.end())
      observer.traffic.sent += piece.length
      return write(socket, piece)
    })
    // The last bytes may still be on their way to the client.
    yield* finished(socket)
    orderly = true
  })
  return Effect.raceFirst(both, broken(socket)).pipe(
    Effect.scoped,
    Effect.ensuring(
      Effect.sync(() => {
        if (!orderly && !socket.destroyed) socket.resetAndDestroy()
      })
    ),
    Effect.ignore
  )
}

/** Completes when the client's side ends in any other way than both directions one after the other. */
const broken = (socket: net.Socket): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const look = () => {
      if (!(socket.readableEnded && socket.writableFinished)) resume(Effect.void)
    }
    if (socket.destroyed) look()
    else socket.once("close", look)
  })

/** Client to guest, one piece at a time: nothing is read while the guest has enough. */
const upstream = Effect.fnUntraced(function* (socket: net.Socket, dialed: DialedConnection, observer: Observer) {
  const run = Effect.runForkWith(yield* Effect.context<never>())
  yield* Effect.callback<void>((resume) => {
    socket.on("data", (bytes: Buffer) => {
      observer.activity()
      socket.pause()
      const passed = Effect.andThen(
        Effect.ignore(
          Effect.andThen(
            dialed.write(bytes),
            Effect.sync(() => void (observer.traffic.received += bytes.length))
          )
        ),
        Effect.sync(() => void socket.resume())
      )
      run(passed)
    })
    socket.once("end", () => resume(Effect.ignore(dialed.end)))
    socket.resume()
  })
})

const write = (socket: net.Socket, bytes: Uint8Array): Effect.Effect<void> =>
  Effect.callback((resume) => {
    socket.write(bytes, () => resume(Effect.void))
  })

const finished = (socket: net.Socket): Effect.Effect<void> =>
  Effect.callback((resume) => {
    if (socket.writableFinished) resume(Effect.void)
    else socket.once("finish", () => resume(Effect.void))
  })
