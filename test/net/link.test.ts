import { expect, test } from "bun:test"
import { socketPair } from "../../src/ffi/posix.ts"
import { adoptDescriptor } from "../../src/net/descriptor.ts"
import { batchBytesMax, FrameReader, FrameWriter, frameBytesMax, macBytes, openStreamLink } from "../../src/net/link.ts"
import { makeStack } from "../../src/net/stack.ts"
import { defaultLimits } from "../../src/net/types.ts"

const guestMac = "02:00:00:00:00:02"

const frameOf = (length: number, fill: number): Buffer => {
  const bytes = Buffer.alloc(4 + length, fill)
  bytes.writeUInt32BE(length, 0)
  bytes.set(macBytes(guestMac), 10)
  return bytes
}

const collect = (resynchronise = false) => {
  const frames: Array<Buffer> = []
  const reader = new FrameReader(
    macBytes(guestMac),
    (bytes, start, end) => void frames.push(Buffer.from(bytes.subarray(start, end))),
    resynchronise
  )
  return { frames, reader }
}

test("frames arrive whole however the stream is cut", () => {
  const sent = [frameOf(14, 1), frameOf(60, 2), frameOf(frameBytesMax, 3), frameOf(1514, 4), frameOf(20, 5)]
  const stream = Buffer.concat(sent)
  for (const size of [1, 2, 3, 5, 17, 64, 1000, 65_536, stream.length]) {
    const { frames, reader } = collect()
    for (let at = 0; at < stream.length; at += size) reader.push(stream.subarray(at, at + size))
    expect(frames.length).toBe(sent.length)
    expect(frames.every((frame, index) => frame.equals(sent[index]!.subarray(4)))).toBe(true)
    expect(reader.skipped).toBe(0)
  }
})

test("a successor finds the next frame of the guest in the middle of one", () => {
  for (const size of [1, 7, 50, 4096]) {
    const { frames, reader } = collect(true)
    const stream = Buffer.concat([frameOf(500, 0xee).subarray(123), frameOf(60, 2), frameOf(1514, 4)])
    for (let at = 0; at < stream.length; at += size) reader.push(stream.subarray(at, at + size))
    expect(frames.map((frame) => frame.length)).toEqual([60, 1514])
    expect(reader.skipped).toBe(381)
  }
})

test("lengths that no card sends are skipped until a frame of the guest comes", () => {
  const { frames, reader } = collect()
  reader.push(Buffer.concat([frameOf(60, 1), Buffer.from([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 3, 9, 9]), frameOf(70, 2)]))
  reader.push(frameOf(80, 3))
  expect(frames.map((frame) => frame.length)).toEqual([60, 70, 80])
})

test("a batch is one write, a short write is finished first, and nothing is reserved meanwhile", () => {
  const writes: Array<Buffer> = []
  let room = Number.POSITIVE_INFINITY
  const writer = new FrameWriter(
    (bytes, start, length) => {
      const taken = Math.min(room, length)
      writes.push(Buffer.from(bytes.subarray(start, start + taken)))
      room -= taken
      return taken
    },
    () => true
  )
  for (let index = 0; index < 40; index++) writer.out.fill(index, writer.reserve(1000))
  writer.flush()
  expect(writes.map(({ length }) => length)).toEqual([32 * 1004, 8 * 1004])
  room = 10
  writer.reserve(100)
  writer.flush()
  expect(writer.reserve(14)).toBe(-1)
  expect(writer.drain()).toBe(false)
  room = 1000
  expect(writer.drain()).toBe(true)
  expect(Buffer.concat(writes.slice(2)).length).toBe(104)
  expect(writer.reserve(14)).toBe(4)
})

test("a frame above the batch waits until the socket is writable, and one above the limit is a defect", () => {
  let ready = false
  const lengths: Array<number> = []
  const writer = new FrameWriter(
    (_bytes, _start, length) => {
      lengths.push(length)
      return length
    },
    () => ready
  )
  expect(writer.reserve(batchBytesMax)).toBe(-1)
  ready = true
  expect(writer.drain()).toBe(true)
  expect(writer.reserve(batchBytesMax)).toBe(4)
  writer.flush()
  expect(lengths).toEqual([batchBytesMax + 4])
  expect(() => writer.reserve(frameBytesMax + 1)).toThrow(RangeError)
})

test("frames cross a socket pair, and the end of the VM is told", async () => {
  const [near, far] = socketPair()
  const link = await openStreamLink({ fd: near, guestMac })
  const closed = Promise.withResolvers<string>()
  const stack = makeStack({
    link,
    addresses: {
      guestMac,
      gatewayMac: "02:00:00:00:00:01",
      guest4: "198.19.255.2",
      gateway4: "198.19.255.1",
      guest6: "fd42:756e:6b72:1::2",
      gateway6: "fd42:756e:6b72:1::1",
      names6: "fd42:756e:6b72::"
    },
    policy: { decideName: () => ({ allow: false }), decideFlow: () => ({ allow: false }), dnsTypes: () => false },
    dialer: {
      tcp: async () => ({ _tag: "unreachable", reason: "no" }),
      udp: async () => ({ _tag: "unreachable", reason: "no" }),
      icmp: async () => ({ _tag: "unreachable", reason: "no" }),
      records: async () => undefined
    },
    events: (event) => closed.resolve(`${event.kind}: ${event.reason}`),
    limits: defaultLimits
  })
  const guest = await adoptDescriptor(far, { data: () => {} })
  guest.write(Buffer.concat([frameOf(60, 1), frameOf(60, 1)]))
  guest.end()
  expect(await closed.promise).toBe("link: the VM closed its end")
  expect(stack.stats().framesIn).toBe(2)
})
