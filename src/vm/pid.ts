/**
 * Names a process beyond reuse of its number: by the number and the tick at which it started.
 * Starts nothing; ends a process only when it is still the one that was meant.
 */

import fs from "node:fs"
import { Effect } from "effect"
import { CallFailed } from "../ffi/errno.ts"
import { pidfdOpen, pidfdSendSignal } from "../ffi/posix.ts"

/** A process, for good: `startedAt` is field 22 of /proc/PID/stat (proc(5)), in clock ticks since boot. */
export interface ProcessIdentity {
  readonly pid: number
  readonly pidStartedAt: number
}

/** Start tick of a living process; undefined when there is none with that number, or only an unreaped one. */
export const processStartedAt = (pid: number): number | undefined => {
  let stat: string
  try {
    stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8")
  } catch {
    return undefined
  }
  // The command name, field 2, may hold blanks and brackets; nothing after its last bracket does.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
  return fields[0] === "Z" || fields[0] === "X" ? undefined : Number(fields[19])
}

/** True while exactly this process lives. */
export const isAlive = (process: ProcessIdentity): boolean => processStartedAt(process.pid) === process.pidStartedAt

/** Identity of this boot of the machine: start ticks mean nothing across a reboot. */
export const bootId = (): string => {
  try {
    return fs.readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()
  } catch {
    return "unknown"
  }
}

/** Sends a signal to exactly this process; false when it has ended (then nobody is signalled). */
export const signalProcess = (process: ProcessIdentity, signal: number): boolean => {
  let pidfd: number | undefined
  try {
    pidfd = pidfdOpen(process.pid)
    // The descriptor is bound now: when the start tick still fits, it is bound to the right one.
    if (!isAlive(process)) return false
    pidfdSendSignal(pidfd, signal)
    return true
  } catch (cause) {
    if (cause instanceof CallFailed && cause.errno === "ESRCH") return false
    throw cause
  } finally {
    if (pidfd !== undefined) fs.closeSync(pidfd)
  }
}

/**
 * Waits for the end of a process that is not our child, such as a VM taken over from another supervisor. Looks every
 * `intervalMs` (default 200), since Bun can not wait on a pidfd.
 */
export const awaitEnd = (process: ProcessIdentity, intervalMs = 200): Effect.Effect<void> =>
  Effect.suspend(() =>
    isAlive(process) ? Effect.sleep(intervalMs).pipe(Effect.andThen(awaitEnd(process, intervalMs))) : Effect.void
  )
