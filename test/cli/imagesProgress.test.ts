import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, rmSync } from "node:fs"
import { Effect, Exit, Scope } from "effect"
import { ProgressBlock, type Screen } from "../../src/cli/terminal/progress.ts"
import type { Digest } from "../../src/domain/image/digest.ts"
import { ImageEvent } from "../../src/domain/image/image.ts"
import { Home, program } from "../support/bunker.ts"
import { startFaultProxy } from "../support/faultProxy.ts"
import { file, imageOf } from "../support/image.ts"
import { layoutOf, noise } from "../support/imageStore.ts"
import { sha256 } from "../support/layers.ts"
import { run } from "../support/mount.ts"
import { hasRegistryTools, startRegistry } from "../support/registry.ts"

setDefaultTimeout(60_000)

const digest = (n: number) => sha256(Buffer.from(String(n))) as Digest
const short = (n: number) => digest(n).slice(7, 19)
const { Resolved, LayerProgress, LayerDone } = ImageEvent.cases
const resolved = (layers: number) =>
  Resolved.make({ reference: "docker.io/library/x:1", manifestDigest: digest(99), layers, totalSizeBytes: 1000 })

/** A terminal that knows what the block uses: text, newline with scrolling, cursor up, erase to the end. */
const terminal = ({ columns, rows }: Screen) => {
  const lines: Array<string> = [""]
  let row = 0
  const top = () => Math.max(0, lines.length - rows)
  const write = (text: string): void => {
    for (const [part, up] of text.matchAll(/\x1b\[(\d+)A|\x1b\[J|\r|\n|[^\x1b\r\n]+/g)) {
      if (up !== undefined) row = Math.max(top(), row - Number(up))
      else if (part === "\x1b[J") {
        lines.length = row + 1
        lines[row] = ""
      } else if (part === "\n") {
        row += 1
        lines[row] ??= ""
      } else if (part !== "\r") {
        expect(part.length).toBeLessThan(columns)
        lines[row] = part
      }
    }
  }
  return { write, lines }
}

describe("the live block", () => {
  test("draws over itself: one line for each layer, whatever happens", () => {
    const screen = { columns: 60, rows: 24 }
    const block = new ProgressBlock()
    const shown = terminal(screen)
    const send = (event: ImageEvent, now: number) => shown.write(block.next(event, screen, now))
    send(resolved(3), 0)
    for (let now = 0; now < 5000; now += 100)
      for (const n of [1, 2, 3])
        send(LayerProgress.make({ digest: digest(n), bytes: Math.min(300, now), totalBytes: 300 }), now)
    send(LayerDone.make({ digest: digest(1), cached: false }), 5000)
    send(LayerDone.make({ digest: digest(2), cached: true }), 5000)
    const [title, one, two, three] = shown.lines
    expect(title).toStartWith("x:1: 3 layer(s)")
    expect(one).toBe(`  ${short(1)}  done`)
    expect(two).toBe(`  ${short(2)}  already here`)
    expect(three).toStartWith(`  ${short(3)}  ############################`)
    expect(shown.lines.slice(4).join("")).toBe("")
    // Another image begins below, and does not touch what is there.
    send(resolved(1), 6000)
    send(LayerDone.make({ digest: digest(4), cached: false }), 6000)
    send(LayerDone.make({ digest: digest(5), cached: false }), 6000)
    expect(shown.lines.filter((line) => line !== "")).toHaveLength(7)
    expect(shown.lines[1]).toBe(`  ${short(1)}  done`)
  })

  test("never has more lines than the screen", () => {
    const screen = { columns: 60, rows: 8 }
    const block = new ProgressBlock()
    const shown = terminal(screen)
    const count = 30
    shown.write(block.next(resolved(count), screen, 0))
    for (let step = 0; step < 20; step += 1)
      for (let n = 0; n < count; n += 1) {
        const event =
          step > n
            ? LayerDone.make({ digest: digest(n), cached: false })
            : LayerProgress.make({ digest: digest(n), bytes: step, totalBytes: 30 })
        shown.write(block.next(event, screen, step * 100))
      }
    expect(shown.lines.length).toBeLessThanOrEqual(8)
    expect(shown.lines.join("\n")).toContain("19 layer(s) done")
  })
})

const missing = !existsSync(program)
  ? `there is no ${program}`
  : Bun.which("tmux") === null
    ? "tmux is not installed"
    : undefined
if (missing !== undefined) console.log(`skipped: progress in a real terminal, since ${missing}`)

describe.skipIf(missing !== undefined || !hasRegistryTools)("in a real terminal", () => {
  const scope = Scope.makeUnsafe()
  const within = <A>(effect: Effect.Effect<A, never, Scope.Scope>) => Effect.runPromise(Scope.provide(effect, scope))
  const home = new Home()
  const server = `bunker-test-${process.pid}`
  const tmux = (...args: ReadonlyArray<string>) => run("tmux", "-L", server, "-f", "/dev/null", ...args)
  afterAll(async () => {
    Bun.spawnSync(["tmux", "-L", server, "kill-server"], { stderr: "ignore" })
    rmSync(home.directory, { recursive: true, force: true })
    await Effect.runPromise(Scope.close(scope, Exit.void))
  })
  /** Everything that the terminal shows and has scrolled away, once `done` holds for it. */
  const screenWhen = async (session: string, done: (text: string) => boolean): Promise<string> => {
    const deadline = Date.now() + 20_000
    for (;;) {
      const text = tmux("capture-pane", "-p", "-S", "-", "-t", session)
      if (done(text)) return text
      if (Date.now() > deadline) throw new Error(`the terminal shows only:\n${text}`)
      await Bun.sleep(50)
    }
  }
  const start = (session: string, image: string, size: Screen) => {
    const environment = Object.entries(home.environment()).flatMap(([name, value]) => ["-e", `${name}=${value}`])
    const command = `${program} pull ${image}; echo "ended with $?"; sleep 60`
    tmux(
      "new-session",
      "-d",
      "-s",
      session,
      "-x",
      String(size.columns),
      "-y",
      String(size.rows),
      ...environment,
      command
    )
  }

  test("lines do not pile up, and Ctrl-C says nothing silly", async () => {
    const registry = await within(startRegistry())
    const image = imageOf(Array.from({ length: 14 }, (_, n) => [file(`f${n}`, noise(n < 3 ? 3_000_000 : 1000, n + 1))]))
    await within(registry.push("team/many:1", layoutOf(image)))
    const last = image.layers[13]!.descriptor.digest
    const stalled = await within(
      startFaultProxy(registry.host, ({ path }) => (path.endsWith(last) ? { stallAfter: 100 } : undefined))
    )
    start("stalled", `${stalled.host}/team/many:1`, { columns: 70, rows: 10 })
    await screenWhen("stalled", (text) => text.includes("13 layer(s) done"))
    tmux("send-keys", "-t", "stalled", "C-c")
    const stopped = await screenWhen("stalled", (text) => text.includes("ended with"))
    expect(stopped).toContain("ended with 130")
    expect(stopped.split("\n").filter((line) => line.includes("layer(s)"))).toHaveLength(2)
    expect(stopped).not.toContain("bunker:")

    start("whole", `${registry.host}/team/many:1`, { columns: 70, rows: 30 })
    const shown = await screenWhen("whole", (text) => text.includes("ended with"))
    const lines = shown.split("\n").filter((line) => line !== "")
    expect(lines[0]).toContain("14 layer(s)")
    expect(lines.slice(1, 15).every((line) => /^ {2}[0-9a-f]{12} {2}done$/.test(line))).toBe(true)
    expect(new Set(lines.slice(1, 15)).size).toBe(14)
    expect(lines.slice(15)).toEqual([`${registry.host}/team/many:1`, "ended with 0"])
  })
})
