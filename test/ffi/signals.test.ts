/** Sends real signals to a child that is busy. */
import { expect, test } from "bun:test"
import path from "node:path"

const module = path.join(import.meta.dir, "../../src/ffi/signals.ts")

/** How a child ends that says "busy", is sent SIGTERM, and goes on for a while without a turn of its event loop. */
const ended = async (busy: string) => {
  const script = `import { endedBySignals } from ${JSON.stringify(module)}
    import fs from "node:fs"
    process.on("SIGTERM", () => process.exit(7))
    const work = () => { fs.writeSync(1, "busy"); Bun.sleepSync(3000) }
    ${busy}
    setInterval(() => {}, 1000)`
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "inherit" })
  for await (const _ of child.stdout) child.kill("SIGTERM")
  await child.exited
  return child.signalCode ?? child.exitCode
}

test("a signal ends what is busy, and its handler is back afterwards", async () => {
  expect(await Promise.all([ended("endedBySignals(work)"), ended("endedBySignals(() => {}); work()")])).toEqual([
    "SIGTERM",
    7
  ])
})
