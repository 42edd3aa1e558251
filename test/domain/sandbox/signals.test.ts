import { expect, test } from "bun:test"
import { constants } from "node:os"
import { parseSignal } from "../../../src/domain/sandbox/signals.ts"

test("every signal that this machine has a name for has its number", () => {
  const known = Object.entries(constants.signals)
  expect(known.length).toBeGreaterThan(30)
  for (const [name, number] of known) expect([name, parseSignal(name)]).toEqual([name, number])
})

test("images write a signal as a name, in any case and without SIG, as a number, or counted from a real-time end", () => {
  const cases: ReadonlyArray<readonly [string, number]> = [
    ["SIGTERM", 15],
    ["term", 15],
    ["SigQuit", 3],
    ["3", 3],
    ["64", 64],
    ["SIGRTMIN", 34],
    ["SIGRTMIN+3", 37],
    ["RTMIN+30", 64],
    ["SIGRTMAX", 64],
    ["SIGRTMAX-14", 50],
    ["SIGCLD", 17],
    ["SIGPOLL", 29]
  ]
  for (const [text, number] of cases) expect([text, parseSignal(text)]).toEqual([text, number])
})

test("what Linux has not is none", () => {
  for (const text of [
    "",
    "0",
    "65",
    "-9",
    "9.5",
    "0x9",
    "SIG",
    "SIGINFO",
    "SIGEMT",
    "SIGSIGTERM",
    "SIGRTMIN+31",
    "SIGRTMIN-1",
    "SIGRTMAX-31",
    "SIGRTMAX+1",
    "constructor",
    " TERM"
  ])
    expect([text, parseSignal(text)]).toEqual([text, undefined])
})
