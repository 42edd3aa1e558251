/**
 * Decides whether and when a sandbox that has ended starts again (`--restart`). Pure: starts nothing.
 *
 * Invariants: what somebody asked to end (stop, kill, drain) or a limit ended stays ended; attempts in a row are counted until a
 * run has lasted a minute.
 */
import type { RestartPolicy, TerminationReason } from "./sandbox.ts"

/** Wait before the first attempt in a row, in milliseconds; it doubles with each. */
const firstDelayMs = 500
/** Longest wait before an attempt, in milliseconds. */
export const delayMsMax = 10_000
/** A run that lasted this long begins a new row of attempts, in milliseconds. */
const steadyMs = 60_000

/** Reasons by the least eager policy that starts again after them. */
const restartsAfter: Readonly<Partial<Record<TerminationReason, "on-failure" | "always">>> = {
  completed: "always",
  failed: "on-failure",
  internal_error: "on-failure",
  agent_unresponsive: "on-failure",
  boot_failed: "on-failure"
}

/** What is known of a sandbox at its end. */
export interface Ended {
  readonly policy: RestartPolicy | undefined
  readonly reason: TerminationReason
  /** Attempts in a row before this end. */
  readonly count: number
  /** How long its VM was there, in milliseconds; undefined when there was none. */
  readonly upMs: number | undefined
}

/** The attempts in a row, this one included, and the wait before it; no wait: it stays ended. */
export interface RestartPlan {
  readonly count: number
  readonly delayMs: number | undefined
}

export const planRestart = ({ policy, reason, count, upMs }: Ended): RestartPlan => {
  const before = upMs !== undefined && upMs >= steadyMs ? 0 : count
  const stays = { count: before, delayMs: undefined }
  const needed = restartsAfter[reason]
  if (policy === undefined || policy.policy === "no" || needed === undefined) return stays
  // A boot that fails before anything ran is told to whoever asked for it.
  if (reason === "boot_failed" && before === 0) return stays
  if (needed === "always" && policy.policy !== "always") return stays
  if (policy.attemptsMax !== undefined && before >= policy.attemptsMax) return stays
  return { count: before + 1, delayMs: Math.min(delayMsMax, firstDelayMs * 2 ** Math.min(before, 16)) }
}

/** `no`, `always`, `on-failure`, `on-failure:3`; undefined for anything else. */
export const parseRestart = (text: string): RestartPolicy | undefined => {
  const [, policy, attempts] = /^(no|on-failure|always)(?::([1-9]\d{0,5}|1000000))?$/.exec(text) ?? []
  if (policy === undefined || (policy === "no" && attempts !== undefined)) return undefined
  return {
    policy: policy as RestartPolicy["policy"],
    ...(attempts === undefined ? {} : { attemptsMax: Number(attempts) })
  }
}

export const formatRestart = ({ policy, attemptsMax }: RestartPolicy): string =>
  attemptsMax === undefined ? policy : `${policy}:${attemptsMax}`
