/** Finds TCP flows by who talks. Knows nothing of their states but who waits in TIME_WAIT. */
import { equalAt, type Packet } from "../packet.ts"
import type { TcpFlow } from "./flow.ts"
import type { Segment } from "./segment.ts"

const hashOf = (guestPort: number, remotePort: number, bytes: Uint8Array, end: number): number =>
  (((guestPort << 16) | remotePort) ^
    Math.imul(
      (bytes[end - 4]! << 24) | (bytes[end - 3]! << 16) | (bytes[end - 2]! << 8) | bytes[end - 1]!,
      0x9e3779b1
    )) |
  0

export class FlowTable implements Iterable<TcpFlow> {
  /** All that are open, opening or in TIME_WAIT. */
  size = 0
  private readonly buckets = new Map<number, TcpFlow>()

  /** The flow that a segment of the guest belongs to. */
  find({ bytes, destination, family }: Packet, { sourcePort, destinationPort }: Segment): TcpFlow | undefined {
    const hash = hashOf(sourcePort, destinationPort, bytes, destination + (family === 4 ? 4 : 16))
    let flow = this.buckets.get(hash)
    while (flow !== undefined) {
      const { key } = flow
      if (
        key.guestPort === sourcePort &&
        key.remotePort === destinationPort &&
        key.family === family &&
        equalAt(bytes, destination, key.remote)
      )
        return flow
      flow = flow.next
    }
    return undefined
  }

  add(flow: TcpFlow): void {
    const { guestPort, remote, remotePort } = flow.key
    const hash = hashOf(guestPort, remotePort, remote, remote.length)
    flow.next = this.buckets.get(hash)
    this.buckets.set(hash, flow)
    this.size += 1
  }

  remove(flow: TcpFlow): void {
    const { guestPort, remote, remotePort } = flow.key
    const hash = hashOf(guestPort, remotePort, remote, remote.length)
    let each = this.buckets.get(hash)
    if (each === flow) {
      if (flow.next === undefined) this.buckets.delete(hash)
      else this.buckets.set(hash, flow.next)
      this.size -= 1
      return
    }
    for (; each !== undefined; each = each.next) {
      if (each.next !== flow) continue
      each.next = flow.next
      this.size -= 1
      return
    }
  }

  *[Symbol.iterator](): Iterator<TcpFlow> {
    for (const first of this.buckets.values())
      for (let flow: TcpFlow | undefined = first; flow; flow = flow.next) yield flow
  }
}
