/**
 * Interrupts this program, which then cleans up, at every signal that would end it. Passes none on (see terminal.ts, which takes the
 * first one for a command in a guest).
 */
import fs from "node:fs"

/** The first of these may be a command's; the second one, whichever it is, is ours. */
const asked: Readonly<Record<string, number>> = { SIGHUP: 1, SIGINT: 2, SIGQUIT: 3, SIGTERM: 15 }
/** These end a process, too (signal(7)), where nobody takes them. */
const others: Readonly<Record<string, number>> = { SIGUSR1: 10, SIGUSR2: 12, SIGALRM: 14, SIGXCPU: 24 }

/** The signals that whoever started us had us ignore, as nohup(1) does; a mask of bits, the lowest for signal 1. */
const ignoredMask = (): bigint => {
  try {
    const [, mask = "0"] = /^SigIgn:\s*([0-9a-f]+)$/m.exec(fs.readFileSync("/proc/self/status", "latin1")) ?? []
    return BigInt(`0x${mask}`)
  } catch {
    return 0n
  }
}

let ignored: bigint | undefined

/** Asked first before this program listens to anything. */
export const isIgnored = (signal: number): boolean => (((ignored ??= ignoredMask()) >> BigInt(signal - 1)) & 1n) === 1n

/** Returns a function that tells the number of the signal that did it. */
export const interruptAtSignals = (stop: AbortController): (() => number) => {
  let seen = 0
  let last = 2
  for (const [signal, number] of Object.entries({ ...asked, ...others })) {
    if (isIgnored(number)) continue
    process.on(signal, () => {
      if (signal in asked) seen += 1
      // Nobody else listens: no command is attached, that it could be for.
      if (process.listenerCount(signal) > 1 && !(signal in asked && seen > 1)) return
      last = number
      stop.abort()
    })
  }
  return () => last
}
