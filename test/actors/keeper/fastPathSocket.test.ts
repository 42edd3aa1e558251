/** A keeper's socket for the entry program: the real program, the real keeper and the real agent without a VM; and clients that lie. */

import { afterAll, describe, expect } from "bun:test"
import { existsSync, mkdirSync, readlinkSync, symlinkSync } from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import { serveEntry } from "../../../src/actors/keeper/fastPathSocket.ts"
import { keeperBehaviour } from "../../../src/actors/keeper/Keeper.ts"
import { makeMainCommand } from "../../../src/actors/keeper/mainCommand.ts"
import { type KeeperAddress, KeeperProtocol } from "../../../src/actors/keeper/protocol.ts"
import { local, supervised } from "../../../src/actors/kit/Actor.ts"
import type { SafeName } from "../../../src/domain/name.ts"
import type { SandboxInfo } from "../../../src/domain/sandbox/sandbox.ts"
import { openLog } from "../../../src/store/files/logs.ts"
import { Paths } from "../../../src/store/files/Paths.ts"
import { encodeFrame, encodeJson, FrameDecoder, FrameType } from "../../../src/vm/guest/frames.ts"
import { EntryProgram, handedOver, output } from "../../support/entryProgram.ts"
import { fakeVm } from "../../support/fakeVm.ts"
import { it } from "../../support/it.ts"
import { nativeAgent } from "../../support/nativeAgent.ts"

const programs: Array<EntryProgram> = []
afterAll(() => {
  for (const each of programs) each.dispose()
})

/** A sandbox whose guest is a process of this machine, and the entry program over its home. */
const sandbox = Effect.gen(function* () {
  const entry = new EntryProgram()
  programs.push(entry)
  const paths = yield* Effect.provide(Paths, Paths.layer(entry.home))
  const state = { paused: false }
  const { guest } = yield* nativeAgent
  const vm = yield* fakeVm({}, false, state, { exec: guest.exec })
  const name = "box" as SafeName
  mkdirSync(paths.sandbox(name).logs, { recursive: true })
  mkdirSync(paths.run(7).directory, { recursive: true })
  const main = makeMainCommand(yield* openLog(paths.sandbox(name).mainLog))
  const behaviour = supervised(
    KeeperProtocol,
    keeperBehaviour(vm, { main, execs: yield* openLog(paths.sandbox(name).execLog) })
  )
  const handlers = yield* KeeperProtocol.toHandlers(behaviour)
  const keeper: KeeperAddress = yield* local(KeeperProtocol, { name: "test" }).pipe(Effect.provideContext(handlers))
  const serve = serveEntry({ id: 7, name } as SandboxInfo, vm, keeper).pipe(Effect.provideService(Paths, paths))
  return { entry, paths: paths.sandbox(name), run: paths.run(7), state, serve, vm }
})

const awaited = <A>(promise: () => Promise<A>) => Effect.promise(promise)

/** What the socket answers to these bytes, until it closes the connection or a frame of `until` has come. */
const say = (socket: string, bytes: Uint8Array, until?: FrameType, then?: Uint8Array) =>
  awaited(async () => {
    const types: Array<FrameType> = []
    const decoder = new FrameDecoder()
    const done = Promise.withResolvers<void>()
    let left = bytes
    const write = (to: Bun.Socket<undefined>) => void (left = left.subarray(Math.max(0, to.write(left))))
    const client = await Bun.connect<undefined>({
      unix: socket,
      socket: {
        data: (_, received) => {
          decoder.push(new Uint8Array(received), (frame) => {
            types.push(frame.type)
            if (then !== undefined && frame.type === FrameType.Response) {
              left = then
              write(client)
            }
            if (frame.type === until) done.resolve()
          })
        },
        drain: write,
        end: () => done.resolve(),
        close: () => done.resolve()
      }
    })
    write(client)
    await done.promise
    client.end()
    return types
  })
const request = (fields: object) =>
  encodeJson(FrameType.Request, {
    protocol: 1,
    name: "box",
    op: "exec",
    argv: ["cat"],
    env: [],
    stdin: true,
    ...fields
  })

