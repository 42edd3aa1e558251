/** Explains to people why the channel to a guest broke. Repairs nothing. */

import { Effect, Option, Schedule, Stream } from "effect"
import { VmSupervisor } from "../../actors/sandboxes/VmSupervisor.ts"
import { type GuestChannelFailed, SandboxCrashed, WrongState } from "../../domain/errors/vm.ts"
import type { Termination } from "../../domain/sandbox/termination.ts"
import { ExitWith, say } from "../terminal/output.ts"

/** How often the record is looked at again: the connection's end is known a moment before the VM's is recorded. */
const recorded = Schedule.spaced("50 millis").pipe(Schedule.upTo({ times: 40 }))

/** Exit code of a command whose machine went away below it: 128 + SIGKILL. */
const killed = 137

/** Lines of the console that are shown, and characters of one. */
const linesMax = 3
const charactersMax = 200

/** The end of a console, which is not taken for read by that. */
const consoleEnd = (name: string) =>
  VmSupervisor.use((vms) =>
    vms.Logs({ name, source: "console", follow: false, tail: 4 * linesMax }).pipe(
      Stream.runCollect,
      Effect.map((lines) =>
        lines
          // Of this boot alone.
          .slice(lines.findLastIndex(({ stream }) => stream === "start") + 1)
          .map(({ text = "" }) => text)
          .join("")
          .split("\n")
          .map((line) => line.slice(0, charactersMax).trim())
          .filter((line) => line !== "")
          .slice(-linesMax)
      ),
      Effect.orElseSucceed((): ReadonlyArray<string> => [])
    )
  )

/** A channel that broke because the sandbox has ended meanwhile says so, and why. `end`: how it ended, where the caller waited for that. */
export const explainBrokenChannel = Effect.fnUntraced(function* (
  name: string,
  error: GuestChannelFailed,
  end?: Termination
) {
  const look = VmSupervisor.use((vms) => Effect.option(vms.Inspect({ name })))
  const found = yield* look.pipe(
    Effect.map(Option.getOrUndefined),
    Effect.repeat({ while: (info) => info?.status === "running", schedule: recorded })
  )
  if (found?.status === "running") return yield* error
  if (found?.status === "crashed") {
    return yield* new SandboxCrashed({
      sandbox: name,
      reason: found.terminationDetail ?? found.terminationReason ?? "nobody saw why",
      console: yield* consoleEnd(name),
      ephemeral: found.ephemeral
    })
  }
  if (found?.status === "stopped" && found.terminationDetail?.startsWith("its guest") === true) {
    yield* say(`bunker: the command in "${name}" was ended: ${found.terminationDetail}`)
    return yield* new ExitWith({ code: killed })
  }
  const why = end?.detail ?? end?.reason
  const gone = why === undefined ? "it has ended" : `it has ended (${why})`
  return yield* new WrongState({
    sandbox: name,
    status: found?.status ?? "gone",
    operation: "finish the command in",
    advice: found === undefined ? gone : `'bunker inspect ${name}' tells how it ended`
  })
})
