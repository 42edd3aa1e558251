import { describe, expect } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import net from "node:net"
import { tmpdir } from "node:os"
import path from "node:path"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Logger, Schema, Stream } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { type Address, layerLater, layerLocal, local, supervised } from "../../../src/actors/kit/Actor.ts"
import { connectUnix, serveUnix } from "../../../src/actors/kit/unixSocket.ts"
import { it } from "../../support/it.ts"

class Overdrawn extends Schema.TaggedError<Overdrawn>()("Overdrawn", { balance: Schema.Int }) {}

/** A counter with every kind of message: plain, failing, crashing, streaming, binary. */
class Counter extends RpcGroup.make(
  Rpc.make("Add", { payload: { amount: Schema.Int }, success: Schema.Int, error: Overdrawn }),
  Rpc.make("Crash", { success: Schema.Int }),
  Rpc.make("Slow", { payload: { ms: Schema.Int }, success: Schema.Int }),
  Rpc.make("Later", { payload: { ms: Schema.Int }, success: Schema.Int }),
  Rpc.make("Watch", { payload: { count: Schema.Int }, success: Schema.Int, stream: true }),
  Rpc.make("Echo", { payload: { bytes: Schema.Uint8Array }, success: Schema.Uint8Array })
) {}
type CounterAddress = Address<RpcGroup.Rpcs<typeof Counter>>
class CounterActor extends Context.Service<CounterActor, CounterAddress>()("test/Counter") {}

let running = 0
let most = 0
const behaviour = Effect.sync(() => {
  let value = 0
  return Counter.of({
    Add: ({ amount }) =>
      value + amount < 0
        ? Effect.fail(new Overdrawn({ balance: value }))
        : Effect.sync(() => {
            value += amount
            return value
          }),
    Crash: () => Effect.die(new Error("poison")),
    Slow: ({ ms }) =>
      Effect.gen(function* () {
        running += 1
        most = Math.max(most, running)
        yield* Effect.sleep(ms)
        return (value += 1)
      }).pipe(Effect.ensuring(Effect.sync(() => void (running -= 1)))),
    Later: ({ ms }) => Rpc.fork(Effect.as(Effect.sleep(ms), ms)),
    Watch: ({ count }) => Rpc.fork(Stream.range(1, count).pipe(Stream.tap(() => Effect.sleep(1)))),
    Echo: ({ bytes }) => Effect.succeed(bytes)
  })
})

const here = layerLocal(CounterActor, Counter, behaviour)

let loads = 0
const later = layerLater(CounterActor, Counter, async () => {
  loads += 1
  await Bun.sleep(5)
  return here
})

