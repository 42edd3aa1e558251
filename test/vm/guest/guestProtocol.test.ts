/** The channel under hostile or broken peers, on both sides: only the connection that misbehaves is closed. */
import { describe, expect } from "bun:test"
import { existsSync, statSync } from "node:fs"
import { join } from "node:path"
import { Effect, Fiber, Schedule, type Scope, Stream } from "effect"
import type { GuestChannelFailed } from "../../../src/domain/errors/vm.ts"
import { pipeHandlers, SocketPipe, socketConnection } from "../../../src/vm/guest/connection.ts"
import { encodeFrame, encodeJson, type Frame, FrameDecoder, FrameType } from "../../../src/vm/guest/frames.ts"
import { connectGuest } from "../../../src/vm/guest/GuestChannel.ts"
import {
  type GuestConnection,
  type GuestTransport,
  slotTransport,
  unixListenerTransport
} from "../../../src/vm/guest/transport.ts"
import { it } from "../../support/it.ts"
import { scratchDirectory, spawnAgent } from "../../support/nativeAgent.ts"

/** Frames of a connection, one by one; `undefined` at its end. */
const reader = (connection: GuestConnection) =>
  Effect.map(Stream.toPull(connection.incoming), (pull) => {
    const decoder = new FrameDecoder()
    const ready: Array<Frame> = []
    return Effect.gen(function* () {
      while (ready.length === 0) {
        const more = yield* Effect.result(pull)
        if (more._tag === "Failure") return undefined
        for (const bytes of more.success) decoder.push(bytes, (frame) => ready.push(frame))
      }
      return ready.shift()
    })
  })

const json = (frame: Frame | undefined): Record<string, unknown> =>
  frame === undefined ? {} : JSON.parse(Buffer.from(frame.payload).toString())

const rawAgent = Effect.gen(function* () {
  const socketPath = join(yield* scratchDirectory, "guest.sock")
  const transport = yield* unixListenerTransport(socketPath)
  yield* spawnAgent(socketPath)
  return transport
})

/** Control connection after both HELLOs. */
const rawControl = (transport: GuestTransport) =>
  Effect.gen(function* () {
    const connection = yield* transport.control
    const next = yield* reader(connection)
    expect(json(yield* next)).toMatchObject({ protocol: 1, kind: "control" })
    yield* connection.write(encodeJson(FrameType.Hello, { protocol: 1 }))
    let id = 0
    const request = (fields: object) =>
      Effect.gen(function* () {
        yield* connection.write(encodeJson(FrameType.Request, { id: ++id, ...fields }))
        return json(yield* next)
      })
    return { connection, next, request }
  })

const command = (exec: number, script: string) => ({
  op: "exec",
  exec,
  argv: ["sh", "-c", script],
  env: [],
  cwd: "/",
  user: "",
  tty: null,
  stdin: true
})

/** Starts a command by hand and gives its connection, past both HELLOs and the answer. */
const rawExec = (
  transport: GuestTransport,
  control: Effect.Success<ReturnType<typeof rawControl>>,
  exec: number,
  script: string,
  more: object = {}
): Effect.Effect<
  { connection: GuestConnection; next: Effect.Effect<Frame | undefined>; pid: number },
  GuestChannelFailed,
  Scope.Scope
> =>
  Effect.gen(function* () {
    const place = yield* transport.exec(exec)
    yield* control.connection.write(
      encodeJson(FrameType.Request, { id: 1000 + exec, ...command(exec, script), ...more })
    )
    const connection = yield* place.connection
    const next = yield* reader(connection)
    expect(json(yield* next)).toEqual({ protocol: 1, kind: "exec", exec })
    yield* connection.write(encodeJson(FrameType.Hello, { protocol: 1 }))
    const answer = json(yield* control.next)
    expect(answer).toMatchObject({ id: 1000 + exec, ok: true })
    return { connection, next, pid: Number(answer["pid"]) }
  })

const gone = (pid: number) =>
  Effect.suspend(() => (existsSync(`/proc/${pid}`) ? Effect.fail("still there") : Effect.void)).pipe(
    Effect.retry({ times: 300, schedule: Schedule.spaced(10) }),
    Effect.orDie
  )

