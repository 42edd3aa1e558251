import { expect, test } from "bun:test"
import { encodeHeaders, HpackDecoder, HpackError } from "../../../../src/net/tls/http2/hpack.ts"
import { generator, seedOf } from "../../../support/random.ts"

const hex = (text: string) => Buffer.from(text, "hex")
const pairs = (block: Buffer, decoder = new HpackDecoder()) =>
  decoder.decode(block).map(({ name, value }) => `${name}=${value}`)

test("the requests of RFC 7541, C.4, with Huffman codes and a dynamic table, are read", () => {
  const decoder = new HpackDecoder()
  expect(pairs(hex("828684418cf1e3c2e5f23a6ba0ab90f4ff"), decoder)).toEqual([
    ":method=GET",
    ":scheme=http",
    ":path=/",
    ":authority=www.example.com"
  ])
  expect(pairs(hex("828684be5886a8eb10649cbf"), decoder)).toContain("cache-control=no-cache")
  expect(pairs(hex("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf"), decoder)).toEqual([
    ":method=GET",
    ":scheme=https",
    ":path=/index.html",
    ":authority=www.example.com",
    "custom-key=custom-value"
  ])
})

test("the responses of RFC 7541, C.6, evict from a table of 256 bytes", () => {
  const decoder = new HpackDecoder()
  decoder.decode(hex("3fe101"))
  const [first, second] = [
    "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    "4883640effc1c0bf"
  ]
  expect(pairs(hex(first), decoder)).toContain("location=https://www.example.com")
  expect(pairs(hex(second), decoder)).toEqual([
    ":status=307",
    "cache-control=private",
    "date=Mon, 21 Oct 2013 20:13:21 GMT",
    "location=https://www.example.com"
  ])
})

test("what is encoded is decoded", () => {
  const fields = [
    { name: ":path", value: "/\u00e4", sensitive: false },
    { name: "x-long", value: "v".repeat(5000), sensitive: true }
  ]
  expect(new HpackDecoder().decode(encodeHeaders(fields, true))).toEqual(fields)
})

const bad: ReadonlyArray<readonly [what: string, block: string]> = [
  ["an index beyond the table", "be"],
  ["index 0", "80"],
  ["a table that grows beyond its bound", "3fe1ff7f"],
  ["a change of the table's size behind a field", "8220"],
  ["a string longer than its block", "0005616263"],
  ["a number without end", "7fffffffffffffff"],
  ["a Huffman code of the end of a string", "0084ffffffff00"],
  ["padding that is not all ones", "00811800"]
]
test.each(bad)("%s is refused", (_what, block) => {
  expect(() => new HpackDecoder().decode(hex(block))).toThrow(HpackError)
})

test("a block that repeats a large entry is refused before it fills the memory", () => {
  const decoder = new HpackDecoder()
  const large = encodeHeaders([{ name: "x", value: "y".repeat(4000), sensitive: false }])
  large[0] = 0x40
  decoder.decode(large)
  expect(() => decoder.decode(Buffer.alloc(20_000, 0xbe))).toThrow(HpackError)
})

test("random blocks are read or refused, and nothing else", () => {
  const random = generator(seedOf("hpack"))
  for (let round = 0; round < 3000; round += 1) {
    const block = Buffer.from(Array.from({ length: random(64) }, () => random(256)))
    try {
      new HpackDecoder().decode(block)
    } catch (error) {
      expect(error).toBeInstanceOf(HpackError)
    }
  }
})
