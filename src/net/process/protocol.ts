/**
 * Describes what a keeper and the network process of its sandbox say to each other: JSON documents, one a line, over a unix socket in
 * the run directory. Does no input or output.
 */
import type { NetworkConfig } from "../../domain/network/config.ts"
import type { NetworkEvent } from "../../domain/network/events.ts"
import type { ProxyVariables } from "../dial/proxy.ts"
import type { InterceptionState } from "../tls/interception.ts"

/** Name of the socket, in the run directory, that the network process listens on. */
export const socketName = "net.sock"
/** Descriptor of the network process's end of the card. */
export const linkFd = 3
/** What the network process writes to stdout once it listens. */
export const readyLine = "listening\n"
/** Longest line, in bytes: more than the longest definition of a sandbox. */
const lineBytesMax = 2 * 1024 * 1024

/** A TCP flow of which the guest still knows when the network process was killed: `address port guest-port`. */
export type FlowKey = string

/** What outlives a network process: it is told to the one that takes its place. */
export interface Memory {
  readonly flows: ReadonlyArray<FlowKey>
  /** Names that were given addresses, in that order. */
  readonly names: ReadonlyArray<string>
}

export type Request =
  /** Begins; everything else before it is refused. `successor`: another process has used the card before. */
  | {
      readonly op: "start"
      readonly config: NetworkConfig
      readonly successor: boolean
      readonly memory: Memory
      readonly proxies: ProxyVariables
    }
  /** Which hosts are opened, with the values that go to them; said before `start`, and again when a value has changed. */
  | { readonly op: "secrets"; readonly state: InterceptionState }
  /** Swaps the policy; answered once it holds. */
  | { readonly op: "policy"; readonly id: number; readonly config: NetworkConfig }
  | { readonly op: "counters"; readonly id: number }

/** What was counted since the process started; bytes and frames as the guest sees them. */
export interface NetworkCounters {
  readonly denied: number
  /** Bytes of flows that have ended. */
  readonly bytesUp: number
  readonly bytesDown: number
  readonly framesIn: number
  readonly framesOut: number
  /** Open now. */
  readonly tcpFlows: number
  readonly udpFlows: number
  /** Refused since a bound was met. */
  readonly limited: number
}

export type Message =
  /** First on each connection. `started`: the policy is there, from an earlier keeper. */
  | { readonly hello: 1; readonly pid: number; readonly started: boolean; readonly memory: Memory }
  | { readonly event: NetworkEvent }
  | { readonly opened: FlowKey }
  | { readonly named: string }
  | { readonly closed: FlowKey }
  | { readonly re: number; readonly counters?: NetworkCounters; readonly error?: string }

/** Cuts lines out of a stream and reads them; the first that is too long or no JSON ends it. */
export class LineReader<A> {
  private rest = ""
  private readonly decoder = new TextDecoder()
  constructor(
    private readonly each: (value: A) => void,
    private readonly broken: (reason: string) => void
  ) {}

  push(bytes: Uint8Array): void {
    const lines = (this.rest + this.decoder.decode(bytes, { stream: true })).split("\n")
    this.rest = lines.pop() ?? ""
    if (this.rest.length > lineBytesMax) return void this.broken("a line is too long")
    for (const line of lines) {
      let value: A
      try {
        value = JSON.parse(line) as A
      } catch {
        return void this.broken("a line is no JSON")
      }
      this.each(value)
    }
  }
}

/** A connected unix socket of Bun, as far as it is written to. */
interface Writable {
  readonly write: (bytes: Uint8Array) => number
}

/** Writes lines to a socket that may be full; keeps at most `pendingMax` bytes and says so by false. */
export class LineWriter {
  private pending: Array<Uint8Array> = []
  private waiting = 0
  constructor(
    private readonly socket: Writable,
    private readonly pendingMax = 4 * lineBytesMax
  ) {}

  send(value: Request | Message): boolean {
    const bytes = new TextEncoder().encode(`${JSON.stringify(value)}\n`)
    if (this.waiting + bytes.length > this.pendingMax) return false
    this.pending.push(bytes)
    this.waiting += bytes.length
    this.drain()
    return true
  }

  drain(): void {
    while (this.pending.length > 0) {
      const first = this.pending[0]!
      const taken = this.socket.write(first)
      if (taken < 0) return
      this.waiting -= taken
      if (taken < first.length) {
        this.pending[0] = first.subarray(taken)
        return
      }
      this.pending.shift()
    }
  }
}