describe("the agent", () => {
  it.live("refuses another version, and calls again", () =>
    Effect.gen(function* () {
      const transport = yield* rawAgent
      yield* Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* transport.control
          const next = yield* reader(connection)
          yield* next
          yield* connection.write(encodeJson(FrameType.Hello, { protocol: 2 }))
          expect(yield* next).toBeUndefined()
        })
      )
      const { request } = yield* rawControl(transport)
      expect(yield* request({ op: "ping" })).toMatchObject({ ok: true })
    })
  )

  it.live("answers a wrong request and goes on", () =>
    Effect.gen(function* () {
      const { request } = yield* rawControl(yield* rawAgent)
      const wrong = [
        {},
        { op: "fly" },
        { op: "exec" },
        { ...command(1, "true"), argv: [] },
        { ...command(1, "true"), argv: [""] },
        { ...command(1, "true"), argv: ["sh", 1] },
        { ...command(1, "true"), env: ["NOVALUE"] },
        { ...command(1, "true"), exec: -1 },
        { ...command(1, "true"), exec: 1.5 },
        { ...command(1, "true"), tty: { cols: 70000, rows: 1 } },
        { op: "signal", exec: 1, signal: 65 },
        { op: "resize", exec: 1, cols: 1 },
        { ...command(1, "true"), keep: 5 },
        { ...command(1, "true"), keep: { name: "" } },
        { ...command(1, "true"), keep: { name: "x".repeat(65) } },
        { ...command(1, "true"), keep: { name: "a", from: -1 } },
        { ...command(1, "true"), keep: { name: "a", from: 0.5 } },
        { ...command(1, "true"), keep: { name: "a", hold_ms: 3_600_001 } },
        { op: "reattach", exec: 1 },
        { op: "reattach", name: "a" },
        { op: "reattach", exec: 1, name: 1 },
        { op: "reattach", exec: 1, name: "a", from: -1 },
        { op: "poweroff", signal: 15 },
        { op: "time", unix_ns: "x" }
      ]
      for (const fields of wrong) expect(yield* request(fields)).toMatchObject({ ok: false, error: "bad_request" })
      expect(yield* request({ op: "signal", exec: 1, signal: 15 })).toMatchObject({ error: "not_running" })
      expect(yield* request({ op: "ping" })).toMatchObject({ ok: true })
    })
  )

  it.live("closes only the connection with a malformed frame, and kills its process group", () =>
    Effect.gen(function* () {
      const transport = yield* rawAgent
      const control = yield* rawControl(transport)
      const bad = yield* rawExec(transport, control, 1, "sleep 1000 & sleep 1000")
      const good = yield* rawExec(transport, control, 2, "cat")
      yield* bad.connection.write(Uint8Array.of(0x42, 0x4b, 5, 9, 0, 0, 0, 0, 1, 0, 0, 0, 0))
      expect(yield* bad.next).toBeUndefined()
      yield* gone(bad.pid)
      yield* good.connection.write(encodeFrame(FrameType.Data, 0, new TextEncoder().encode("still here")))
      const seen = [yield* good.next, yield* good.next].map((frame) => frame!.type).sort()
      expect(seen).toEqual([FrameType.Data, FrameType.Ack])
      expect(yield* control.request({ op: "ping" })).toMatchObject({ ok: true })
    })
  )

  it.live("closes a connection that sends more than the window", () =>
    Effect.gen(function* () {
      const transport = yield* rawAgent
      const control = yield* rawControl(transport)
      const exec = yield* rawExec(transport, control, 1, "sleep 1000")
      const frame = encodeFrame(FrameType.Data, 0, new Uint8Array(65_536))
      // The process reads nothing: its pipe takes one frame, two more fill the window.
      for (let i = 0; i < 4; i++) yield* Effect.ignore(exec.connection.write(frame))
      let last = yield* exec.next
      while (last?.type === FrameType.Ack) last = yield* exec.next
      expect(last).toBeUndefined()
      yield* gone(exec.pid)
    })
  )

  it.live("keeps what runs when the control connection breaks", () =>
    Effect.gen(function* () {
      const transport = yield* rawAgent
      const control = yield* rawControl(transport)
      const exec = yield* rawExec(transport, control, 7, "cat; exit 3")
      yield* control.connection.write(new TextEncoder().encode("garbage"))
      expect(yield* control.next).toBeUndefined()
      yield* exec.connection.write(encodeFrame(FrameType.Eof, 0))
      const exit = yield* exec.next
      expect(exit!.type).toBe(FrameType.Exit)
      expect(json(exit)).toEqual({ code: 3 })
    })
  )

  it.live("lets a kept process live on after malformed frames and wrong confirmations, and kills it on CLOSE", () =>
    Effect.gen(function* () {
      const transport = yield* rawAgent
      const control = yield* rawControl(transport)
      const { pid, ...first } = yield* rawExec(transport, control, 1, "echo x; exec sleep 1000", {
        keep: { name: "a" }
      })
      expect((yield* first.next)!.type).toBe(FrameType.Data)
      const again = (exec: number) =>
        Effect.gen(function* () {
          const place = yield* transport.exec(exec)
          const reattach = { id: exec, op: "reattach", exec, name: "a", from: 0 }
          yield* control.connection.write(encodeJson(FrameType.Request, reattach))
          const connection = yield* place.connection
          const next = yield* reader(connection)
          expect(json(yield* next)).toMatchObject({ exec, from: 0, said: 2, unread: 0, stdin: true })
          yield* connection.write(encodeJson(FrameType.Hello, { protocol: 1 }))
          expect(json(yield* control.next)).toMatchObject({ id: exec, ok: true, pid })
          expect((yield* next)!.payload.length).toBe(2)
          return { connection, next }
        })
      const three = Uint8Array.of(3, 0, 0, 0)
      const wrong = [
        new TextEncoder().encode("garbage"),
        encodeFrame(FrameType.Ack, 1, three),
        encodeFrame(FrameType.Ack, 2, three),
        encodeFrame(FrameType.Data, 1, three)
      ]
      for (const [index, bytes] of wrong.entries()) {
        const { connection, next } = yield* again(100 + index)
        yield* connection.write(bytes)
        expect(yield* next).toBeUndefined()
      }
      const last = yield* again(200)
      expect(existsSync(`/proc/${pid}`)).toBe(true)
      yield* last.connection.write(encodeFrame(FrameType.Close, 0))
      yield* gone(pid)
      expect(yield* control.request({ op: "reattach", exec: 300, name: "a" })).toMatchObject({ error: "not_found" })
    })
  )

  it.live("ends the wait of an exec whose HELLO is wrong", () =>
    Effect.gen(function* () {
      const transport = yield* rawAgent
      const control = yield* rawControl(transport)
      const place = yield* transport.exec(5)
      yield* control.connection.write(encodeJson(FrameType.Request, { id: 9, ...command(5, "true") }))
      const connection = yield* place.connection
      yield* connection.write(encodeJson(FrameType.Hello, { protocol: 3 }))
      expect(json(yield* control.next)).toMatchObject({ id: 9, ok: false, error: "failed" })
    })
  )
})

