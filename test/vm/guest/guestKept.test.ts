/** Commands that outlive the host process that started them; the real agent, as a process of this machine. */
import { describe, expect } from "bun:test"
import { existsSync } from "node:fs"
import { join } from "node:path"
import { Effect, Exit, Fiber, Schedule, Scope, Stream } from "effect"
import {
  connectGuest,
  type ExecHandle,
  type GuestChannel,
  type KeptCommand
} from "../../../src/vm/guest/GuestChannel.ts"
import { unixListenerTransport } from "../../../src/vm/guest/transport.ts"
import { it } from "../../support/it.ts"
import { scratchDirectory, spawnAgent } from "../../support/nativeAgent.ts"
import { generator, seedOf } from "../../support/random.ts"

type Kept = ExecHandle & { readonly kept: KeptCommand }

/** An agent, and hosts one after the other, each with a scope of its own that can end like a process that is killed. */
const agent = Effect.gen(function* () {
  const socket = join(yield* scratchDirectory, "guest.sock")
  const child = yield* spawnAgent(socket)
  const host = Effect.gen(function* () {
    const scope = yield* Scope.make()
    const guest = yield* Effect.flatMap(unixListenerTransport(socket), connectGuest).pipe(Scope.provide(scope))
    const start = (
      script: string,
      keep: { readonly name?: string; readonly from?: number; readonly holdMs?: number } = {}
    ) =>
      guest
        .exec({
          argv: ["sh", "-c", script],
          env: [],
          cwd: "/",
          user: "",
          tty: null,
          stdin: true,
          keep: { name: keep.name ?? "main", from: keep.from ?? 0, holdMs: keep.holdMs ?? 60_000 }
        })
        .pipe(
          Scope.provide(scope),
          Effect.map((handle) => handle as Kept)
        )
    const reattach = (from?: number, name = "main") => guest.reattach(name, from).pipe(Scope.provide(scope))
    return { guest, start, reattach, leave: Scope.close(scope, Exit.void) }
  })
  return { host, child }
})

const text = (data: Uint8Array) => Buffer.from(data).toString()

/** Reads until so many bytes came, or the end; answers text per stream and how it ended. */
const read = (handle: Kept, bytes = Number.POSITIVE_INFINITY, confirm = true) =>
  Effect.gen(function* () {
    const said = { Stdout: "", Stderr: "", all: "", end: undefined as number | undefined }
    yield* handle.events.pipe(
      Stream.takeUntil((event) => {
        if (event._tag === "Exit") said.end = event.code
        if (event._tag === "Signaled") said.end = 128 + event.signal
        if (!("data" in event)) return true
        said[event._tag] += text(event.data)
        said.all += text(event.data)
        if (confirm) handle.kept.confirm(event.data.length)
        return said.all.length >= bytes
      }),
      Stream.runDrain
    )
    return said
  })

const gone = (pid: number) =>
  Effect.suspend(() => (existsSync(`/proc/${pid}`) ? Effect.fail("still there") : Effect.void)).pipe(
    Effect.retry({ times: 500, schedule: Schedule.spaced(10) }),
    Effect.orDie
  )

/** Answers once the guest has no process that it was asked for. */
const flooded = (guest: GuestChannel, file: string) =>
  Effect.suspend(() => (existsSync(file) ? Effect.void : Effect.fail("not yet"))).pipe(
    Effect.andThen(guest.ping),
    Effect.retry({ times: 500, schedule: Schedule.spaced(20) }),
    Effect.orDie
  )

