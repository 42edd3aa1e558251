/** Knows the signals of Linux by name and number, as signal(7) lists them for x86-64 and arm64. Sends none. */

const names = (
  "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ " +
  "VTALRM PROF WINCH IO PWR SYS"
).split(" ")
const others: Readonly<Record<string, number>> = { IOT: 6, CLD: 17, POLL: 29, UNUSED: 31 }

export const SIGTERM = 15
/** Real-time signals as the C library of most images counts them (the kernel has two more, for the library itself). */
const realTimeMin = 34
const realTimeMax = 64

/**
 * Number of a signal that is written as a number, or as a name with or without `SIG`, in any case, `RTMIN+n` and `RTMAX-n` included;
 * undefined for what Linux has not.
 */
export const parseSignal = (text: string): number | undefined => {
  if (/^\d{1,2}$/.test(text)) {
    const number = Number(text)
    return number >= 1 && number <= realTimeMax ? number : undefined
  }
  const name = text.toUpperCase().replace(/^SIG/, "")
  const [, base, more = "0"] = /^(RTMIN(?=\+|$)|RTMAX(?=-|$))(?:[+-](\d{1,2}))?$/.exec(name) ?? []
  if (base !== undefined) {
    const number = base === "RTMIN" ? realTimeMin + Number(more) : realTimeMax - Number(more)
    return number >= realTimeMin && number <= realTimeMax ? number : undefined
  }
  if (Object.hasOwn(others, name)) return others[name]
  const at = names.indexOf(name)
  return at < 0 ? undefined : at + 1
}