const dial = (path: string) =>
  Effect.promise(async () => {
    const pipe = new SocketPipe()
    await Bun.connect<SocketPipe>({ unix: path, data: pipe, socket: pipeHandlers })
    return pipe
  })
const ended = (pipe: SocketPipe) => Effect.callback<void>((resume) => pipe.onClosed(() => resume(Effect.void)))
const say = (pipe: SocketPipe, bytes: Uint8Array) => Effect.sync(() => void pipe.send(bytes, () => {}))
const controlHello = encodeJson(FrameType.Hello, { protocol: 1, kind: "control", agent: "0" })

describe("the host's listener", () => {
  it.live("takes the next call of a guest that hung up before a busy host answered", () =>
    Effect.gen(function* () {
      const path = join(yield* scratchDirectory, "guest.sock")
      const transport = yield* unixListenerTransport(path)
      const tired = yield* dial(path)
      yield* say(tired, controlHello)
      yield* Effect.sync(() => tired.end())
      const guest = yield* Effect.forkChild(Effect.scoped(connectGuest(transport)), { startImmediately: true })
      // The listener takes a second control connection once it knows that the first is gone.
      const call = Effect.flatMap(dial(path), (agent) => Effect.as(say(agent, controlHello), agent))
      yield* Effect.repeat(Effect.andThen(call, Effect.sleep(20)), { until: () => guest.pollUnsafe() !== undefined })
      expect((yield* Fiber.join(guest)).hello.agent).toBe("0")
    })
  )

  it.live("refuses strangers: junk, a second control, an exec nobody asked for, another version", () =>
    Effect.gen(function* () {
      const path = join(yield* scratchDirectory, "guest.sock")
      const transport = yield* unixListenerTransport(path)
      const agent = yield* dial(path)
      yield* say(agent, controlHello)
      const strangers = [
        new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n"),
        controlHello,
        encodeJson(FrameType.Hello, { protocol: 1, kind: "exec", exec: 5 }),
        encodeJson(FrameType.Hello, { protocol: 2, kind: "exec", exec: 1 }),
        encodeFrame(FrameType.Data, 0, new Uint8Array(10)),
        encodeJson(FrameType.Hello, { protocol: 1, pad: "x".repeat(10_000) })
      ]
      for (const bytes of strangers) {
        const stranger = yield* dial(path)
        yield* say(stranger, bytes)
        yield* ended(stranger)
      }
      const guest = connectGuest(transport).pipe(Effect.map((channel) => channel.hello.agent))
      expect(yield* Effect.scoped(guest)).toBe("0")
    })
  )

  it.live("knows of an agent that keeps no commands, and says so", () =>
    Effect.gen(function* () {
      const path = join(yield* scratchDirectory, "guest.sock")
      const transport = yield* unixListenerTransport(path)
      const agent = yield* dial(path)
      yield* say(agent, controlHello)
      const guest = yield* connectGuest(transport)
      expect(yield* guest.keeps).toBe(false)
      const refused = yield* Effect.flip(guest.reattach("main", 0))
      expect(refused).toMatchObject({ _tag: "ReattachRefused", reason: "unsupported" })
    })
  )

  it.live("believes no place of a kept command that can not be", () =>
    Effect.gen(function* () {
      const path = join(yield* scratchDirectory, "guest.sock")
      const transport = yield* unixListenerTransport(path)
      const agent = yield* dial(path)
      yield* say(agent, encodeJson(FrameType.Hello, { protocol: 1, kind: "control", agent: "0", features: ["keep"] }))
      const guest = yield* connectGuest(transport)
      const pull = yield* reader(socketConnection(agent))
      yield* pull
      /** What the host makes of a guest that answers a takeover from byte 100 with these. */
      const taken = (...hellos: ReadonlyArray<object>) =>
        Effect.gen(function* () {
          const asked = yield* Effect.forkChild(Effect.result(Effect.scoped(guest.reattach("main", 100))), {
            startImmediately: true
          })
          const { id, exec } = json(yield* pull)
          const connection = yield* dial(path)
          for (const hello of hellos)
            yield* say(connection, encodeJson(FrameType.Hello, { protocol: 1, kind: "exec", exec, ...hello }))
          yield* say(agent, encodeJson(FrameType.Response, { id, ok: true, pid: 7 }))
          const found = yield* Effect.raceFirst(Fiber.join(asked), Effect.as(ended(connection), undefined))
          yield* Fiber.interrupt(asked)
          if (found === undefined) return "hung up"
          return found._tag === "Success" ? found.success.kept : found.failure
        })
      expect(yield* taken({ from: 100, said: 120 })).toMatchObject({ from: 100, said: 120 })
      const wrong = [{ from: 99, said: 120 }, { from: 130, said: 120 }, { said: 99 }]
      for (const lie of wrong) expect(yield* taken(lie)).toMatchObject({ _tag: "GuestChannelFailed" })
      const impossible = [
        { from: -1, said: 120 },
        { from: 1.5, said: 120 },
        { from: 2 ** 53, said: 2 ** 53 },
        { from: 2 ** 52 + 1, said: 2 ** 52 + 1 },
        { from: 100, said: 1e300 },
        { from: 100, said: 120, unread: -1 },
        { from: 100, said: 120, unread: 2 ** 40 },
        { from: "100", said: 120 }
      ]
      for (const lie of impossible) expect(yield* taken(lie)).toBe("hung up")
      const shrinking = yield* taken({ from: 100, said: 100, unread: 10 }, { from: 100, said: 100, unread: 0 })
      expect(shrinking).toMatchObject({ from: 100 })
    })
  )

  it.live("takes the place of a stale socket and leaves none", () =>
    Effect.gen(function* () {
      const path = join(yield* scratchDirectory, "guest.sock")
      yield* Effect.promise(() => Bun.write(path, "stale"))
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* unixListenerTransport(path)
          expect(statSync(path).isSocket()).toBe(true)
        })
      )
      expect(existsSync(path)).toBe(false)
    })
  )

  it.live("fails pending requests when the guest goes away", () =>
    Effect.gen(function* () {
      const path = join(yield* scratchDirectory, "guest.sock")
      const transport = yield* unixListenerTransport(path)
      const agent = yield* dial(path)
      yield* say(agent, controlHello)
      const channel = yield* connectGuest(transport)
      const waiting = yield* Effect.forkChild(Effect.flip(channel.ping))
      yield* Effect.sync(() => agent.end())
      expect((yield* Fiber.join(waiting))._tag).toBe("GuestChannelFailed")
      yield* channel.closed
      expect((yield* Effect.flip(channel.ping))._tag).toBe("GuestChannelFailed")
    })
  )
})

