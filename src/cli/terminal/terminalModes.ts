/** Knows what a guest's program did to the terminal that must be undone when it can not, and the keys that leave it. Pure. */

/** Private modes (DEC, xterm's ctlseqs) that spoil a terminal for the shell after us: alternate screen, mouse, focus, paste. */
const spoiling: ReadonlySet<number> = new Set([
  1, 9, 47, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1049, 2004
])
/** The cursor is on unless it was hidden. */
const cursor = 25

/** Longest piece of a sequence that is carried to the next piece of output. */
const carriedMax = 32

/** What a terminal answers by typing: where the cursor is, how it is, what it is (DSR, DECXCPR, DA1 to DA3; ECMA-48, xterm's ctlseqs). */
const questions = /\x1b\[(?:\??[56]n|[>=]?0?c)/g
const answers = /\x1b\[[\d;?>]*[Rnc]/g
/** A whole control sequence (ECMA-48, 5.4). */
const sequence = /^\x1b\[[\x30-\x3f]*[\x20-\x2f]*[\x40-\x7e]/

const count = (text: string, what: RegExp): number => text.match(what)?.length ?? 0

/** Follows the modes that output switches on and off, and what it asks of the terminal. */
export class TerminalModes {
  private readonly on = new Set<number>()
  private carried = ""
  private asked = 0

  watch(data: Uint8Array): void {
    const text = this.carried + Buffer.from(data).toString("latin1")
    for (const [, numbers, what] of text.matchAll(/\x1b\[\?([\d;]{1,30})([hl])/g)) {
      for (const mode of numbers!.split(";").map(Number)) this.set(mode, what === "h")
    }
    this.asked += count(text, questions)
    const last = text.lastIndexOf("\x1b")
    const open = last >= 0 && text.length - last <= carriedMax && !sequence.test(text.slice(last))
    this.carried = open ? text.slice(last) : ""
  }

  /** What was typed; answers of the terminal are among it. */
  typed(data: Uint8Array): void {
    this.asked = Math.max(0, this.asked - count(Buffer.from(data).toString("latin1"), answers))
  }

  /** True while the terminal has not answered all that it was asked: whoever reads it next would get the answer. */
  get awaitsAnswer(): boolean {
    return this.asked > 0
  }

  /** What puts the terminal right; empty when nothing is wrong. */
  undo(): string {
    if (this.on.size === 0) return ""
    const sequences = [...this.on].map((mode) => `\x1b[?${mode}${mode === cursor ? "h" : "l"}`)
    this.on.clear()
    return `${sequences.join("")}\x1b[0m`
  }

  private set(mode: number, on: boolean): void {
    const spoilt = mode === cursor ? !on : on
    if (mode !== cursor && !spoiling.has(mode)) return
    if (spoilt) this.on.add(mode)
    else this.on.delete(mode)
  }
}

const ctrlP = 0x10
const ctrlQ = 0x11

/** Finds Ctrl-P Ctrl-Q in what is typed; a Ctrl-P waits for the key after it. */
export class DetachKeys {
  private held = false

  /** What goes to the guest, and whether the keys were there: then nothing after them does. */
  push(data: Uint8Array): { readonly data: Uint8Array; readonly detached: boolean } {
    const passed: Array<number> = []
    for (const byte of data) {
      if (this.held && byte === ctrlQ) return { data: Uint8Array.from(passed), detached: true }
      if (this.held) passed.push(ctrlP)
      this.held = byte === ctrlP
      if (!this.held) passed.push(byte)
    }
    return { data: Uint8Array.from(passed), detached: false }
  }
}
