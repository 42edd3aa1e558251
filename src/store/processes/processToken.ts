/**
 * Names content leases after the process that holds them, so that those of a process that died can be freed before they expire.
 * Judges only processes that this one could see: of another machine's or container's process, time alone decides.
 */
import fs from "node:fs"
import { currentBootId, identify, isAlive } from "./processes.ts"

/** No lease is longer, in milliseconds. */
export const leaseMsMax = 86_400_000

/** Names this process's pid namespace, such as `pid:[4026531836]` (pid_namespaces(7)). */
const pidNamespace = (): string => {
  try {
    return fs.readlinkSync("/proc/self/ns/pid").replace(/[^0-9]/g, "")
  } catch {
    return ""
  }
}

let own: string | undefined

/** A token that no other lease has: `pid-START-NAMESPACE-BOOT` of this process (START as in proc(5)), and a random part. */
export const leaseToken = (): string => {
  own ??= `${process.pid}-${identify(process.pid)?.startTicks ?? 0}-${pidNamespace()}-${currentBootId()}`
  return `${own}/${crypto.randomUUID()}`
}

const tokenPattern = /^([0-9]{1,10})-([0-9]{1,15})-([0-9]*)-([0-9a-f-]{36})\//

/** How long something of a process that can not be judged waits for it, in milliseconds. */
const strangerMs = 24 * 3_600_000
/** The same where there is no such process any more, as far as anybody can tell. */
const unknownMs = 10_000

/**
 * True when what a process made, and nothing else will ever take away, is left: its maker is certainly dead; or, `ageMs` after it was
 * made, nobody knows who that was, or it was one of another boot; or, after a day, one that is not seen from here.
 */
export const isLeft = (token: string | undefined, ageMs: number): boolean => {
  if (token !== undefined && isAbandoned(token)) return true
  // An age below zero is of a clock that ran ahead.
  const age = Math.abs(ageMs)
  const [, , , namespace, bootId] = tokenPattern.exec(token ?? "") ?? []
  if (bootId !== currentBootId()) return age > unknownMs
  return namespace !== pidNamespace() && age > strangerMs
}

/** True when the holder is certainly dead. A token without a process, or of another boot or namespace, is not judged. */
export const isAbandoned = (token: string): boolean => {
  const [, pid, startTicks, namespace, bootId] = tokenPattern.exec(token) ?? []
  if (pid === undefined || namespace === "" || bootId !== currentBootId() || namespace !== pidNamespace()) return false
  return !isAlive({ pid: Number(pid), startTicks: Number(startTicks), bootId })
}
