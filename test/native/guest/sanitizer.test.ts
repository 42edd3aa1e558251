/** Runs everything that the tests do with a native agent again, with an agent under the address and undefined-behaviour sanitizers. */
import { describe, expect, test } from "bun:test"
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

const root = join(import.meta.dir, "../../..")
const suites = readdirSync(join(root, "test/vm/guest"))
  .filter((name) => /^guest.*\.test\.ts$/.test(name))
  .map((name) => join(root, "test/vm/guest", name))
const clang = Bun.which("clang")
if (clang === null) console.warn("skipped: the agent under sanitizers; clang is not installed (apt-get install clang)")

describe("the guest agent under sanitizers", () => {
  test.skipIf(clang === null)(
    "passes every suite without a report",
    () => {
      const directory = mkdtempSync(join(tmpdir(), "bunker-sanitized-"))
      try {
        const agent = join(directory, "agent")
        const sources = ["native/guest/src", "native/common"].flatMap((folder) =>
          readdirSync(join(root, folder))
            .filter((file) => file.endsWith(".c"))
            .map((file) => join(root, folder, file))
        )
        const flags =
          "-std=c11 -g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all -D_GNU_SOURCE"
        const built = Bun.spawnSync([
          clang!,
          ...flags.split(" "),
          "-o",
          agent,
          `-I${join(root, "native/common")}`,
          ...sources
        ])
        expect({ code: built.exitCode, output: built.stderr.toString() }).toEqual({ code: 0, output: "" })
        const run = Bun.spawnSync([process.execPath, "test", "--timeout", "60000", ...suites], {
          env: { ...process.env, BUNKER_TEST_NATIVE_AGENT: agent, BUNKER_TEST_REPORTS: join(directory, "report") },
          stderr: "pipe"
        })
        const reports = readdirSync(directory).filter((file) => file.startsWith("report"))
        expect(reports.map((file) => readFileSync(join(directory, file), "utf8")).join("\n")).toBe("")
        const output = run.stderr.toString()
        expect({ code: run.exitCode, output: run.exitCode === 0 ? "" : output.slice(-4000) }).toEqual({
          code: 0,
          output: ""
        })
      } finally {
        rmSync(directory, { recursive: true })
      }
    },
    180_000
  )
})