describe("a kept command", () => {
  it.live("goes on without a host; the next one gets what it lacks, in order, then what comes, and the end", () =>
    Effect.gen(function* () {
      const { host } = yield* agent
      const first = yield* host
      expect(yield* first.guest.keeps).toBe(true)
      const begun = yield* first.start("echo one; echo two >&2; read line; echo $line; exit 7", { from: 1000 })
      expect(begun.kept).toMatchObject({ from: 1000, said: 1000 })
      // Two lines came, one of them is written down.
      expect((yield* read(begun, 8, false)).all.length).toBe(8)
      yield* first.leave
      const second = yield* host
      const again = yield* second.reattach(1004)
      expect(again.pid).toBe(begun.pid)
      expect(again.kept).toMatchObject({ from: 1004, said: 1008 })
      expect((yield* read(again, 4)).all.length).toBe(4)
      yield* second.leave
      const third = yield* host
      const last = yield* third.reattach(1008)
      yield* last.write(new TextEncoder().encode("three\n"))
      expect(yield* read(last)).toMatchObject({ Stdout: "three\n", Stderr: "", end: 7 })
    })
  )

  it.live("tells its end to everyone who asks, though it ended while nobody was there", () =>
    Effect.gen(function* () {
      const { host } = yield* agent
      const first = yield* host
      const begun = yield* first.start("echo bye >&2; exit 3")
      yield* first.leave
      yield* gone(begun.pid)
      for (const last of [false, true]) {
        const next = yield* host
        const found = yield* next.reattach(0)
        expect(yield* read(found, undefined, false)).toMatchObject({ Stderr: "bye\n", end: 3 })
        if (last) found.kept.confirmEnd()
        yield* next.leave
      }
      const after = yield* host
      const found = yield* after.reattach(4)
      expect(found.kept).toMatchObject({ from: 4, said: 4 })
      expect(yield* read(found)).toMatchObject({ all: "", end: 3 })
      // Its name is free now.
      const other = yield* after.start("exit 4")
      expect((yield* read(other)).end).toBe(4)
    })
  )

  it.live("is killed by a signal, takes a size, and reads its end of input after a change of hosts", () =>
    Effect.gen(function* () {
      const { host } = yield* agent
      const first = yield* host
      const begun = yield* first.start("cat; echo end; sleep 1000")
      yield* begun.write(new TextEncoder().encode("a"))
      yield* first.leave
      const second = yield* host
      const again = yield* second.reattach(0)
      yield* again.write(new TextEncoder().encode("b"))
      yield* again.closeStdin
      expect((yield* read(again, 6)).all).toBe("abend\n")
      yield* second.leave
      const third = yield* host
      const last = yield* third.reattach(6)
      // Nobody reads any more: dropped, as for everyone.
      yield* last.write(new TextEncoder().encode("c"))
      expect((yield* Effect.flip(last.resize(80, 24))).message).toContain("no terminal")
      yield* last.signal(9)
      expect((yield* read(last)).end).toBe(137)
    })
  )

  it.live("goes on with the window where the last host left it", () =>
    Effect.gen(function* () {
      const { host } = yield* agent
      const directory = yield* scratchDirectory
      const first = yield* host
      const begun = yield* first.start(`until [ -e ${directory}/go ]; do sleep 0.05; done; wc -c`)
      // More than the pipe and the window: the rest never leaves this host.
      yield* begun.write(new Uint8Array(65_536 + 131_072))
      yield* first.leave
      const second = yield* host
      const again = yield* second.reattach(0)
      const writing = yield* Effect.forkChild(again.write(new Uint8Array(200_000)), { startImmediately: true })
      expect(writing.pollUnsafe()).toBeUndefined()
      yield* Effect.promise(() => Bun.write(`${directory}/go`, ""))
      yield* Fiber.join(writing)
      yield* again.closeStdin
      expect((yield* read(again)).Stdout.trim()).toBe(String(65_536 + 131_072 + 200_000))
    })
  )

  it.live("waits while its ring is full, and loses nothing when a host comes in time", () =>
    Effect.gen(function* () {
      const { host } = yield* agent
      const first = yield* host
      yield* first.start("seq 1 800000; exit 5")
      yield* first.leave
      const second = yield* host
      const found = yield* second.reattach(0)
      expect(found.kept.from).toBe(0)
      const { Stdout, end } = yield* read(found)
      expect(end).toBe(5)
      expect(Stdout.length).toBeGreaterThan(5_000_000)
      expect(Stdout).toBe(Array.from({ length: 800_000 }, (_, index) => `${index + 1}\n`).join(""))
    })
  )

  it.live("loses the oldest output, by count, when nobody comes in time", () =>
    Effect.gen(function* () {
      const { host } = yield* agent
      const directory = yield* scratchDirectory
      const first = yield* host
      const begun = yield* first.start(`seq 1 800000; echo done > ${directory}/done; sleep 1000`, { holdMs: 100 })
      yield* read(begun, 1)
      yield* first.leave
      const second = yield* host
      yield* flooded(second.guest, `${directory}/done`)
      const whole = Array.from({ length: 800_000 }, (_, index) => `${index + 1}\n`).join("")
      const found = yield* second.reattach(10)
      expect(found.kept.from).toBeGreaterThan(whole.length - 1_200_000)
      expect(found.kept.said).toBe(whole.length)
      expect((yield* read(found, whole.length - found.kept.from)).Stdout).toBe(whole.slice(found.kept.from))
      // With a host it waits again, though it had given up waiting before.
      expect((yield* Effect.flip(second.reattach(whole.length + 1))).reason).toBe("bad_offset")
    })
  )

  it.live("is heard whole, each byte once and in order, over hosts that break off anywhere", () =>
    Effect.gen(function* () {
      const { host } = yield* agent
      const seed = seedOf("a kept command is heard whole")
      const random = generator(seed)
      const lines = 6000
      const script = `i=0; while [ $i -lt ${lines} ]; do i=$((i+1)); echo $i; [ $((i % 7)) != 0 ] || echo e$i >&2; done; exit 6`
      const first = yield* host
      let handle = yield* first.start(script, { from: 5 })
      let leave = first.leave
      let offset = 5
      const kept = { Stdout: "", Stderr: "" }
      const ended: Array<number> = []
      while (true) {
        let left = random(random(20_000) + 1)
        let unconfirmed = 0
        // What came after the last byte that is written down is lost with this host.
        yield* handle.events.pipe(
          Stream.takeUntil((event) => {
            if (!("data" in event)) {
              ended.push("code" in event ? event.code : -1)
              return true
            }
            left -= event.data.length
            if (left < 0) return true
            kept[event._tag] += text(event.data)
            offset += event.data.length
            unconfirmed += event.data.length
            if (random(2) === 0) return false
            handle.kept.confirm(unconfirmed)
            unconfirmed = 0
            return false
          }),
          Stream.runDrain
        )
        yield* leave
        if (ended.length > 0) break
        const next = yield* host
        handle = yield* next.reattach(offset)
        leave = next.leave
        expect({ seed, from: handle.kept.from }).toEqual({ seed, from: offset })
      }
      expect({ seed, ended }).toEqual({ seed, ended: [6] })
      const numbers = Array.from({ length: lines }, (_, index) => index + 1)
      expect(kept.Stdout === numbers.map((each) => `${each}\n`).join("")).toBe(true)
      const errors = numbers.filter((each) => each % 7 === 0).map((each) => `e${each}\n`)
      expect(kept.Stderr === errors.join("")).toBe(true)
    })
  )

  it.live("waits for a host that is there and confirms nothing", () =>
    Effect.gen(function* () {
      const { host } = yield* agent
      const directory = yield* scratchDirectory
      const first = yield* host
      const begun = yield* first.start(`seq 1 800000; echo > ${directory}/done`, { holdMs: 0 })
      const { all } = yield* read(begun, 1_000_000, false)
      expect(existsSync(`${directory}/done`)).toBe(false)
      begun.kept.confirm(all.length)
      expect((yield* read(begun)).end).toBe(0)
      yield* first.leave
    })
  )

  it.live("belongs to the newest host; what is not kept, or is unknown, is refused by its kind", () =>
    Effect.gen(function* () {
      const { host } = yield* agent
      const { start, reattach, guest } = yield* host
      expect(yield* Effect.flip(reattach())).toMatchObject({ _tag: "ReattachRefused", reason: "not_found" })
      const begun = yield* start("sleep 1000")
      expect(yield* Effect.flip(start("true"))).toMatchObject({ _tag: "ExecFailed", reason: "limit" })
      const taken = yield* reattach(0)
      expect((yield* Effect.flip(read(begun)))._tag).toBe("GuestChannelFailed")
      for (const name of ["a", "b", "c"]) yield* start("sleep 1000", { name })
      expect(yield* Effect.flip(start("true", { name: "d" }))).toMatchObject({ reason: "limit" })
      expect(yield* Effect.flip(guest.reattach("x".repeat(65)))).toMatchObject({ reason: "failed" })
      yield* taken.signal(15)
      expect((yield* read(taken)).end).toBe(143)
    })
  )

  it.live("that can not start is forgotten", () =>
    Effect.gen(function* () {
      const { host } = yield* agent
      const { guest, start } = yield* host
      const spec = { env: [], cwd: "/", user: "", tty: null, stdin: false, keep: { name: "main", from: 0, holdMs: 0 } }
      expect(yield* Effect.flip(guest.exec({ ...spec, argv: ["/no/such"] }))).toMatchObject({ reason: "not_found" })
      expect((yield* read(yield* start("exit 9"))).end).toBe(9)
    })
  )

  it.live("has its last words heard when the machine ends", () =>
    Effect.gen(function* () {
      const { host, child } = yield* agent
      const { guest, start } = yield* host
      // Its own end is the last thing that the machine waits for.
      const begun = yield* start("trap 'seq 1 100000; exit 9' TERM; echo up; while :; do :; done")
      yield* read(begun, 3)
      const reading = yield* Effect.forkChild(read(begun))
      yield* guest.poweroff({ signal: 15, graceMs: 10_000 })
      const { Stdout, end } = yield* Fiber.join(reading)
      expect(end).toBe(9)
      expect(Stdout).toBe(Array.from({ length: 100_000 }, (_, index) => `${index + 1}\n`).join(""))
      expect(yield* Effect.promise(() => child.exited)).toBe(0)
    })
  )

  it.live("holds a machine up that would idle without a host, until it ends", () =>
    Effect.gen(function* () {
      const { host, child } = yield* agent
      const directory = yield* scratchDirectory
      const first = yield* host
      yield* first.guest.boot({
        root: { device: "/dev/vdb", type: "erofs" },
        upper: { kind: "tmpfs" },
        hostname: "box",
        limits: { idle_ms: 300 }
      })
      yield* first.start(`until [ -e ${directory}/go ]; do sleep 0.05; done`)
      yield* first.leave
      yield* Effect.sleep(2500)
      expect(child.exitCode).toBeNull()
      yield* Effect.promise(() => Bun.write(`${directory}/go`, ""))
      expect(yield* Effect.promise(() => child.exited)).toBe(0)
    })
  )
})
