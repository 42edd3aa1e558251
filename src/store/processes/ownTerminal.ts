/**
 * Makes the terminal behind this process's stdin raw, in which every byte passes as it is, and puts it back. Writes nothing to it.
 *
 * Invariant: what it is put back to is what somebody else set, never our own raw mode.
 */
import { rawState, setTerminalState, type TerminalState, terminalState } from "../../ffi/terminal.ts"

export class OwnTerminal {
  private former: TerminalState | undefined

  /** Also again, after the process was stopped and continued: a shell may have changed it meanwhile. */
  makeRaw(): void {
    const now = terminalState(0)
    const raw = rawState(now)
    if (this.former === undefined || !Buffer.from(raw).equals(now)) this.former = now
    setTerminalState(0, raw)
  }

  /** Does nothing where the terminal is gone. */
  putBack(): void {
    try {
      if (this.former !== undefined) setTerminalState(0, this.former)
    } catch {
      // Nothing is left to put right.
    }
  }
}
