/** The entry program's talk with a keeper, which the test plays: a good one, a slow one, and those that lie. */
import { afterAll, describe, expect, test } from "bun:test"
import { writeFileSync } from "node:fs"
import path from "node:path"
import { acknowledged as acknowledgedBy, encodeFrame, FrameType } from "../../../src/vm/guest/frames.ts"
import {
  acknowledge,
  agree,
  type Connection,
  EntryProgram,
  exit,
  handedOver,
  outcome,
  output
} from "../../support/entryProgram.ts"

const entry = new EntryProgram()
afterAll(() => entry.dispose())

let names = 0
/** Runs a command in a sandbox whose keeper is played by `serve`. */
const sandbox = (serve: (connection: Connection) => Promise<void> | void): string => {
  const name = `box${(names += 1)}`
  entry.keeper(name, serve)
  return name
}
const start = (serve: (connection: Connection) => Promise<void> | void, stdin: "ignore" | "pipe" = "ignore") =>
  entry.start(["exec", ...(stdin === "pipe" ? ["-i"] : []), sandbox(serve), "cmd"], stdin)

/** Sends all of it, however slowly it is read. */
const send = async (socket: Connection["socket"], bytes: Uint8Array): Promise<void> => {
  for (let at = 0; at < bytes.length; ) {
    at += socket.write(bytes, at, bytes.length - at)
    if (at < bytes.length) await Bun.sleep(1)
  }
}

