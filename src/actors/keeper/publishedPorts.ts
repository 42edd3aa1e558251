/**
 * Publishes ports of a guest: listens on this machine and carries each connection to the guest's loopback. TCP only; decides
 * nothing about who may connect.
 *
 * Invariants: a port that can not be had is known before the VM starts; what listens ends with the scope and with the VM; a
 * connection that breaks on one side is reset on the other.
 */
import fs from "node:fs"
import net from "node:net"
import { Deferred, Effect, Schema, type Scope, Semaphore, Stream } from "effect"
import { PortTaken } from "../../domain/errors/guestIo.ts"
import { addressesOverlap, formatAddress } from "../../domain/sandbox/ports.ts"
import { isLive, PublishedPort, type SandboxConfig, SandboxInfo } from "../../domain/sandbox/sandbox.ts"
import { Database } from "../../store/database/Database.ts"
import { listSandboxes } from "../../store/database/sandboxes.ts"
import { attemptFile } from "../../store/files/files.ts"
import { Paths } from "../../store/files/Paths.ts"
import { findListener } from "../../store/processes/listeners.ts"
import type { DialedConnection } from "../../vm/guest/dial.ts"
import type { GuestRequests } from "../../vm/guest/GuestChannel.ts"
import type { RunEnd } from "./Keeper.ts"

/** Connections that are carried at the same time; more wait, and above `waitingMax` they are reset. */
const connectionsMax = 128
const waitingMax = 1024

/** Ports that are listened on, not yet answered. */
export interface Published {
  /** Lets connections through to the guest until the VM ends. `activity` hears of traffic. */
  readonly open: (vm: {
    readonly channel: GuestRequests
    readonly ended: Deferred.Deferred<RunEnd>
    readonly activity?: () => void
    /** Counts what is carried. */
    readonly traffic?: Traffic
  }) => Effect.Effect<void, never, Scope.Scope>
}

/** Bytes that a sandbox's network carried, seen from the guest; whoever carries adds to it. */
export interface Traffic {
  received: number
  sent: number
}

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

/** Listens on the ports of a sandbox. `again`: those that its last keeper had, free ones included. */
export const publishPorts = Effect.fn("Ports.publish")(function* (info: SandboxInfo, again: boolean) {
  const file = (yield* Paths).run(info.id).ports
  const asked = info.config.ports ?? []
  const before = again ? readPorts(file) : []
  const wanted = asked.map((port, index) => {
    const had = before[index]
    return had !== undefined && had.guestPort === port.guestPort && port.hostPort === 0 ? had : port
  })
  const servers = yield* Effect.forEach(wanted, listen)
  const ports = wanted.map((port, index) => ({
    ...port,
    hostPort: (servers[index]!.address() as net.AddressInfo).port
  }))
  if (ports.length > 0) {
    yield* attemptFile("write", file, () => fs.writeFileSync(file, encodePorts(ports), { mode: 0o600 }))
  }
  const waiting: Array<readonly [socket: net.Socket, port: PublishedPort]> = []
  let take = (socket: net.Socket, port: PublishedPort): void => {
    if (waiting.length >= waitingMax) socket.resetAndDestroy()
    else waiting.push([socket, port])
  }
  for (const [index, server] of servers.entries()) {
    server.on("connection", (socket) => {
      socket.on("error", () => {})
      socket.unref()
      take(socket, ports[index]!)
    })
  }
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      for (const [socket] of waiting.splice(0)) socket.resetAndDestroy()
    })
  )
  const open: Published["open"] = Effect.fnUntraced(function* (vm) {
    const { channel, ended, activity = () => {}, traffic = { received: 0, sent: 0 } } = vm
    if (servers.length === 0) return
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
        Effect.sync(() => {
          for (const server of servers) server.close()
        })
      )
    )
  })
  return { open } satisfies Published
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
