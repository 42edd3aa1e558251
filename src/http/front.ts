/**
 * Accepts network connections for a server that listens on a unix socket, a bounded number at a time: whoever connects without having
 * the token costs a little memory and no more. Looks at none of the bytes.
 */
import net from "node:net"
import { Effect } from "effect"
import { type FileError, fileError } from "../store/files/files.ts"
import type { Listen } from "./guard.ts"

/** Connections at a time, in all. */
export const connectionsMax = 512
/** Connections at a time of one address of another machine. */
export const ofOneAddressMax = 128

const isLoopback = (address: string): boolean => /^(::ffff:)?127\.|^::1$/.test(address)

/** Counts what is open. */
export class Admission {
  private all = 0
  private readonly from = new Map<string, number>()

  /** Answers what to do at the end of the connection; undefined for one too many. */
  admit(address: string): (() => void) | undefined {
    const open = this.from.get(address) ?? 0
    if (this.all >= connectionsMax || (open >= ofOneAddressMax && !isLoopback(address))) return undefined
    this.all += 1
    this.from.set(address, open + 1)
    let left = false
    return () => {
      if (left) return
      left = true
      this.all -= 1
      const rest = this.from.get(address)! - 1
      if (rest === 0) this.from.delete(address)
      else this.from.set(address, rest)
    }
  }
}

/** Carries both ways until one end is gone; the server behind closes what sends no whole head within twelve seconds. */
const carry = (client: net.Socket, socket: string): void => {
  const server = net.connect({ path: socket, allowHalfOpen: true })
  client.pipe(server)
  server.pipe(client)
  for (const [one, other] of [
    [client, server],
    [server, client]
  ] as const) {
    one.on("error", () => other.destroy())
    one.on("close", () => other.destroy())
  }
}

/** Listens until the scope closes; answers the port. */
export const openFront = (listen: Listen, socket: string) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.tryPromise({
        try: () => {
          const admission = new Admission()
          const clients = new Set<net.Socket>()
          const server = net.createServer({ allowHalfOpen: true }, (client) => {
            const leave = admission.admit(client.remoteAddress ?? "")
            if (leave === undefined) return void client.destroy()
            clients.add(client)
            client.on("close", () => {
              clients.delete(client)
              leave()
            })
            carry(client, socket)
          })
          return new Promise<{ readonly server: net.Server; readonly clients: Set<net.Socket> }>((resolve, reject) => {
            server.once("error", reject)
            server.listen(listen.port, listen.host, () => resolve({ server, clients }))
          })
        },
        catch: (cause): FileError => fileError("listen on", `${listen.host}:${listen.port}`, cause)
      }),
      ({ clients, server }) =>
        Effect.sync(() => {
          server.close()
          for (const client of clients) client.destroy()
        })
    ),
    ({ server }) => (server.address() as net.AddressInfo).port
  )
