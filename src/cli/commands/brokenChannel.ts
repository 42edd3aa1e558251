/** Explains to people why the channel to a guest broke. Repairs nothing. */
import { Effect, Option } from "effect"
import { VmSupervisor } from "../../actors/VmSupervisor.ts"
import { type GuestChannelFailed, WrongState } from "../../domain/errors/vm.ts"

/** A channel that broke because the sandbox has ended meanwhile says so. */
export const explainBrokenChannel = Effect.fnUntraced(function* (name: string, error: GuestChannelFailed) {
  const info = yield* VmSupervisor.use((vms) => Effect.option(vms.Inspect({ name })))
  const status = Option.isSome(info) ? info.value.status : "gone"
  if (status === "running") return yield* error
  const advice = status === "gone" ? "it has ended" : `'bunker inspect ${name}' tells how it ended`
  return yield* new WrongState({ name, status, operation: "finish the command in", advice })
})
