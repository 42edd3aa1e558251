/** How the keeper of a VM is found that lives; the keepers are played by the test. */
import { expect } from "bun:test"
import fs from "node:fs"
import net from "node:net"
import { Effect, Fiber, Layer } from "effect"
import { ImageStore } from "../../../src/actors/images/ImageStore.ts"
import { AgentTimeoutMs } from "../../../src/actors/keeper/agentWatch.ts"
import { bootVm } from "../../../src/actors/keeper/boot.ts"
import { LeaseManager } from "../../../src/actors/leases/LeaseManager.ts"
import { makeKeepers } from "../../../src/actors/sandboxes/keeperClient.ts"
import { Sweeper } from "../../../src/actors/sandboxes/Sweeper.ts"
import type { LeasedImage } from "../../../src/domain/image/image.ts"
import type { SafeName } from "../../../src/domain/name.ts"
import { Database } from "../../../src/store/database/Database.ts"
import { findSandbox } from "../../../src/store/database/sandboxes.ts"
import { tryFileLock } from "../../../src/store/files/lock.ts"
import { Paths } from "../../../src/store/files/Paths.ts"
import { identify } from "../../../src/store/processes/processes.ts"
import { Engines } from "../../../src/vm/engines/Engine.ts"
import { freshHome } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { putSandbox } from "../../support/sandboxes.ts"

const unused = Layer.mergeAll(
  Layer.mock(Engines, {
    get: () => {
      throw new Error("asked for an engine")
    }
  }),
  Layer.mock(ImageStore, {}),
  Layer.mock(LeaseManager, {}),
  Layer.mock(Sweeper, {})
)

it.live("a process that has a keeper's lock and keeps nothing is named after a time, with what to do", () =>
  Effect.gen(function* () {
    const [db, paths] = [yield* Database, yield* Paths]
    const name = "web" as SafeName
    const id = yield* putSandbox({ name, status: "running", process: identify(process.pid)! })
    const { info } = (yield* findSandbox(db, name))!
    const { directory, keeperLock, keeperSocket } = paths.run(id)
    fs.mkdirSync(directory, { recursive: true })
    expect(yield* tryFileLock(keeperLock)).toBe(true)
    // The keeper that it starts ends without a word, as the lock is taken.
    const keepers = yield* makeKeepers({ keeperCommand: ["/bin/true"], keeperEnv: {} })
    const { _tag, message } = yield* Effect.flip(keepers.address(info))
    expect(_tag).toBe("SupervisorUnreachable")
    expect(message).toContain(`process ${process.pid} holds ${keeperLock} and has not listened for 3s200ms`)
    expect(message).toContain(`'kill -9 ${process.pid}'`)
    // One that is only late is waited for.
    const asked = yield* Effect.forkChild(keepers.address(info), { startImmediately: true })
    yield* Effect.sleep("300 millis")
    yield* Effect.acquireRelease(
      Effect.callback<net.Server>((resume) => {
        const server = net.createServer(() => {})
        server.listen(keeperSocket, () => resume(Effect.succeed(server)))
      }),
      (server) => Effect.sync(() => server.close())
    )
    yield* Fiber.join(asked)
  }).pipe(Effect.provide(Layer.merge(freshHome, unused)), Effect.provideService(AgentTimeoutMs, 200))
)

it.live("a second start while the first boots, or before it could say so, is told that somebody starts it", () =>
  Effect.gen(function* () {
    const [db, paths] = [yield* Database, yield* Paths]
    const name = "twice" as SafeName
    const id = yield* putSandbox({ name, status: "created" })
    const { info } = (yield* findSandbox(db, name))!
    const { directory, keeperLock } = paths.run(id)
    fs.mkdirSync(directory, { recursive: true })
    expect(yield* tryFileLock(keeperLock)).toBe(true)
    const second = Effect.scoped(Effect.flip(bootVm({ info, image: {} as LeasedImage, dieWithParent: false })))
    const setStatus = (status: string) => db.run("UPDATE sandbox SET status = ? WHERE id = ?", [status, id])
    // The first has the lock, and is at its ports.
    const early = yield* Effect.forkChild(second, { startImmediately: true })
    yield* Effect.sleep("300 millis")
    yield* setStatus("starting")
    const refused = yield* Fiber.join(early)
    expect(refused).toMatchObject({ _tag: "AlreadyRunning", starting: true })
    expect(refused.message).toContain(`"twice" is being started already`)
    yield* setStatus("running")
    expect((yield* second).message).toContain("is running already")
    yield* setStatus("draining")
    expect((yield* second).message).toContain("it is draining")
    // One that has ended, and whose keeper does not go.
    yield* setStatus("stopped")
    expect((yield* second).message).toContain("try again")
  }).pipe(Effect.provide(Layer.merge(freshHome, unused)))
)
