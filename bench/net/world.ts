/** The network stack in a process of its own, for a namespace whose process it names on stdout. Ends with its stdin. */
import { makeTapWorld } from "../../test/support/tapWorld.ts"

await using world = await makeTapWorld({ resolve: async () => ["127.0.0.1"] })
console.log(world.pid)
for await (const _ of Bun.stdin.stream()) void _
