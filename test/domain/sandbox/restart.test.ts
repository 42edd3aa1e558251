/** When a sandbox starts again, and how durations and policies are written. */
import { describe, expect, test } from "bun:test"
import { formatDuration, parseDuration } from "../../../src/domain/duration.ts"
import { formatRestart, parseRestart, planRestart } from "../../../src/domain/sandbox/restart.ts"
import { type RestartPolicy, TerminationReason } from "../../../src/domain/sandbox/sandbox.ts"

const plan = (text: string, reason: TerminationReason, count = 0, upMs: number | undefined = 1000) =>
  planRestart({ policy: parseRestart(text), reason, count, upMs })

describe("a restart policy", () => {
  test("starts again what ended by itself, as eager as it is", () => {
    const restarted = (text: string) =>
      TerminationReason.literals.filter((reason) => plan(text, reason, 1).delayMs !== undefined).toSorted()
    const failures = ["agent_unresponsive", "boot_failed", "failed", "internal_error"] as const
    expect(restarted("no")).toEqual([])
    expect(restarted("on-failure")).toEqual([...failures])
    expect(restarted("always")).toEqual([...failures.slice(0, 2), "completed", ...failures.slice(2)])
    // What somebody asked for, or a limit, stays.
    for (const reason of [
      "shutdown_requested",
      "signal",
      "drain_requested",
      "max_duration_exceeded",
      "idle_timeout"
    ] as const)
      expect(plan("always", reason)).toEqual({ count: 0, delayMs: undefined })
  })

  test("waits twice as long each time, at most ten seconds", () => {
    const delays = Array.from({ length: 8 }, (_, count) => plan("always", "failed", count).delayMs)
    expect(delays).toEqual([500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000])
    expect(plan("always", "failed", 1_000_000).delayMs).toBe(10_000)
  })

  test("gives up after so many in a row; a run of a minute begins a new row", () => {
    expect(plan("on-failure:2", "failed", 1)).toEqual({ count: 2, delayMs: 1000 })
    expect(plan("on-failure:2", "failed", 2)).toEqual({ count: 2, delayMs: undefined })
    expect(plan("on-failure:2", "failed", 2, 60_000)).toEqual({ count: 1, delayMs: 500 })
    expect(plan("on-failure:2", "failed", 2, 59_999)).toEqual({ count: 2, delayMs: undefined })
  })

  test("leaves a first boot that fails to whoever asked for it", () => {
    expect(plan("always", "boot_failed", 0, undefined).delayMs).toBeUndefined()
    expect(plan("always", "boot_failed", 1, undefined)).toEqual({ count: 2, delayMs: 1000 })
  })

  test("is written as it is typed", () => {
    for (const text of ["no", "always", "on-failure", "on-failure:3", "always:7"])
      expect(formatRestart(parseRestart(text) as RestartPolicy)).toBe(text)
    for (const text of [
      "",
      "never",
      "on-failure:",
      "on-failure:0",
      "on-failure:x",
      "no:1",
      "always:-1",
      "on-failure:9999999"
    ])
      expect(parseRestart(text)).toBeUndefined()
  })
})

describe("a duration", () => {
  test("is read and written as it is typed", () => {
    const cases = {
      "500ms": 500,
      "90s": 90_000,
      "5m": 300_000,
      "1h30m": 5_400_000,
      "2d": 172_800_000,
      "1.5h": 5_400_000
    }
    for (const [text, ms] of Object.entries(cases)) expect(parseDuration(text)).toBe(ms)
    expect(Object.values(cases).map(formatDuration)).toEqual(["500ms", "1m30s", "5m", "1h30m", "2d", "1h30m"])
    for (const text of ["", "5", "m", "5 m", "-5m", "5m!", "1e3s", "five minutes"])
      expect(parseDuration(text)).toBeUndefined()
    for (let ms = 1; ms < 1e11; ms = ms * 3 + 1) expect(parseDuration(formatDuration(ms))).toBe(ms)
  })
})
