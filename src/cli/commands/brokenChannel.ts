/** Explains to people why the channel to a guest broke. Repairs nothing. */
import { Effect, Option, Schedule } from "effect"
import { VmSupervisor } from "../../actors/VmSupervisor.ts"
import { type GuestChannelFailed, WrongState } from "../../domain/errors/vm.ts"

/** How often the record is looked at again: the connection's end is known a moment before the VM's is recorded. */
const recorded = Schedule.spaced("50 millis").pipe(Schedule.upTo({ times: 10 }))

/** A channel that broke because the sandbox has ended meanwhile says so. */
export const explainBrokenChannel = Effect.fnUntraced(function* (name: string, error: GuestChannelFailed) {
  const look = VmSupervisor.use((vms) => Effect.option(vms.Inspect({ name })))
  const status = yield* Effect.map(look, (info) => (Option.isSome(info) ? info.value.status : "gone")).pipe(
    Effect.repeat({ while: (found) => found === "running", schedule: recorded })
  )
  if (status === "running") return yield* error
  const advice = status === "gone" ? "it has ended" : `'bunker inspect ${name}' tells how it ended`
  return yield* new WrongState({ name, status, operation: "finish the command in", advice })
})
