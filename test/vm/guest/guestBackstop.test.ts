/** Limits that the agent keeps by itself, when no process of the host does; the real agent, as a process of this machine. */
import { describe, expect } from "bun:test"
import { join } from "node:path"
import { Effect, Exit, Fiber, Scope } from "effect"
import { type BootRequest, connectGuest } from "../../../src/vm/guest/GuestChannel.ts"
import { unixListenerTransport } from "../../../src/vm/guest/transport.ts"
import { it } from "../../support/it.ts"
import { scratchDirectory, spawnAgent } from "../../support/nativeAgent.ts"

const boot = (limits: NonNullable<BootRequest["limits"]>): BootRequest => ({
  root: { device: "/dev/vdb", type: "erofs" },
  upper: { kind: "tmpfs" },
  hostname: "box",
  limits
})
const sleeper = { argv: ["sleep", "1000"], env: [], cwd: "/", user: "", tty: null, stdin: false } as const

/** An agent, and a host whose scope can end before it. */
const agent = Effect.gen(function* () {
  const socket = join(yield* scratchDirectory, "guest.sock")
  const hostScope = yield* Scope.make()
  const host = Effect.flatMap(unixListenerTransport(socket), connectGuest).pipe(Scope.provide(hostScope))
  const child = yield* spawnAgent(socket)
  return { guest: yield* host, child, leave: Scope.close(hostScope, Exit.void), hostScope }
})

const ended = (child: Bun.Subprocess) => Effect.promise(() => child.exited)

describe("the agent", () => {
  it.live("powers off when its time is over, whoever is there", () =>
    Effect.gen(function* () {
      const { guest, child, hostScope } = yield* agent
      yield* guest.boot(boot({ max_ms: 300 }))
      // What runs is asked to end first.
      yield* guest.exec(sleeper).pipe(Scope.provide(hostScope))
      expect(yield* ended(child)).toBe(0)
    })
  )

  it.live("powers off when it idled without a host; a host that is there keeps it up", () =>
    Effect.gen(function* () {
      const { guest, child, leave } = yield* agent
      yield* guest.boot(boot({ idle_ms: 200 }))
      const watching = yield* Effect.forkChild(ended(child), { startImmediately: true })
      // Longer than the limit and than the agent's own turn.
      yield* Effect.sleep(1500)
      expect(watching.pollUnsafe()).toBeUndefined()
      yield* guest.ping
      yield* leave
      expect(yield* Fiber.join(watching)).toBe(0)
    })
  )

  it.live("stays up without limits, and with some that are none", () =>
    Effect.gen(function* () {
      const { guest, child } = yield* agent
      yield* guest.boot(boot({ max_ms: 0, idle_ms: -5 }))
      const watching = yield* Effect.forkChild(ended(child), { startImmediately: true })
      yield* Effect.sleep(300)
      expect(watching.pollUnsafe()).toBeUndefined()
      yield* guest.ping
    })
  )
})
