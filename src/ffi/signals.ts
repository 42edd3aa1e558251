/**
 * Lets signals end this process while its JavaScript is busy: a handler of Bun's runs only when the event loop turns. Decides
 * nothing about which work may be ended so.
 */
import { ptr } from "bun:ffi"
import { sigaction } from "./posix.ts"

/** Bytes of glibc's `struct sigaction`, on x86-64 and arm64; all zero is `SIG_DFL` without flags. */
const actionBytes = 152
/** SIGHUP, SIGINT, SIGQUIT and SIGTERM. */
const ending = [1, 2, 3, 15] as const

/**
 * Runs a synchronous function with the default action of SIGHUP, SIGINT, SIGQUIT and SIGTERM, which ends the process at once, and
 * puts the former ones back. For work of which nothing needs to be undone. The structures are borrowed for each call.
 */
export const endedBySignals = <A>(run: () => A): A => {
  const byDefault = new Uint8Array(actionBytes)
  const former = ending.map((signal) => {
    const action = new Uint8Array(actionBytes)
    sigaction(signal, ptr(byDefault), ptr(action))
    return [signal, action] as const
  })
  try {
    return run()
  } finally {
    for (const [signal, action] of former) sigaction(signal, ptr(action), null)
  }
}
