/** A program joins a sandbox's main command over a WebSocket. */
import { describe, expect, test } from "bun:test"
import { readFileSync } from "node:fs"
import path from "node:path"
import { Home, program } from "../support/bunker.ts"
import { loadBusybox } from "../support/busyboxImage.ts"
import { mustSkip } from "../support/requirements.ts"

const skipped = mustSkip("WebSockets")
const image = "test/busybox:1"

describe.skipIf(skipped)("attach over a WebSocket", () => {
  test("carries input, size, output and the exit code, and is closed to whoever has no token", async () => {
    const home = new Home()
    const server = Bun.spawn([program, "serve", "--listen", "127.0.0.1:0"], {
      env: home.environment(),
      stdout: "ignore",
      stderr: "pipe"
    })
    try {
      await loadBusybox(home)
      await home.must(["run", "-d", "-it", "--name", "w", image, "sh"])
      let words = ""
      for await (const chunk of server.stderr) {
        words += new TextDecoder().decode(chunk)
        if (/127\.0\.0\.1:\d+/.test(words)) break
      }
      const [address] = /127\.0\.0\.1:\d+/.exec(words)!
      const url = `ws://${address}/v1/sandboxes/w/attach`
      const join = (authorization: string) => new WebSocket(url, { headers: { authorization } } as never)

      const refused = join("Bearer wrong")
      expect(await new Promise((done) => (refused.onclose = ({ code }) => done(code)))).not.toBe(1000)

      const socket = join(`Bearer ${readFileSync(path.join(home.directory, "token"), "utf8").trim()}`)
      socket.binaryType = "arraybuffer"
      let output = ""
      const said: Array<{ readonly type: string; readonly code?: number; readonly bytes?: number }> = []
      const closed = new Promise<number>((done) => (socket.onclose = ({ code }) => done(code)))
      const type = (text: string) => socket.send(Buffer.concat([Uint8Array.of(0), Buffer.from(text)]))
      socket.onmessage = ({ data }) => {
        if (typeof data !== "string") output += Buffer.from(data).subarray(1).toString()
        else {
          const word = JSON.parse(data)
          said.push(word)
          if (word.type !== "started") return
          socket.send(JSON.stringify({ type: "resize", cols: 91, rows: 33 }))
          type("stty size; exit 7\n")
        }
      }
      expect(await closed).toBe(1000)
      expect(output).toContain("33 91")
      expect(said[0]).toMatchObject({ type: "started" })
      expect(said.find(({ type }) => type === "taken")).toEqual({ type: "taken", bytes: 18 })
      expect(said.at(-1)).toEqual({ type: "exit", code: 7 })
    } finally {
      server.kill()
      await home.dispose()
    }
  }, 120_000)
})
