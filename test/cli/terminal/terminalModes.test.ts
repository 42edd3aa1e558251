import { expect, test } from "bun:test"
import { DetachKeys, TerminalModes } from "../../../src/cli/terminal/terminalModes.ts"

const bytes = (text: string) => new TextEncoder().encode(text)

/** After this output, given in pieces cut at every place. */
const after = (output: string) =>
  Array.from({ length: output.length }, (_, cut) => {
    const modes = new TerminalModes()
    modes.watch(bytes(output.slice(0, cut)))
    modes.watch(bytes(output.slice(cut)))
    return modes
  })

test("undoes what was switched on, wherever the output was cut", () => {
  for (const modes of after("a\x1b[?1049h\x1b[?25lb\x1b[31mc")) {
    expect(modes.undo()).toBe("\x1b[?1049l\x1b[?25h\x1b[0m")
    expect(modes.undo()).toBe("")
  }
  for (const modes of after("\x1b[?1049;2004hx\x1b[?25l\x1b[?25h\x1b[?1049l\x1b[?2004l\x1b[?7h")) {
    expect(modes.undo()).toBe("")
  }
})

test("knows whether the terminal still has to answer, wherever the output was cut", () => {
  for (const [asked, answered] of [
    ["~ # \x1b[6n", "\x1b[7;5R"],
    ["\x1b[c\x1b[>c", "x\x1b[?62;22c\x1b[>1;10;0cy"],
    ["\x1b[5n text", "\x1b[0n"]
  ] as const) {
    for (const modes of after(asked)) {
      expect(modes.awaitsAnswer).toBe(true)
      modes.typed(bytes("ls\r"))
      expect(modes.awaitsAnswer).toBe(true)
      modes.typed(bytes(answered))
      expect(modes.awaitsAnswer).toBe(false)
    }
  }
  for (const modes of after("\x1b[6mnot\x1b[16n")) expect(modes.awaitsAnswer).toBe(false)
})

test("finds Ctrl-P Ctrl-Q, and passes on a Ctrl-P that it is not", () => {
  const keys = new DetachKeys()
  expect(keys.push(bytes("a\x10"))).toEqual({ data: bytes("a"), detached: false })
  expect(keys.push(bytes("b\x10\x10c"))).toEqual({ data: bytes("\x10b\x10\x10c"), detached: false })
  expect(keys.push(bytes("d\x10"))).toEqual({ data: bytes("d"), detached: false })
  expect(keys.push(bytes("\x11e"))).toEqual({ data: bytes(""), detached: true })
})
