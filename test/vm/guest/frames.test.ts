/** Tests of the frame codec: round trips however the bytes are cut, bounds, and random bytes. */
import { describe, expect, test } from "bun:test"
import { Arbitrary, Effect, Schema } from "effect"
import {
  dataBytesMax,
  encodeFrame,
  encodeJson,
  type Frame,
  FrameDecoder,
  FrameType,
  frameHeaderBytes,
  jsonBytesMax,
  jsonPayload
} from "../../../src/vm/guest/frames.ts"
import { it } from "../../support/it.ts"

/** Small seeded generator (mulberry32). */
const generator = (seed: number) => {
  let state = seed >>> 0
  return (below: number) => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) % below
  }
}
const seed = Number(process.env["SEED"] ?? (Math.random() * 2 ** 32) >>> 0)
const said = `(SEED=${seed})`

const decodeAll = (pieces: ReadonlyArray<Uint8Array>) => {
  const decoder = new FrameDecoder()
  const frames: Array<Frame> = []
  let fault: string | undefined
  for (const piece of pieces) {
    fault = decoder.push(piece, (frame) => frames.push({ ...frame, payload: frame.payload.slice() }))
  }
  return { frames, fault, atBoundary: decoder.atBoundary }
}

const header = (type: number, length: number, flags = 0, magic = "BK") => {
  const bytes = new Uint8Array(frameHeaderBytes)
  bytes.set(new TextEncoder().encode(magic))
  bytes[2] = type
  bytes[3] = flags
  new DataView(bytes.buffer).setUint32(8, length, true)
  return bytes
}

class DataCase extends Schema.Class<DataCase>("DataCase")({
  stream: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffff_ffff })),
  payload: Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 }))).check(Schema.isMinLength(1)),
  cut: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 40 }))
}) {}

describe("frames", () => {
  it.effect("decode to what was encoded, wherever the bytes are cut", () =>
    Effect.gen(function* () {
      const result = yield* Arbitrary.checkEffect(Arbitrary.schema(DataCase), (given) =>
        Effect.sync(() => {
          const payload = Uint8Array.from(given.payload)
          const bytes = encodeFrame(FrameType.Data, given.stream, payload)
          const { frames, fault, atBoundary } = decodeAll([bytes.subarray(0, given.cut), bytes.subarray(given.cut)])
          const [frame] = frames
          return (
            fault === undefined &&
            atBoundary &&
            frames.length === 1 &&
            frame!.stream === given.stream &&
            Buffer.compare(frame!.payload, payload) === 0
          )
        })
      )
      expect(Arbitrary.formatCheckFailure(result)).toBeUndefined()
    })
  )

  test(`survive random lengths in random pieces ${said}`, () => {
    const random = generator(seed)
    const sent: Array<Frame> = Array.from({ length: 200 }, () => {
      const kind = random(4)
      if (kind === 0) return { type: FrameType.Eof, stream: random(3), payload: new Uint8Array(0) }
      if (kind === 1) return { type: FrameType.Ack, stream: 0, payload: Uint8Array.of(1, 2, 3, random(256)) }
      const payload = new Uint8Array(1 + random(kind === 2 ? 30 : dataBytesMax)).fill(random(256))
      return { type: FrameType.Data, stream: random(3), payload }
    })
    const all = Buffer.concat(sent.map((frame) => encodeFrame(frame.type, frame.stream, frame.payload)))
    const pieces: Array<Uint8Array> = []
    for (let at = 0; at < all.length; ) {
      const size = 1 + random(random(2) === 0 ? 16 : 100_000)
      pieces.push(all.subarray(at, at + size))
      at += size
    }
    const { frames, fault } = decodeAll(pieces)
    expect(fault).toBeUndefined()
    expect(frames.length).toBe(sent.length)
    for (const [i, frame] of frames.entries()) {
      expect(frame.type).toBe(sent[i]!.type)
      expect(Buffer.compare(frame.payload, sent[i]!.payload)).toBe(0)
    }
  })

  test(`never break their bounds on random and mutated bytes ${said}`, () => {
    const random = generator(seed)
    for (let round = 0; round < 3000; round++) {
      const valid = Buffer.concat([
        encodeJson(FrameType.Hello, { protocol: 1 }),
        encodeFrame(FrameType.Data, 1, new Uint8Array(1 + random(50))),
        encodeFrame(FrameType.Close, 0)
      ])
      for (let flips = random(4); flips > 0; flips--) valid[random(valid.length)] = random(256)
      const bytes = random(4) === 0 ? Buffer.from(Array.from({ length: random(60) }, () => random(256))) : valid
      const cut = random(bytes.length + 1)
      const whole = decodeAll([bytes])
      const split = decodeAll([bytes.subarray(0, cut), bytes.subarray(cut)])
      expect(split).toEqual(whole)
      for (const frame of whole.frames) expect(frame.payload.length).toBeLessThanOrEqual(jsonBytesMax)
    }
  })

  test("are refused before their payload is there", () => {
    const bad: ReadonlyArray<Uint8Array> = [
      header(FrameType.Data, dataBytesMax + 1),
      header(FrameType.Data, 0),
      header(FrameType.Request, jsonBytesMax + 1),
      header(FrameType.Hello, 1),
      header(FrameType.Ack, 5),
      header(FrameType.Close, 1),
      header(0, 4),
      header(10, 0),
      header(FrameType.Data, 4, 1),
      header(FrameType.Data, 0xffff_ffff),
      Uint8Array.of(0x58),
      Uint8Array.of(0x42, 0x42)
    ]
    for (const bytes of bad) expect(decodeAll([bytes]).fault).toBeString()
  })

  test("that are malformed end the stream for ever", () => {
    const decoder = new FrameDecoder()
    const frames: Array<Frame> = []
    const first = decoder.push(Uint8Array.of(1), (frame) => frames.push(frame))
    expect(decoder.push(encodeFrame(FrameType.Close, 0), (frame) => frames.push(frame))).toBe(first!)
    expect(frames).toEqual([])
  })

  test("can not be encoded out of bounds", () => {
    expect(() => encodeFrame(FrameType.Data, 0, new Uint8Array(dataBytesMax + 1))).toThrow(RangeError)
    expect(() => encodeFrame(FrameType.Close, 0, new Uint8Array(1))).toThrow(RangeError)
    expect(jsonPayload("x".repeat(jsonBytesMax))).toBeUndefined()
    expect(jsonPayload({ a: "é" })).toEqual(new TextEncoder().encode('{"a":"é"}'))
  })
})