describe("a connection", () => {
  it.live("goes on where it stopped when the peer reads again", () =>
    Effect.gen(function* () {
      const path = join(yield* scratchDirectory, "peer.sock")
      let got = 0
      const peer = Promise.withResolvers<{ resume(): void }>()
      yield* Effect.acquireRelease(
        Effect.sync(() =>
          Bun.listen({
            unix: path,
            socket: {
              open(socket) {
                socket.pause()
                peer.resolve(socket)
              },
              data(_, bytes) {
                got += bytes.length
              }
            }
          })
        ),
        (listener) => Effect.sync(() => listener.stop(true))
      )
      const connection = socketConnection(yield* dial(path))
      const frames = Array.from({ length: 20 }, () => new Uint8Array(65_548))
      const writing = yield* Effect.forkScoped(Effect.forEach(frames, connection.write, { concurrency: "unbounded" }))
      const socket = yield* Effect.promise(() => peer.promise)
      expect(writing.pollUnsafe()).toBeUndefined()
      yield* Effect.sync(() => socket.resume())
      yield* Fiber.join(writing)
      yield* Effect.suspend(() => (got === 20 * 65_548 ? Effect.void : Effect.fail("not yet"))).pipe(
        Effect.retry({ times: 300, schedule: Schedule.spaced(10) }),
        Effect.orDie
      )
    })
  )
})

describe("slots", () => {
  it.live("are used again only when the agent has given them back", () =>
    Effect.gen(function* () {
      const directory = yield* scratchDirectory
      const paths = [0, 1].map((slot) => join(directory, `slot${slot}.sock`))
      for (const unix of paths) {
        yield* Effect.acquireRelease(
          Effect.sync(() => Bun.listen({ unix, socket: { data() {} } })),
          (listener) => Effect.sync(() => listener.stop(true))
        )
      }
      const transport = yield* slotTransport(paths)
      const first = yield* Effect.scoped(transport.exec(1))
      expect(first.slot).toBe(1)
      const second = yield* Effect.forkScoped(transport.exec(2))
      yield* Effect.yieldNow
      expect(second.pollUnsafe()).toBeUndefined()
      yield* transport.slotFreed!(1)
      expect((yield* Fiber.join(second)).slot).toBe(1)
      // Who has waited long enough says what holds them up, and takes nothing.
      const busy = yield* Effect.flip(transport.exec(3, 30))
      expect(busy.message).toMatch(/all 1 places .* in use for 30 ?ms; .*--memory/)
    })
  )
})
