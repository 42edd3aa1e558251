/** Runs every program of examples/ with the packed packages, and checks their types as a user's project would. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { cpSync, readdirSync } from "node:fs"
import path from "node:path"
import { makePackages, Project, packageFile } from "../support/packages.ts"
import { mustSkip } from "../support/requirements.ts"

const root = path.join(import.meta.dir, "../..")
const minutes = 60_000

/** What each program prints. */
const prints: Readonly<Record<string, string>> = {
  "agent.ts": "the sum is 42\n",
  "codeInterpreter.ts": "42\n",
  "hello.ts": "hello, world, from Linux 0\n",
  "model.ts": '{ "hidden_size": 8 }\n',
  "network.ts": "allowed\nrefused\n",
  "parallel.ts": "1 4 9\n",
  "session.ts": "Why is it red? | Let me look. | A test times out.\n",
  "webServer.ts": "from the guest\n"
}
let project: Project
beforeAll(async () => {
  await makePackages()
  project = new Project()
  const tarballs = ["bunker-sandbox-linux-x64-VERSION.tgz", "bunker-sandbox-VERSION.tgz"].map(packageFile)
  await project.must(["bun", "add", ...tarballs])
  cpSync(path.join(root, "examples"), project.path("examples"), { recursive: true })
}, 10 * minutes)
afterAll(() => project?.dispose())

test("each example is run here", () => {
  expect(readdirSync(path.join(root, "examples")).sort()).toEqual(Object.keys(prints).sort())
})

describe.skipIf(mustSkip("examples"))("example", () => {
  beforeAll(async () => {
    await project.must(["bunx", "bunker-sandbox", "load", "-q", project.image()])
  }, 2 * minutes)

  for (const [name, printed] of Object.entries(prints)) {
    test(
      name,
      async () => {
        const env = { IMAGE: "test/busybox:1", COUNT: "3", AT_ONCE: "2" }
        const { code, stdout, stderr } = await project.run(["bun", `examples/${name}`], env)
        expect({ code, stdout, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stdout: printed, stderr: "" })
      },
      3 * minutes
    )
  }
})
