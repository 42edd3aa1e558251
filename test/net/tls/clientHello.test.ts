import { expect, test } from "bun:test"
import net from "node:net"
import tls from "node:tls"
import { readClientHello } from "../../../src/net/tls/clientHello.ts"
import { generator, seedOf } from "../../support/random.ts"
import { listen } from "../../support/tlsBench.ts"

/** What a real client sends first. */
const hello = async (options: tls.ConnectionOptions): Promise<Buffer> => {
  const { promise, resolve } = Promise.withResolvers<Buffer>()
  const server = net.createServer((socket) => {
    socket.once("data", resolve)
    socket.on("error", () => undefined)
  })
  const client = tls.connect({ host: "127.0.0.1", port: await listen(server), ...options })
  client.on("error", () => undefined)
  const bytes = await promise
  client.destroy()
  server.close()
  return bytes
}

test("name and protocols of a hello are read, in one record or in many", async () => {
  const bytes = await hello({ servername: "API.test", ALPNProtocols: ["h2", "http/1.1"] })
  const expected = { serverName: "api.test", protocols: ["h2", "http/1.1"] }
  expect(readClientHello(bytes)).toEqual(expected)
  const message = bytes.subarray(5)
  const records: Array<Buffer> = []
  for (let at = 0; at < message.length; at += 50) {
    const part = message.subarray(at, at + 50)
    records.push(Buffer.from([0x16, 3, 1, 0, part.length]), part)
  }
  expect(readClientHello(Buffer.concat(records))).toEqual(expected)
})

test("a hello without a name and protocols has none", async () => {
  expect(readClientHello(await hello({}))).toEqual({ serverName: undefined, protocols: [] })
})

test("a hello that is not whole asks for more, and what is none is none", async () => {
  const bytes = await hello({ servername: "api.test" })
  for (let length = 0; length < bytes.length; length += 1)
    expect(readClientHello(bytes.subarray(0, length))).toBeUndefined()
  expect(readClientHello(Buffer.from("GET / HTTP/1.1"))).toBeNull()
  expect(readClientHello(Buffer.from([0x16, 3, 1, 0, 4, 2, 0, 0, 0]))).toBeNull()
})

test("a hello with wrong lengths or other bytes gives no error", async () => {
  const bytes = await hello({ servername: "api.test", ALPNProtocols: ["h2"] })
  const random = generator(seedOf("hello"))
  for (let round = 0; round < 3000; round += 1) {
    const broken = Buffer.from(bytes)
    for (let change = 0; change < 3; change += 1) broken[random(broken.length)] = random(256)
    readClientHello(broken)
  }
})
