/** ICMP echo to the host's peers, in a namespace whose users may ping, and in one whose users may not. */
import { expect, test } from "bun:test"
import path from "node:path"
import { missingForTap } from "../support/tapWorld.ts"

const missing = missingForTap() ?? (Bun.which("ping") === null ? "ping (apt-get install iputils-ping)" : undefined)
if (missing !== undefined) console.warn(`skipped: ICMP echo; missing: ${missing}`)

/** A host of its own: the setting is one of a network namespace. */
const pingIn = async (
  groups: string
): Promise<{ readonly four: string; readonly six: string; readonly events: ReadonlyArray<string> }> => {
  const code = `
    import { makeTapWorld } from ${JSON.stringify(path.join(import.meta.dir, "../support/tapWorld.ts"))}
    const addresses = { "four.test": "127.0.0.1", "six.test": "::1" }
    const world = await makeTapWorld({ resolve: async (name) => [addresses[name]] })
    const ping = async (...words) => (await world.run(["ping", "-c", "2", "-i", "0.2", "-W", "5", "-s", "900", ...words])).stdout
    // A name of one family may be reached by the other.
    const four = await ping("-6", "four.test")
    const six = await ping("-4", "six.test")
    console.log(JSON.stringify({ four, six, events: world.events.map(({ kind, reason }) => kind + " " + (reason ?? "")) }))
    process.exit(0)`
  const shell = `ip link set lo up && echo '${groups}' > /proc/sys/net/ipv4/ping_group_range && exec "$@"`
  const isolated = process.getuid?.() === 0 ? ["-n"] : ["-Urn"]
  const child = Bun.spawn(["unshare", ...isolated, "sh", "-c", shell, "sh", process.execPath, "-e", code], {
    stderr: "inherit"
  })
  return JSON.parse((await new Response(child.stdout).text()).trim().split("\n").at(-1)!)
}

test.skipIf(missing !== undefined)("echoes go to a name's host and come back, by either family", async () => {
  const { events, four, six } = await pingIn("0 0")
  for (const output of [four, six]) expect(output).toContain("2 packets transmitted, 2 received")
  expect(events.filter((event) => event.startsWith("opened"))).toHaveLength(2)
})

test.skipIf(missing !== undefined)(
  "where the host's users may not ping, an event says so and the guest is refused at once",
  async () => {
    const { events, four } = await pingIn("1 0")
    expect(four).toContain("Destination unreachable")
    expect(events[0]).toBe("unsupported this host lets its users send no ICMP echo (sysctl net.ipv4.ping_group_range)")
  }
)
