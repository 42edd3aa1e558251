/**
 * Reads on a guest's console that the guest ended its machine by itself: a limit that the agent keeps, or a poweroff, halt or reboot
 * inside. Believes the console: only root of the guest can write there, who may end the machine anyway.
 */
import type { TerminationFields } from "../../domain/sandbox/termination.ts"

/** How the machine ended, and whether it stands still: neither engine's machine can power off, so a halted one must be ended. */
export interface GuestEnd {
  readonly end: TerminationFields
  readonly halted: boolean
}

const byGuest = (did: string, reason: "completed" | "shutdown_requested"): TerminationFields => ({
  exitCode: 0,
  exitSignal: null,
  reason,
  detail: `its guest ${did}`
})
const powerOff = byGuest("powered off", "shutdown_requested")
const halt = byGuest("halted", "shutdown_requested")
/** Counts as completed: only the restart policy `always` starts it again. */
const reboot = byGuest("rebooted", "completed")
const byLimit = (reason: "max_duration_exceeded" | "idle_timeout"): TerminationFields => ({
  exitCode: null,
  exitSignal: null,
  reason,
  detail: "its agent powered off by itself"
})

/** What the agent says (native/guest/src/power.c), and the kernel (kernel/reboot.c) when a program calls reboot(2) itself. */
const signs: Readonly<Record<string, GuestEnd>> = {
  "bunker-agent: powering off by itself: max_duration_exceeded": {
    end: byLimit("max_duration_exceeded"),
    halted: false
  },
  "bunker-agent: powering off by itself: idle_timeout": { end: byLimit("idle_timeout"), halted: false },
  "bunker-agent: powering off by itself: guest_poweroff": { end: powerOff, halted: false },
  "bunker-agent: powering off by itself: guest_halt": { end: halt, halted: false },
  "bunker-agent: powering off by itself: guest_reboot": { end: reboot, halted: false },
  "] reboot: Restarting system": { end: reboot, halted: false },
  "] reboot: System halted": { end: halt, halted: true },
  "] reboot: Power down": { end: powerOff, halted: true },
  "] reboot: Power off not available": { end: powerOff, halted: true }
}
const longest = Math.max(...Object.keys(signs).map((sign) => sign.length))

/** The first sign in a text of a console. */
export const guestEnd = (text: string): GuestEnd | undefined => {
  const found = Object.keys(signs)
    .map((sign) => [text.indexOf(sign), sign] as const)
    .filter(([at]) => at >= 0)
    .sort(([a], [b]) => a - b)[0]
  return found === undefined ? undefined : signs[found[1]]
}

/**
 * A kernel's last words when it gives up (kernel/panic.c), after which it restarts the machine, too. Those of the panic itself may be
 * lost, for the restart comes at once: what makes PID 1 die (mm/fault.c, kernel/traps.c) is said before.
 */
const panics = ["Kernel panic - not syncing", "init[1]: segfault", "traps: init[1] "]

/**
 * The end of a machine that restarted without a word: reboot(2) silences the console first. Both engines' machines end at a restart, with
 * code 0; a panic is no wish.
 */
export const silentRestart = (exitCode: number | undefined, panicked: boolean): TerminationFields | undefined =>
  exitCode === 0 && !panicked ? reboot : undefined

export const saysPanic = (text: string): boolean => panics.some((sign) => text.includes(sign))

/** Watches a console that comes in pieces. */
export class GuestEndWatch {
  private carried = ""
  /** The first sign. */
  found: GuestEnd | undefined
  panicked = false
  /** Told once when the machine stands still. */
  constructor(private readonly onHalt: () => void) {}

  readonly push = (piece: Uint8Array): void => {
    const text = this.carried + Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength).toString("latin1")
    const last = text.lastIndexOf("reboot: ")
    this.found ??= guestEnd(text)
    this.panicked ||= saysPanic(text)
    if (last >= 0 && guestEnd(text.slice(Math.max(0, last - 2)))?.halted === true) this.onHalt()
    this.carried = text.slice(-longest)
  }
}
