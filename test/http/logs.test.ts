/** A program follows a sandbox's log over HTTP, on a server of its own and a sandbox that runs. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { readdirSync, readFileSync, readlinkSync } from "node:fs"
import path from "node:path"
import type { Home } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import { mustSkip } from "../support/requirements.ts"

const image = "test/busybox:1"
const timeoutMs = 120_000

interface Line {
  readonly stream: string
  readonly text?: string
  readonly time: number
}

describe.skipIf(mustSkip("logs over HTTP"))("GET /v1/sandboxes/NAME/logs", () => {
  let home: Home
  beforeAll(async () => {
    home = await busyboxHome()
    await home.serve()
  }, timeoutMs)
  afterAll(() => home.dispose(), timeoutMs)

  const follow = (name: string, more = "", signal?: AbortSignal) =>
    fetch(`http://bunker/v1/sandboxes/${name}/logs?follow=true${more}`, {
      unix: path.join(home.directory, "bunker.sock"),
      headers: { accept: "text/event-stream" },
      ...(signal === undefined ? {} : { signal })
    })
  /** Events as they come (WHATWG HTML, "Server-sent events"). */
  const events = async function* (answer: Response) {
    const decoder = new TextDecoder()
    let text = ""
    for await (const piece of answer.body!) {
      text += decoder.decode(piece, { stream: true })
      const parts = text.split("\n\n")
      text = parts.pop()!
      for (const part of parts) {
        // A comment.
        if (part.startsWith(":")) continue
        const event = /^event: (.*)$/m.exec(part)?.[1]
        yield { event, data: JSON.parse(/^data: (.*)$/m.exec(part)![1]!) as Line }
      }
    }
  }
  /** Logs that the server has open. */
  const openLogs = () => {
    const directory = `/proc/${home.serverPid}/fd`
    return readdirSync(directory).filter((fd) => {
      try {
        return readlinkSync(path.join(directory, fd)).includes("/logs/")
      } catch {
        return false
      }
    }).length
  }
  const memory = () => {
    const status = readFileSync(`/proc/${home.serverPid}/status`, "utf8")
    return Number(/VmRSS:\s+(\d+)/.exec(status)![1]) * 1024
  }

  test(
    "follows across rotation, lets go of who has gone or does not read, and says the end",
    async () => {
      // 12 MB are more than one file of 10 MiB holds.
      const flood =
        "echo first; while [ ! -e /go ]; do sleep 0.1; done; yes 0123456789abcde | head -c 12000000; echo last"
      await home.must(["run", "-d", "--name", "floods", image, "sh", "-c", flood])

      const leaving = new AbortController()
      const left = events(await follow("floods", "", leaving.signal))
      expect((await left.next()).value).toMatchObject({ event: "message", data: { stream: "start", text: "sh" } })
      expect((await left.next()).value).toMatchObject({ data: { stream: "stdout", text: "first\n" } })
      const stalled = new AbortController()
      const unread = await follow("floods", "", stalled.signal)
      const before = memory()
      const following = await follow("floods")
      expect(openLogs()).toBe(3)
      leaving.abort()
      while (openLogs() > 2) await Bun.sleep(20)

      // One that has nothing to say answers all the same.
      const silent = await follow("floods", "&source=exec&tail=0")
      expect(silent.status).toBe(200)
      await home.must(["exec", "floods", "touch", "/go"])
      expect((await events(silent).next()).value).toMatchObject({ data: { stream: "start", text: "touch", exec: 1 } })
      while (openLogs() > 2) await Bun.sleep(20)
      let said = 0
      let ending = ""
      const framing: Array<string> = []
      for await (const { event, data } of events(following)) {
        if (data.stream === "stdout") {
          said += data.text!.length
          ending = (ending + data.text).slice(-21)
        } else framing.push(data.stream ?? event)
      }
      expect({ said, ending }).toEqual({ said: 12_000_000 + 11, ending: "0123456789abcde\nlast\n" })
      expect(framing).toEqual(["start", "exit", "end"])
      expect(readdirSync(path.join(home.directory, "sandboxes/floods/logs"))).toContain("main.jsonl.1")

      // Who does not read has held up nobody, and takes little room.
      expect(openLogs()).toBe(1)
      expect(memory() - before).toBeLessThan(150e6)
      stalled.abort()
      await unread.body!.cancel().catch(() => {})
      while (openLogs() > 0) await Bun.sleep(20)

      const { status, body } = await home.http("GET", "/v1/sandboxes/floods/logs?tail=1")
      expect(status).toBe(200)
      expect(body).toMatchObject([
        { stream: "stdout", text: "last\n" },
        { stream: "exit", text: "0" }
      ])
      await home.must(["rm", "floods"])
    },
    timeoutMs
  )

  test("refuses what it does not understand, and says where it is", async () => {
    await home.must(["create", "--name", "box", image])
    for (const [query, field] of [
      ["tail=-1", "tail"],
      ["tail=ten", "tail"],
      ["tail=1000001", "tail"],
      ["since_ms=yesterday", "since_ms"],
      ["until_ms=-5", "until_ms"],
      ["exec=one", "exec"],
      ["source=kernel", "source"],
      ["follow=maybe", "follow"]
    ]) {
      const { status, body } = await home.http("GET", `/v1/sandboxes/box/logs?${query}`)
      expect({ query, status }).toEqual({ query, status: 400 })
      expect(body).toMatchObject({ ok: false, code: "InvalidInput", details: { issues: [{ path: field }] } })
    }
    const nobody = await follow("nobody")
    expect(nobody.status).toBe(404)
    expect(await nobody.json()).toMatchObject({ code: "SandboxNotFound" })
    // One that does not run has nothing to come.
    const all = await Array.fromAsync(events(await follow("box")))
    expect(all.map(({ event }) => event)).toEqual(["end"])
    expect((await home.http("GET", "/v1/sandboxes/box/logs")).body).toEqual([])
  }, 30_000)
})