describe("a keeper's entry socket", () => {
  it.live("runs commands for the entry program", () =>
    Effect.gen(function* () {
      const { entry, serve, vm } = yield* sandbox
      yield* serve
      const run = (...words: ReadonlyArray<string>) => awaited(() => entry.run(["exec", ...words]))
      expect(yield* run("box", "sh", "-c", "echo out; echo err >&2; exit 7")).toEqual({
        code: 7,
        stdout: "out\n",
        stderr: "err\n"
      })
      expect((yield* run("box", "sh", "-c", "kill -9 $$")).code).toBe(137)
      expect(yield* run("-e", "A=ü b", "-w", "/tmp", "box", "sh", "-c", 'echo "$A"; pwd')).toMatchObject({
        stdout: "ü b\n/tmp\n"
      })
      // Nothing was started: whoever asks the long way is told why.
      expect(handedOver(yield* run("box", "no-such-command"))?.words).toEqual(["exec", "box", "no-such-command"])
      expect(vm.use.commands).toBe(0)
    })
  )

  it.live("carries 20 MB both ways", () =>
    Effect.gen(function* () {
      const { entry, serve } = yield* sandbox
      yield* serve
      const bytes = new Uint8Array(20_000_000)
      for (let at = 0; at < bytes.length; at += 4) bytes[at] = (at * 2_654_435_761) >>> 24
      const same = yield* awaited(async () => {
        const child = entry.start(["exec", "-i", "box", "cat"], "pipe")
        void (async () => {
          await child.stdin!.write(bytes)
          await child.stdin!.end()
        })()
        const back = new Uint8Array(await new Response(child.stdout).arrayBuffer())
        return Buffer.from(back.buffer).equals(Buffer.from(bytes.buffer)) && (await child.exited) === 0
      })
      expect(same).toBe(true)
    })
  )

  it.live("passes signals to a command that reads nothing, and kills the command of a client that is killed", () =>
    Effect.gen(function* () {
      const { entry, serve, vm } = yield* sandbox
      yield* serve
      yield* awaited(async () => {
        const script = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done"
        const child = entry.start(["exec", "-i", "box", "sh", "-c", script], "pipe")
        child.stdin!.write(new Uint8Array(190_000))
        const reader = child.stdout.getReader()
        expect(new TextDecoder().decode((await reader.read()).value)).toBe("ready\n")
        child.kill("SIGINT")
        expect(new TextDecoder().decode((await reader.read()).value)).toBe("caught\n")
        expect(await child.exited).toBe(3)

        const killed = entry.start(["exec", "box", "sh", "-c", "echo $$; exec sleep 1000"])
        const said = killed.stdout.getReader()
        const pid = Number(new TextDecoder().decode((await said.read()).value))
        killed.kill("SIGKILL")
        while (existsSync(`/proc/${pid}`)) await Bun.sleep(5)
        while (vm.use.commands > 0) await Bun.sleep(5)
      })
    })
  )

  it.live("ends the sandbox", () =>
    Effect.gen(function* () {
      const { entry, serve, vm } = yield* sandbox
      yield* serve
      expect(yield* awaited(() => entry.run(["stop", "box"]))).toEqual({ code: 0, stdout: "box\n", stderr: "" })
      expect(vm.ending()).toBe(true)
      // It takes no commands any more, and says so the long way.
      expect(handedOver(yield* awaited(() => entry.run(["exec", "box", "true"])))?.words).toHaveLength(3)
    })
  )

  it.live("refuses a paused sandbox, and one whose number another has now", () =>
    Effect.gen(function* () {
      const { entry, paths, run, serve, state } = yield* sandbox
      yield* serve
      state.paused = true
      expect(handedOver(yield* awaited(() => entry.run(["exec", "box", "true"])))?.words).toEqual([
        "exec",
        "box",
        "true"
      ])
      state.paused = false
      const old = path.join(path.dirname(paths.directory), "old")
      mkdirSync(old)
      symlinkSync(run.entrySocket, path.join(old, "entry.sock"))
      for (const words of [
        ["exec", "old", "true"],
        ["stop", "old"],
        ["kill", "old"]
      ]) {
        expect(handedOver(yield* awaited(() => entry.run(words)))?.words).toEqual(words)
      }
      expect(yield* awaited(() => entry.run(["exec", "box", "true"]))).toMatchObject({ code: 0 })
    })
  )

  it.live("is linked from the sandbox's directory, over what was there, and goes with its keeper", () =>
    Effect.gen(function* () {
      const { paths, run, serve } = yield* sandbox
      symlinkSync("../../run/3/entry.sock", paths.entryLink)
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* serve
          expect(readlinkSync(paths.entryLink)).toBe("../../run/7/entry.sock")
          expect(existsSync(paths.entryLink)).toBe(true)
        })
      )
      expect(existsSync(run.entrySocket)).toBe(false)
    })
  )

  it.live("survives clients that lie", () =>
    Effect.gen(function* () {
      const { entry, run, serve, vm } = yield* sandbox
      yield* serve
      const socket = run.entrySocket
      const { Response, Data, Request, Event } = FrameType
      // Refused.
      const odd = [
        { protocol: 2 },
        { op: "rm" },
        { name: "other" },
        { argv: [] },
        { argv: ["a\0b"] },
        { argv: new Array(80_000).fill("") },
        { env: ["x"], argv: "ls" },
        { stdin: "yes" },
        { op: "stop" },
        { op: "stop", timeout_ms: -1 },
        { op: "stop", timeout_ms: 1e300 }
      ]
      for (const fields of odd) expect(yield* say(socket, request(fields))).toEqual([Response])
      expect(yield* say(socket, encodeFrame(Request, 0, Buffer.from("[[[")))).toEqual([Response])
      expect(yield* say(socket, output(0, "too early"))).toEqual([Response])
      // Closed without a word.
      expect(yield* say(socket, Buffer.from("GET / HTTP/1.1\r\n\r\n"))).toEqual([])
      const tooLong = encodeFrame(Request, 0, Buffer.from("{}")).slice()
      new DataView(tooLong.buffer).setUint32(8, 0x7fff_ffff, true)
      expect(yield* say(socket, tooLong)).toEqual([])
      // Ended in the middle of a command: what does not belong, and more input than the window.
      expect(yield* say(socket, Buffer.concat([request({}), request({})]))).toEqual([Response])
      const sleeping = request({ argv: ["sleep", "1000"] })
      const flood = Buffer.concat([sleeping, ...new Array(16).fill(encodeFrame(Data, 0, new Uint8Array(65_536)))])
      expect((yield* say(socket, flood)).filter((type) => type === FrameType.Exit)).toEqual([])
      const count = new Uint8Array(4).fill(255)
      expect(yield* say(socket, Buffer.concat([sleeping, encodeFrame(FrameType.Ack, 0, count)]))).toEqual([Response])
      const signal = (value: unknown) => encodeJson(Event, { signal: value })
      expect(yield* say(socket, Buffer.concat([sleeping, signal(9.5)]))).toEqual([Response])
      yield* awaited(async () => {
        while (vm.use.commands > 0) await Bun.sleep(5)
      })
      // Signals without end, and input by single bytes that nobody reads: neither ends the connection nor holds others up.
      const winds = new Array(20_000).fill(signal(28))
      const bytes = new Array(10_000).fill(encodeFrame(Data, 0, new Uint8Array(1)))
      const busy = Buffer.concat([request({ argv: ["sh", "-c", "trap : USR1; sleep 0.5; echo; exit 3"] })])
      const late = Buffer.concat([...winds, ...bytes])
      expect((yield* say(socket, busy, FrameType.Exit, late)).at(-1)).toBe(FrameType.Exit)
      expect(yield* awaited(() => entry.run(["exec", "box", "echo", "well"]))).toMatchObject({ stdout: "well\n" })
    })
  )
})
