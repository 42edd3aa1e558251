/** Runs the agent's C unit tests natively, under sanitizers when clang is there, and checks the agent's build. */
import { describe, expect, test } from "bun:test"
import { mkdtempSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

const clang = Bun.which("clang")
if (clang === null)
  console.warn("skipped: fuzzing the agent's decoders; clang is not installed (apt-get install clang)")

const guest = join(import.meta.dir, "../../../native/guest")
const sh = (command: ReadonlyArray<string>, env?: Record<string, string>) => {
  const run = Bun.spawnSync([...command], { stdout: "pipe", stderr: "pipe", ...(env ? { env } : {}) })
  return { code: run.exitCode, output: run.stdout.toString() + run.stderr.toString() }
}

describe("the guest agent", () => {
  test("passes its unit tests", () => {
    const run = sh([join(guest, "test/run.sh")])
    expect(run.output).toContain("guest unit tests: ok")
    expect(run.code).toBe(0)
  }, 60_000)

  test.skipIf(clang === null)(
    "decodes whatever libFuzzer makes up, under sanitizers",
    () => {
      // Seconds: BUNKER_TEST_FUZZ_S (3); longer by hand, with what was found kept in native/guest/build/corpus.
      const run = sh([join(guest, "test/run.sh"), "fuzz", process.env["BUNKER_TEST_FUZZ_S"] ?? "3"])
      expect({ code: run.code, output: run.code === 0 ? "" : run.output.slice(-4000) }).toEqual({ code: 0, output: "" })
      expect(Number(/stat::number_of_executed_units: *(\d+)/.exec(run.output)?.[1])).toBeGreaterThan(1000)
    },
    3_600_000
  )

  test("builds to the same static bytes twice, in at most 100 KB with musl", () => {
    const directory = mkdtempSync(join(tmpdir(), "bunker-agent-"))
    try {
      const [one, two] = [join(directory, "one"), join(directory, "two")]
      const run = sh([join(guest, "build.sh"), one])
      expect(run).toMatchObject({ code: 0 })
      expect(run.output.trim().split("\n").length).toBe(1)
      sh([join(guest, "build.sh"), two])
      expect(sh(["cmp", one, two]).output).toBe("")
      if (run.output.includes("musl-gcc")) expect(statSync(one).size).toBeLessThanOrEqual(100_000)
    } finally {
      rmSync(directory, { recursive: true })
    }
  }, 60_000)

  test("says what to install when there is no compiler", () => {
    const run = sh(["/bin/sh", join(guest, "build.sh"), "build/never"], { PATH: "/nonexistent" })
    expect(run.code).not.toBe(0)
    expect(run.output).toContain("apt-get install")
  })
})
