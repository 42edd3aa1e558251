/** Limits and timeouts of commands, through a real agent process on this machine. */
import { describe, expect } from "bun:test"
import { existsSync } from "node:fs"
import { Effect, Schedule, Stream } from "effect"
import type { ExecEvent, ExecSpec, GuestChannel } from "../../../src/vm/guest/GuestChannel.ts"
import { it } from "../../support/it.ts"
import { nativeAgent } from "../../support/nativeAgent.ts"

const plain = { env: [], cwd: "/", user: "", tty: null, stdin: false } as const

const run = (guest: GuestChannel, script: string, more: Partial<ExecSpec> = {}) =>
  Effect.scoped(
    Effect.gen(function* () {
      const handle = yield* guest.exec({ ...plain, argv: ["sh", "-c", script], ...more })
      const events = yield* Stream.runCollect(handle.events)
      const stdout = events.map((event: ExecEvent) =>
        event._tag === "Stdout" ? Buffer.from(event.data).toString() : ""
      )
      return { pid: handle.pid, stdout: stdout.join(""), end: events.at(-1) }
    })
  )

const stillThere = (pids: ReadonlyArray<number>) => pids.filter((pid) => existsSync(`/proc/${pid}`))

describe("a command with a time limit", () => {
  it.live("is killed with its whole group when its time is up, and ends with 124", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const { pid, stdout, end } = yield* run(guest, "trap '' TERM; sleep 1000 & echo $!; sleep 1000", {
        timeoutMs: 150
      })
      expect(end).toEqual({ _tag: "Exit", code: 124, timedOut: true })
      // The orphan is reaped by the agent, right after.
      yield* Effect.suspend(() =>
        stillThere([pid, Number(stdout)]).length === 0 ? Effect.void : Effect.fail("there")
      ).pipe(Effect.retry({ times: 400, schedule: Schedule.spaced(10) }), Effect.orDie)
    })
  )

  it.live("that ends in time is left alone", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      expect((yield* run(guest, "exit 3", { timeoutMs: 60_000 })).end).toEqual({ _tag: "Exit", code: 3 })
    })
  )
})

describe("limits of a command", () => {
  it.live("are set, soft and hard, for it alone", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const limited = yield* run(guest, "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Ht", {
        rlimits: [
          ["nofile", 100, 200],
          ["core", 0, 0],
          ["cpu", 77, 88]
        ]
      })
      expect(limited.stdout).toBe("100\n200\n0\n88\n")
      expect((yield* run(guest, "ulimit -Ht")).stdout).toBe("unlimited\n")
    })
  )

  it.live("that make no sense are refused", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const wrong: ReadonlyArray<readonly [string, number, number]> = [
        ["nothing", 1, 1],
        ["nofile", 2, 1],
        ["nofile", -1, 1],
        ["nofile", -2, 1]
      ]
      for (const rlimit of wrong) {
        const error = yield* Effect.flip(run(guest, "true", { rlimits: [rlimit] }))
        expect(error._tag).toBe("ExecFailed")
      }
    })
  )
})
