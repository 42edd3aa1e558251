/** The stack against Linux's own TCP: a namespace of this machine is the guest. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import path from "node:path"
import { hashServer, patternServer } from "../support/hostServers.ts"
import { seedOf } from "../support/random.ts"
import { patternHash } from "../support/tapPeer.ts"
import { makeTapWorld, missingForTap, type TapWorld } from "../support/tapWorld.ts"

const missing = missingForTap()
if (missing !== undefined) console.warn(`skipped: the stack against Linux's TCP; missing: ${missing}`)

const peer = path.join(import.meta.dir, "../support/tapPeer.ts")
const timeoutMs = 120_000
/** 1024 for the long run. */
const mebibytes = Number(process.env["BUNKER_TEST_NET_MIB"] ?? 24)
const mebibytesLossy = Number(process.env["BUNKER_TEST_NET_LOSSY_MIB"] ?? 1)

const resolve = async (): Promise<ReadonlyArray<string>> => ["127.0.0.1"]

const carry = async (world: TapWorld, direction: "up" | "down", host: string, size: number) => {
  using server = direction === "up" ? hashServer() : patternServer(size)
  const { stderr, stdout } = await world.run([
    process.execPath,
    peer,
    direction,
    host,
    String(server.port),
    String(size)
  ])
  expect(stderr).toBe("")
  return JSON.parse(stdout) as {
    readonly received: number
    readonly said: string
    readonly hash: string
    readonly error: string | null
  }
}

const carriesBothWays = async (world: TapWorld, host: string, size: number): Promise<void> => {
  const up = await carry(world, "up", host, size)
  expect(up.said).toBe(`${patternHash(size)} ${size * 1_048_576}`)
  const down = await carry(world, "down", host, size)
  expect({ hash: down.hash, received: down.received }).toEqual({ hash: patternHash(size), received: size * 1_048_576 })
}

describe.skipIf(missing !== undefined)("a guest with Linux's TCP", () => {
  let world: TapWorld
  beforeAll(async () => {
    world = await makeTapWorld({ resolve })
  })
  afterAll(() => world[Symbol.asyncDispose]())

  for (const family of ["-4", "-6"])
    test(`curl ${family} reaches an allowed name`, async () => {
      using server = Bun.serve({
        hostname: "127.0.0.1",
        port: 0,
        fetch: ({ headers }) => new Response(`at ${headers.get("host")}`)
      })
      const url = `http://web.test:${server.port}/`
      expect(await world.run(["curl", family, "-sS", "--max-time", "20", url])).toEqual({
        code: 0,
        stdout: `at web.test:${server.port}`,
        stderr: ""
      })
    })

  test(
    "bytes arrive whole both ways, half-closed connections included",
    () => carriesBothWays(world, "bulk.test", mebibytes),
    timeoutMs
  )

  test("what is over is let go: no flow, no byte, no timer is left", async () => {
    const until = Date.now() + 20_000
    while (Date.now() < until && world.stack.stats().tcpFlows > 0) await Bun.sleep(20)
    const { heldBytes, tcpFlows, udpFlows } = world.stack.stats()
    expect({ heldBytes, tcpFlows, udpFlows }).toEqual({ heldBytes: 0, tcpFlows: 0, udpFlows: 0 })
  })
})

test.skipIf(missing !== undefined)(
  "5 % of frames lost, 1 % overtaken, 1 % doubled: bytes arrive whole both ways",
  async () => {
    const seed = seedOf("a bad card")
    await using world = await makeTapWorld({ resolve, trouble: { loss: 500, reorder: 100, duplicate: 100, seed } })
    await carriesBothWays(world, "bulk.test", mebibytesLossy)
  },
  timeoutMs * 10
)
