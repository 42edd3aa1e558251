/** What a console says of an end that the guest wanted. */
import { expect, test } from "bun:test"
import { GuestEndWatch, guestEnd, silentRestart } from "../../../src/actors/keeper/guestEnd.ts"

const kernel = (words: string) => `[    6.527865] reboot: ${words}\n`

test("the agent's word, or the kernel's, tells how the machine ended; the first counts", () => {
  const cases = [
    ["bunker-agent: powering off by itself: idle_timeout\n", "idle_timeout", null, false],
    ["bunker-agent: powering off by itself: max_duration_exceeded\n", "max_duration_exceeded", null, false],
    ["bunker-agent: powering off by itself: guest_poweroff\n", "shutdown_requested", 0, false],
    ["bunker-agent: powering off by itself: guest_halt\n", "shutdown_requested", 0, false],
    [`bunker-agent: powering off by itself: guest_reboot\n${kernel("System halted")}`, "completed", 0, false],
    [kernel("Restarting system"), "completed", 0, false],
    [kernel("Restarting system with command 'x'"), "completed", 0, false],
    [kernel("System halted"), "shutdown_requested", 0, true],
    [kernel("Power down"), "shutdown_requested", 0, true],
    [kernel("Power off not available: System halted instead"), "shutdown_requested", 0, true]
  ] as const
  for (const [text, reason, exitCode, halted] of cases) {
    expect({ text, ...guestEnd(`before\n${text}`) }).toMatchObject({ text, end: { reason, exitCode }, halted })
  }
  for (const other of ["", "bunker-agent: powering off by itself: completed\n", "reboot: Restarting system\n"]) {
    expect(guestEnd(other)).toBeUndefined()
  }
})

test("a console that comes in pieces is watched for the machine's standing still, also after another sign", () => {
  const text = `boot\nbunker-agent: powering off by itself: guest_poweroff\n${kernel("System halted")}`
  for (let size = 1; size <= text.length; size += 1) {
    let halts = 0
    const watch = new GuestEndWatch(() => void (halts += 1))
    for (let at = 0; at < text.length; at += size) watch.push(Buffer.from(text.slice(at, at + size)))
    expect([size, watch.found?.end.detail, halts > 0]).toEqual([size, "its guest powered off", true])
  }
})

test("a PID 1 that crashed is a panic, also where the panic's own words are lost", () => {
  for (const words of ["init[1]: segfault at 0 ip 0", "traps: init[1] general protection fault"]) {
    const watch = new GuestEndWatch(() => {})
    watch.push(Buffer.from(`[ 1.0] ${words}\n`))
    expect({ words, end: silentRestart(0, watch.panicked) }).toEqual({ words, end: undefined })
  }
})

test("a machine that ends with code 0 and without a word was restarted, unless its kernel panicked", () => {
  const watch = new GuestEndWatch(() => {})
  for (const piece of ["[ 1.0] Kernel pan", "ic - not sync", "ing: Out of memory\n"]) watch.push(Buffer.from(piece))
  expect(watch.panicked).toBe(true)
  expect(silentRestart(0, false)).toMatchObject({ reason: "completed", detail: "its guest rebooted" })
  for (const [code, panicked] of [
    [0, true],
    [1, false],
    [undefined, false]
  ] as const) {
    expect(silentRestart(code, panicked)).toBeUndefined()
  }
})