describe("a command through the entry program", () => {
  test("has its output apart and whole, and its exit code", async () => {
    const big = "0123456789abcdef".repeat(4096)
    const child = start(async ({ socket }) => {
      await send(socket, Buffer.concat([agree, output(1, "out"), output(2, "err"), output(1, "\n")]))
      for (let n = 0; n < 40; n += 1) await send(socket, output(1, big))
      await send(socket, exit(42))
    })
    const { code, stdout, stderr } = await outcome(child)
    expect({ code, stderr, whole: stdout === `out\n${big.repeat(40)}` }).toEqual({
      code: 42,
      stderr: "err",
      whole: true
    })
  })

  test("understands frames that arrive byte by byte", async () => {
    const child = start(async ({ socket }) => {
      for (const byte of Buffer.concat([agree, output(1, "slow"), exit(9)])) {
        await send(socket, Uint8Array.of(byte))
        await Bun.sleep(0)
      }
    })
    expect(await outcome(child)).toEqual({ code: 9, stdout: "slow", stderr: "" })
  })

  test("gets stdin and its end, at most 128 KiB of it unacknowledged", async () => {
    const sent = Buffer.alloc(300_000, "xyz")
    let most = 0
    const taken: Array<Uint8Array> = []
    const child = start(async ({ socket, next }) => {
      await send(socket, agree)
      let held = 0
      while (true) {
        const frame = await next()
        if (frame === undefined || frame.type === FrameType.Eof) break
        taken.push(frame.payload)
        held += 12 + frame.payload.length
        most = Math.max(most, held)
        // Acknowledged only when nothing more can come.
        if (held >= 131_072 - 12 || sent.length - Buffer.concat(taken).length === 0) {
          await send(socket, acknowledge(held))
          held = 0
        }
      }
      await send(socket, exit(0))
    }, "pipe")
    child.stdin!.write(sent)
    child.stdin!.end()
    expect(await outcome(child)).toEqual({ code: 0, stdout: "", stderr: "" })
    expect(Buffer.concat(taken).equals(sent)).toBe(true)
    expect(most).toBeLessThanOrEqual(131_072)
  })

  test("gets signals, also while it takes no input; a second interruption ends the program", async () => {
    const signals: Array<string> = []
    const full = Promise.withResolvers<void>()
    const ready = Promise.withResolvers<void>()
    const child = start(async ({ socket, next }) => {
      await send(socket, agree)
      let held = 0
      while (true) {
        const frame = await next()
        if (frame === undefined) return
        if (frame.type === FrameType.Event) {
          signals.push(new TextDecoder().decode(frame.payload))
          ready.resolve()
        }
        held += 12 + frame.payload.length
        if (held >= 131_072 - 12) full.resolve()
      }
    }, "pipe")
    // More than may be unacknowledged; the pipe holds the rest.
    child.stdin!.write(Buffer.alloc(150_000))
    await full.promise
    child.kill("SIGUSR1")
    await ready.promise
    child.kill("SIGINT")
    while (signals.length < 2) await Bun.sleep(5)
    child.kill("SIGTERM")
    expect((await outcome(child)).code).toBe(128 + 15)
    expect(signals).toEqual(['{"signal":10}', '{"signal":2}'])
  })

  test("ends as a pipe would when nobody reads its output, and with words when its disk is full", async () => {
    const endless = async ({ socket, next }: Connection) => {
      await send(socket, agree)
      let over = false
      void next().then(() => (over = true))
      while (!over) await send(socket, output(1, "y\n".repeat(10_000)))
    }
    const script = (name: string, end: string) =>
      Bun.spawn(["bash", "-c", `"$0" exec ${name} yes ${end}`, entry.file("bunker")], {
        env: { PATH: process.env["PATH"] ?? "", BUNKER_HOME: entry.home },
        stdout: "pipe",
        stderr: "pipe"
      })
    const piped = script(sandbox(endless), `| head -n 1; exit "\${PIPESTATUS[0]}"`)
    expect(await outcome(piped as never)).toEqual({ code: 128 + 13, stdout: "y\n", stderr: "" })
    const full = script(sandbox(endless), "> /dev/full")
    expect(await outcome(full as never)).toEqual({
      code: 125,
      stdout: "",
      stderr: "bunker: the output can not be written: no space left on its disk\n"
    })
  })

  test("acknowledges output as it is written, and takes acknowledgements of input while it is not", async () => {
    const taken = Promise.withResolvers<number>()
    // More than the pipe takes: the rest waits in the program.
    const outputs = 2 * (12 + 65_000)
    let acknowledged = 0
    const name = sandbox(async ({ socket, next }) => {
      await send(socket, Buffer.concat([agree, output(1, "o".repeat(65_000)), output(1, "o".repeat(65_000))]))
      let total = 0
      while (acknowledged < outputs) {
        const frame = await next()
        if (frame === undefined) return
        if (frame.type === FrameType.Eof) taken.resolve(total)
        else if (frame.type === FrameType.Ack) {
          acknowledged += acknowledgedBy(frame)
        } else {
          total += frame.payload.length
          await send(socket, acknowledge(12 + frame.payload.length))
        }
      }
      await send(socket, exit(0))
    })
    const go = path.join(entry.directory, "go")
    const wait = `while [ ! -e ${go} ]; do sleep 0.02; done`
    const child = Bun.spawn(
      ["sh", "-c", `head -c 400000 /dev/zero | "$0" exec -i ${name} cmd | { ${wait}; wc -c; }`, entry.file("bunker")],
      {
        env: { PATH: process.env["PATH"] ?? "", BUNKER_HOME: entry.home },
        stdin: "ignore",
        stdout: "pipe",
        stderr: "pipe"
      }
    )
    expect(await taken.promise).toBe(400_000)
    expect(acknowledged).toBeLessThan(outputs)
    writeFileSync(go, "")
    expect(await outcome(child as never)).toEqual({ code: 0, stdout: "130000\n", stderr: "" })
  })

  test("takes descriptors that were closed for /dev/null", async () => {
    for (const [closed, said] of [
      [">&-", { code: 4, stdout: "", stderr: "err" }],
      ["2>&-", { code: 4, stdout: "out", stderr: "" }],
      ["<&-", { code: 4, stdout: "out", stderr: "err" }],
      ["<&- >&- 2>&-", { code: 4, stdout: "", stderr: "" }]
    ] as const) {
      const name = sandbox(async ({ socket, next }) => {
        await send(socket, Buffer.concat([agree, output(1, "out"), output(2, "err")]))
        let frame = await next()
        while (frame !== undefined && frame.type !== FrameType.Eof) frame = await next()
        await send(socket, exit(4))
      })
      const child = Bun.spawn(["bash", "-c", `"$0" exec -i ${name} cmd ${closed}`, entry.file("bunker")], {
        env: { PATH: process.env["PATH"] ?? "", BUNKER_HOME: entry.home },
        stdin: "ignore",
        stdout: "pipe",
        stderr: "pipe"
      })
      expect({ closed, ...(await outcome(child)) }).toEqual({ closed, ...said })
    }
  })

  test("shares its stdin with others who read it", async () => {
    const name = sandbox(async ({ socket, next }) => {
      await send(socket, agree)
      while (true) {
        const frame = await next()
        if (frame === undefined) return
        if (frame.type === FrameType.Data) await Bun.sleep(200)
        if (frame.type === FrameType.Event) await send(socket, Buffer.concat([output(1, "end"), exit(5)]))
      }
    })
    const script = `for i in 1 2 3; do "$0" exec -i ${name} cmd <&0 & pids="$pids $!"; done; sleep 0.3; kill -USR1 $pids; wait $pids; echo " $?"`
    const child = Bun.spawn(["sh", "-c", script, entry.file("bunker")], {
      env: { PATH: process.env["PATH"] ?? "", BUNKER_HOME: entry.home },
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe"
    })
    await Bun.sleep(150)
    child.stdin.write("x")
    child.stdin.flush()
    expect(await outcome(child)).toEqual({ code: 0, stdout: "endendend 5\n", stderr: "" })
  })

  test("has its last output and its exit code though input was never read", async () => {
    const child = start(async ({ socket }) => {
      await send(socket, agree)
      await send(socket, Buffer.concat([output(1, "done"), exit(4)]))
      socket.end()
    }, "pipe")
    child.stdin!.write(Buffer.alloc(100_000))
    child.stdin!.end()
    expect(await outcome(child)).toEqual({ code: 4, stdout: "done", stderr: "" })
  })

  const bad = (type: number, stream: number, payload: Uint8Array) => {
    const frame = new Uint8Array(12 + payload.length)
    frame.set([0x42, 0x4b, type])
    new DataView(frame.buffer).setUint32(4, stream, true)
    new DataView(frame.buffer).setUint32(8, payload.length, true)
    frame.set(payload, 12)
    return frame
  }
  const json = (text: string) => bad(FrameType.Exit, 0, Buffer.from(text))
  const vanished = "the connection to its keeper broke"
  const unclear = "its keeper says what is not understood"
  const lies: ReadonlyArray<readonly [string, Uint8Array, string]> = [
    ["the end of the connection", new Uint8Array(), vanished],
    ["the end of it in a frame", output(1, "half").subarray(0, 14), vanished],
    ["other bytes", Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n"), unclear],
    ["flags", Uint8Array.from([0x42, 0x4b, 5, 1, 1, 0, 0, 0, 1, 0, 0, 0, 65]), unclear],
    ["a stream that is none", output(7, "x"), unclear],
    ["a stream that is stdin", output(0, "x"), unclear],
    ["empty data", bad(FrameType.Data, 1, new Uint8Array()), unclear],
    ["too much data", bad(FrameType.Data, 1, new Uint8Array(65_537)), unclear],
    ["an acknowledgement of what was not sent", acknowledge(1), unclear],
    ["a second answer", agree, unclear],
    ["a request", bad(FrameType.Request, 0, Buffer.from("{}")), unclear],
    ["an unknown type", bad(77, 0, new Uint8Array()), unclear],
    ["an exit that is no JSON", json("{code:1}"), unclear],
    ["an exit without a code", json("{}"), unclear],
    ["an exit code out of bounds", json('{"code":256}'), unclear],
    ["an exit code that is no number", json('{"code":"1"}'), unclear],
    ["an exit of many values", json(`{"code":[${"1,".repeat(1000)}1]}`), unclear],
    ["an exit that is too long", json(`{"code":1,"x":"${"x".repeat(5000)}"}`), unclear],
    ["an exit that is nested", json("[".repeat(500)), unclear],
    [
      "a command that is lost",
      encodeFrame(FrameType.Exit, 0, Buffer.from('{"lost":"the VM has \\"ended\\""}')),
      'the VM has "ended"'
    ]
  ]
  test("that is lost is explained by the whole program, whatever the keeper said", async () => {
    for (const [what, bytes, reason] of lies) {
      const name = sandbox(async ({ socket }) => {
        await send(socket, Buffer.concat([agree, output(1, "before"), bytes]))
        socket.end()
      })
      const said = await entry.run(["exec", name, "cmd"])
      expect({
        what,
        words: handedOver(said)?.words,
        before: said.stdout.startsWith("before"),
        stderr: said.stderr
      }).toEqual({
        what,
        words: ["__lost", name, reason],
        before: true,
        stderr: ""
      })
    }
  }, 30_000)

  test("whose start is not answered as it should be may have begun, and is lost", async () => {
    const answers = [
      Buffer.from("nonsense, and a lot of it"),
      bad(FrameType.Response, 0, Buffer.from("{")),
      bad(FrameType.Response, 0, Buffer.from('{"ok":1}')),
      bad(FrameType.Response, 0, Buffer.alloc(5000, " ")),
      output(1, "too early"),
      exit(0)
    ]
    for (const answer of answers) {
      const name = sandbox(async ({ socket }) => {
        await send(socket, answer)
        socket.end()
      })
      expect(handedOver(await entry.run(["exec", name, "cmd"]))?.words).toEqual(["__lost", name, vanished])
    }
  })
})
