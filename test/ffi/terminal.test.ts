/** Over real pseudoterminals: what is written arrives byte by byte. */
import { expect, test } from "bun:test"
import path from "node:path"
import { CallFailed } from "../../src/ffi/errno.ts"
import { terminalState } from "../../src/ffi/terminal.ts"

const module = path.join(import.meta.dir, "../../src/ffi/terminal.ts")

/** Everything that a script writes to a terminal of its own. */
const written = async (script: string): Promise<string> => {
  let bytes = ""
  const terminal = new Bun.Terminal({
    cols: 80,
    rows: 24,
    data: (_, data) => void (bytes += Buffer.from(data).toString("latin1"))
  })
  const source = `import { rawState, setTerminalState, terminalState } from ${JSON.stringify(module)}
    import fs from "node:fs"
    const say = (text) => fs.writeSync(1, text)
    ${script}`
  const child = Bun.spawn([process.execPath, "-e", source], { terminal })
  expect(await child.exited).toBe(0)
  while (!bytes.endsWith("end")) await Bun.sleep(5)
  terminal.close()
  return bytes
}

test("a raw terminal passes bytes as they are, and is what it was when its modes are set back", async () => {
  expect(
    await written(`const former = terminalState(0)
      setTerminalState(0, rawState(former))
      say("abc\\ndef\\r\\nend of raw\\n")
      setTerminalState(0, former)
      say("x\\ny\\r\\nend")`)
  ).toBe("abc\ndef\r\nend of raw\nx\r\ny\r\r\nend")
})

test("what is no terminal says so", () => {
  try {
    terminalState(999_999)
    expect.unreachable()
  } catch (cause) {
    expect(cause).toBeInstanceOf(CallFailed)
    expect((cause as CallFailed).errno).toBe("EBADF")
  }
})