const socketDirectory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(path.join(tmpdir(), "actor-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true }))
)

const there = Layer.effect(
  CounterActor,
  Effect.gen(function* () {
    const socket = path.join(yield* socketDirectory, "a.sock")
    const address = Context.get(yield* Layer.build(here), CounterActor)
    yield* Layer.build(serveUnix(address, Counter, socket))
    return yield* connectUnix(Counter, socket)
  }).pipe(Effect.orDie)
)

for (const [place, layer] of [
  ["in process", here],
  ["in process from the first message on", later],
  ["over a unix socket", there]
] as const) {
  const story = (name: string, body: (actor: CounterAddress) => Effect.Effect<void, unknown>) =>
    it.live(name, () => Effect.flatMap(CounterActor, body).pipe(Effect.provide(layer), Effect.timeout("8 seconds")))

  describe(place, () => {
    story("answers, and fails with the typed error", (actor) =>
      Effect.gen(function* () {
        expect(yield* actor.Add({ amount: 5 })).toBe(5)
        const error = yield* Effect.flip(actor.Add({ amount: -6 }))
        expect(error).toBeInstanceOf(Overdrawn)
        expect(error).toMatchObject({ _tag: "Overdrawn", balance: 5 })
      })
    )

    story("a stream that nobody reads holds up no other message", (actor) =>
      Effect.gen(function* () {
        const begun = yield* Deferred.make<void>()
        const stalled = Stream.runForEach(actor.Watch({ count: 10_000 }), () =>
          Effect.andThen(Deferred.succeed(begun, undefined), Effect.never)
        )
        yield* Effect.forkScoped(stalled)
        yield* Deferred.await(begun)
        for (let value = 1; value < 50; value += 1) expect(yield* actor.Add({ amount: 1 })).toBe(value)
      }).pipe(Effect.scoped)
    )

    story("handles one message at a time, in order", (actor) =>
      Effect.gen(function* () {
        most = 0
        const answers = yield* Effect.forEach([1, 2, 3, 4, 5, 6], () => actor.Slow({ ms: 2 }), {
          concurrency: "unbounded"
        })
        expect(answers).toEqual([1, 2, 3, 4, 5, 6])
        expect(most).toBe(1)
      })
    )

    story("a defect fails its own message and restarts the behaviour with fresh state", (actor) =>
      Effect.gen(function* () {
        yield* actor.Add({ amount: 7 })
        expect(Exit.isFailure(yield* Effect.exit(actor.Crash()))).toBe(true)
        expect(yield* actor.Add({ amount: 1 })).toBe(1)
      })
    )

    story("streams while it answers other messages", (actor) =>
      Effect.gen(function* () {
        const watching = yield* actor.Watch({ count: 50 }).pipe(Stream.runCollect, Effect.forkChild)
        expect(yield* actor.Add({ amount: 1 })).toBe(1)
        expect((yield* Fiber.join(watching)).length).toBe(50)
      })
    )

    story("a forked message leaves the mailbox to others", (actor) =>
      Effect.gen(function* () {
        const later = yield* Effect.forkChild(actor.Later({ ms: 300 }))
        const before = performance.now()
        expect(yield* actor.Add({ amount: 1 })).toBe(1)
        expect(performance.now() - before).toBeLessThan(250)
        expect(yield* Fiber.join(later)).toBe(300)
      })
    )

    story("carries bytes unchanged", (actor) =>
      Effect.gen(function* () {
        const bytes = crypto.getRandomValues(new Uint8Array(60_000))
        expect(Buffer.from(yield* actor.Echo({ bytes })).equals(Buffer.from(bytes))).toBe(true)
      })
    )

    story("an interrupted message gives its place back", (actor) =>
      Effect.gen(function* () {
        const slow = yield* Effect.forkChild(actor.Slow({ ms: 10_000 }))
        yield* Effect.sleep("20 millis")
        yield* Fiber.interrupt(slow)
        expect(yield* actor.Add({ amount: 3 })).toBe(3)
      })
    )
  })
}

it.live("what is loaded later is loaded by the first message, once, also when its sender leaves", () =>
  Effect.gen(function* () {
    loads = 0
    const actor = yield* CounterActor
    expect(loads).toBe(0)
    const first = yield* Effect.forkChild(actor.Add({ amount: 1 }), { startImmediately: true })
    yield* Effect.forkChild(Fiber.interrupt(first))
    const answers = yield* Effect.forEach([1, 1, 1], (amount) => actor.Add({ amount }), { concurrency: "unbounded" })
    expect(answers.at(-1)).toBeGreaterThanOrEqual(3)
    expect(loads).toBe(1)
  }).pipe(Effect.provide(later), Effect.timeout("8 seconds"))
)

it.live("a sender that goes without reading its answer is no error, and disturbs no other", () => {
  const logged: Array<unknown> = []
  return Effect.gen(function* () {
    const socket = path.join(yield* socketDirectory, "a.sock")
    const address = Context.get(yield* Layer.build(here), CounterActor)
    yield* Layer.build(serveUnix(address, Counter, socket))
    const other = yield* connectUnix(Counter, socket)
    const leaving = net.connect(socket).pause()
    // No frame at all, which is answered with a defect.
    yield* Effect.promise(() => new Promise<void>((done) => leaving.write(new Uint8Array(64).fill(1), () => done())))
    expect(yield* other.Add({ amount: 1 })).toBe(1)
    leaving.destroy()
    for (let value = 2; value < 50; value += 1) expect(yield* other.Add({ amount: 1 })).toBe(value)
    expect(logged).toEqual([])
  }).pipe(Effect.provide(Logger.layer([Logger.make(({ message }) => void logged.push(message))])))
})

it.live("a full mailbox makes senders wait and loses nothing", () =>
  Effect.gen(function* () {
    class Gate extends RpcGroup.make(Rpc.make("Pass", { success: Schema.Int })) {}
    const open = yield* Deferred.make<void>()
    let passed = 0
    const handlers = yield* Layer.build(
      Gate.toLayer(
        supervised(
          Gate,
          Effect.succeed(
            Gate.of({
              Pass: () =>
                Effect.andThen(
                  Deferred.await(open),
                  Effect.sync(() => ++passed)
                )
            })
          )
        )
      )
    )
    const gate = yield* local(Gate, { capacity: 4 }).pipe(Effect.provideContext(handlers))
    const senders = yield* Effect.forEach(Array.from({ length: 20 }), () => Effect.forkChild(gate.Pass()))
    yield* Effect.sleep("10 millis")
    expect(passed).toBe(0)
    yield* Deferred.succeed(open, undefined)
    const answers = yield* Effect.forEach(senders, Fiber.join)
    expect(answers.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1))
  })
)
