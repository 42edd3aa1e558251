import { expect, test } from "bun:test"
import { BodyReader } from "../../../src/net/tls/http1Body.ts"
import { MessageError, parseRequest } from "../../../src/net/tls/http1Message.ts"
import { ResponseTracker } from "../../../src/net/tls/http1Responses.ts"
import { generator, seedOf } from "../../support/random.ts"

/** Cuts bytes into random pieces. */
const pieces = (bytes: Buffer, random: (below: number) => number): ReadonlyArray<Buffer> => {
  const cut: Array<Buffer> = []
  for (let at = 0; at < bytes.length; ) {
    const size = 1 + random(7)
    cut.push(bytes.subarray(at, at + size))
    at += size
  }
  return cut
}

test("a chunked body ends at the same byte however it is cut", () => {
  const random = generator(seedOf("chunks"))
  const body = "4;name=value\r\nwiki\r\n00A\r\n0123456789\r\n0\r\n"
  for (const trailers of ["\r\n", "A: b\r\nC: d\r\n\r\n"]) {
    for (let round = 0; round < 200; round += 1) {
      const reader = new BodyReader({ kind: "chunked" })
      let [passed, behind, found] = ["", "", ""]
      for (const piece of pieces(Buffer.from(`${body}${trailers}GET /next`), random)) {
        if (reader.done) {
          behind += piece.toString()
          continue
        }
        const read = reader.push(piece)
        passed += read.body.toString()
        behind += read.rest.toString()
        found += read.trailers?.toString() ?? ""
      }
      expect([passed, found, behind]).toEqual([body, trailers, "GET /next"])
    }
  }
})

const badChunks = [
  "g\r\n",
  "5\nhello",
  "5\r\nhelloX\r\n",
  "\r\n",
  "-1\r\n",
  "0x5\r\n",
  "5 5\r\n",
  `${"0".repeat(2000)}\r\n`,
  "ffffffffffffff\r\n"
]
test.each(badChunks)("the chunk %j is refused", (text) => {
  expect(() => new BodyReader({ kind: "chunked" }).push(Buffer.from(text))).toThrow(MessageError)
})

test("a request keeps the order and the letters of its fields", () => {
  const head = parseRequest("GET /a?b HTTP/1.1\r\nHOST: api.test\r\nx-One:  1 \r\nX-one: 2\r\n\r\n")
  expect(head.fields).toEqual([
    ["HOST", "api.test"],
    ["x-One", "1"],
    ["X-one", "2"]
  ])
  expect(head).toMatchObject({
    authority: "api.test",
    framing: { kind: "length", bytes: 0 },
    close: false,
    upgrade: false
  })
})

test("an upgrade to HTTP/2 without TLS is not asked for", () => {
  const head = parseRequest(
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n"
  )
  expect(head.upgrade).toBe(false)
  expect(head.fields.map(([name]) => name)).toEqual(["Host", "Connection"])
})

test("random heads are read or refused, and nothing else", () => {
  const random = generator(seedOf("heads"))
  const words = [
    "GET ",
    "/",
    " HTTP/1.1",
    "\r\n",
    "\n",
    "Host: a",
    "Content-Length: ",
    "5",
    ":",
    " ",
    "\0",
    "chunked",
    "Transfer-Encoding: ",
    "\xff"
  ]
  for (let round = 0; round < 3000; round += 1) {
    const text = Array.from({ length: random(20) }, () => words[random(words.length)]).join("")
    try {
      parseRequest(text)
    } catch (error) {
      expect(error).toBeInstanceOf(MessageError)
    }
  }
})

test("responses are told apart however they are cut: informational, empty, by length, in chunks", () => {
  const random = generator(seedOf("responses"))
  const stream = Buffer.from(
    "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n" +
      "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" +
      "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n" +
      "HTTP/1.1 101 Switching Protocols\r\n\r\nraw"
  )
  for (let round = 0; round < 100; round += 1) {
    const tracker = new ResponseTracker()
    for (const method of ["GET", "HEAD", "GET", "POST"]) tracker.expect({ method, upgrade: false })
    tracker.expect({ method: "GET", upgrade: true })
    for (const piece of pieces(stream, random)) tracker.push(piece)
    expect([tracker.unanswered, tracker.upgraded, tracker.lost]).toEqual([1, true, false])
  }
})

test("a response to nothing ends the following of responses", async () => {
  const tracker = new ResponseTracker()
  tracker.push(Buffer.from("HTTP/1.1 200 OK\r\n\r\n"))
  await tracker.settled(0)
  expect(tracker.lost).toBe(true)
})
