/**
 * Names a process beyond reuse of its number, tells whether it lives, and ends exactly it. Reads procfs (proc(5)); starts nothing.
 */
import fs from "node:fs"
import { Effect } from "effect"
import { CallFailed } from "../../ffi/errno.ts"
import { duplicateTo, pidfdOpen, pidfdSendSignal } from "../../ffi/posix.ts"

/** What identifies a process for ever: its pid, the kernel's start time of it, and the boot in which it ran. */
export interface ProcessIdentity {
  readonly pid: number
  /** Clock ticks after boot, field 22 of `/proc/PID/stat`. */
  readonly startTicks: number
  /** `/proc/sys/kernel/random/boot_id`. */
  readonly bootId: string
}

interface Stat {
  readonly state: string
  readonly startTicks: number
}

const readStat = (pid: number): Stat | undefined => {
  try {
    const text = fs.readFileSync(`/proc/${pid}/stat`, "latin1")
    // The command name is in parentheses and may hold anything, parentheses too: fields start after the last one.
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ")
    return { state: fields[0]!, startTicks: Number(fields[19]) }
  } catch {
    return undefined
  }
}

let cachedBootId: string | undefined
/** Identifies the current boot of this machine. */
export const currentBootId = (): string =>
  (cachedBootId ??= fs.readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim())

/** Identity of a live process, undefined when there is none with this pid. */
export const identify = (pid: number): ProcessIdentity | undefined => {
  const stat = readStat(pid)
  return stat === undefined ? undefined : { pid, startTicks: stat.startTicks, bootId: currentBootId() }
}

/** True only for the very process that was recorded: same boot, same start time, not a zombie. */
export const isAlive = (identity: ProcessIdentity): boolean => {
  if (identity.bootId !== currentBootId()) return false
  const stat = readStat(identity.pid)
  return stat !== undefined && stat.startTicks === identity.startTicks && stat.state !== "Z" && stat.state !== "X"
}

/** True while this very process stands still because of SIGSTOP. */
export const isStopped = (identity: ProcessIdentity): boolean =>
  isAlive(identity) && readStat(identity.pid)?.state === "T"

/** Sends a signal to exactly this process; false when it has ended (then nobody is signalled). */
export const signalProcess = (identity: ProcessIdentity, signal: number): boolean => {
  let pidfd: number | undefined
  try {
    pidfd = pidfdOpen(identity.pid)
    // The descriptor is bound now: when the process still is the recorded one, it is bound to the right one.
    if (!isAlive(identity)) return false
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
 * Waits for the end of a process that is not our child, such as a VM taken over from another keeper. Looks every `intervalMs`
 * (default 200), since Bun can not wait on a pidfd.
 */
export const awaitEnd = (identity: ProcessIdentity, intervalMs = 200): Effect.Effect<void> =>
  Effect.suspend(() =>
    isAlive(identity) ? Effect.andThen(Effect.sleep(intervalMs), awaitEnd(identity, intervalMs)) : Effect.void
  )

/**
 * Closes what stdout is for its other end and makes it another name of stderr. Its number is free at no moment: whatever was opened
 * next would get it (a client's socket, the database), and be written to by whoever prints.
 */
export const endStdout = (): void => duplicateTo(2, 1)
