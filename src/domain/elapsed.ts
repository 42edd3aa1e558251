/**
 * Judges times that were written down: by the wall clock, which may have run ahead when they were and have been put right since. What
 * such a clock wrote must not hold anything up until the world catches up. Pure; asks no clock.
 */

/** True when `spanMs` have passed since, and for a time that lies further ahead than that: no right clock wrote it. */
export const hasPassed = (sinceMs: number, spanMs: number, nowMs: number): boolean => Math.abs(nowMs - sinceMs) > spanMs

/** True while a deadline is to come that was set at most `longestMs` ahead; one that lies further off counts as over. */
export const isAhead = (deadlineMs: number, longestMs: number, nowMs: number): boolean =>
  deadlineMs > nowMs && deadlineMs - nowMs <= longestMs
