/**
 * Puts an interceptor between real clients and a real TLS server: a listener stands for the guest's flows, and each accepted
 * connection is handed over as one. Bytes towards the guest go through a Duplex that is no socket, as those of the network stack are.
 */
import fs from "node:fs"
import http2 from "node:http2"
import net from "node:net"
import os from "node:os"
import path from "node:path"
import { Duplex } from "node:stream"
import tls from "node:tls"
import type { ActiveSecret } from "../../src/domain/network/placeholders.ts"
import { type Authority, makeAuthority } from "../../src/net/tls/authority.ts"
import type { SecretEvent } from "../../src/net/tls/gate.ts"
import { type Interceptor, makeInterceptor } from "../../src/net/tls/interceptor.ts"

/** A Duplex of our own over a socket. */
const plainDuplex = (socket: net.Socket): Duplex => {
  const duplex: Duplex = new Duplex({
    allowHalfOpen: true,
    read: () => void socket.resume(),
    write: (chunk, _encoding, done) => void socket.write(chunk, (error) => done(error ?? null)),
    final: (done) => {
      socket.end()
      done()
    },
    destroy: (error, done) => {
      socket.destroy()
      done(error)
    }
  })
  socket.on("data", (chunk) => {
    if (!duplex.push(chunk)) socket.pause()
  })
  socket.on("end", () => duplex.push(null))
  socket.on("error", (error) => duplex.destroy(error))
  socket.on("close", () => duplex.destroy())
  return duplex
}

export const listen = (server: net.Server): Promise<number> =>
  new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve((server.address() as net.AddressInfo).port)))

export interface BenchOptions {
  readonly secrets: ReadonlyArray<ActiveSecret>
  readonly inspected?: ReadonlyArray<string>
  /** Hosts of the sandbox's authority. */
  readonly hosts: ReadonlyArray<string>
  /** Port of the server on loopback. */
  readonly upstreamPort: number
  /** Authority of the server's certificate; empty where there is none. */
  readonly trust: string
  /** The name to which flows go; the first host when absent. */
  readonly flowHost?: string
}

export interface Bench extends AsyncDisposable {
  readonly interceptor: Interceptor
  readonly authority: Authority
  readonly events: Array<SecretEvent>
  /** Where clients connect to. */
  readonly port: number
  /** File with the sandbox's authority. */
  readonly bundle: string
  readonly directory: string
}

export const startBench = async (options: BenchOptions): Promise<Bench> => {
  const authority = makeAuthority("box", options.hosts)
  const events: Array<SecretEvent> = []
  const interceptor = makeInterceptor({
    authority,
    trust: options.trust === "" ? [authority.certificate] : [options.trust],
    secrets: options.secrets,
    inspected: options.inspected ?? [],
    onEvent: (event) => void events.push(event)
  })
  const flows: Array<Promise<void>> = []
  const listener = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    const server = net.connect({ port: options.upstreamPort, host: "127.0.0.1", allowHalfOpen: true })
    server.once("connect", () => {
      const host = options.flowHost ?? options.hosts[0] ?? ""
      flows.push(interceptor.relay({ host, port, guest: plainDuplex(socket), server }))
    })
  })
  const port = await listen(listener)
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "bunker-tls-"))
  const bundle = path.join(directory, "ca.pem")
  fs.writeFileSync(bundle, authority.certificate)
  return {
    interceptor,
    authority,
    events,
    port,
    bundle,
    directory,
    [Symbol.asyncDispose]: async () => {
      listener.close()
      interceptor.close()
      await Promise.all(flows)
      fs.rmSync(directory, { recursive: true, force: true })
    }
  }
}

/** A server for HTTP/1.1 and HTTP/2 whose certificate is of an authority of its own. */
export const secureServer = async (
  hosts: ReadonlyArray<string>,
  onRequest: (request: http2.Http2ServerRequest, response: http2.Http2ServerResponse) => void,
  options: { readonly allowHTTP1?: boolean } = {}
) => {
  const authority = makeAuthority("upstream", hosts)
  const server = http2.createSecureServer(
    { allowHTTP1: options.allowHTTP1 ?? true, ...authority.certificateFor(hosts[0] ?? "") },
    onRequest
  )
  const port = await listen(server as unknown as net.Server)
  return { port, trust: authority.certificate, server, [Symbol.dispose]: () => void server.close() }
}

/** A TLS server that hands its raw connections over. */
export const rawTlsServer = async (
  host: string,
  onConnection: (socket: tls.TLSSocket) => void,
  protocols: ReadonlyArray<string> = ["http/1.1"]
) => {
  const authority = makeAuthority("upstream", [host])
  const server = tls.createServer({ ...authority.certificateFor(host), ALPNProtocols: [...protocols] }, onConnection)
  const port = await listen(server)
  return { port, trust: authority.certificate, server, [Symbol.dispose]: () => void server.close() }
}

/** Runs a program to its end. */
export const runProgram = async (
  command: ReadonlyArray<string>,
  env: Readonly<Record<string, string>> = {},
  stdin: Uint8Array | undefined = undefined
) => {
  const child = Bun.spawn([...command], {
    stdin: stdin ?? "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: { PATH: process.env["PATH"] ?? "", ...env }
  })
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited
  ])
  return { stdout, stderr, code }
}
