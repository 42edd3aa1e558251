/**
 * Asks the program that becomes a VM what this machine lets it take from itself (native/launcher/harden.h). Takes nothing from anybody.
 */
import { Effect, Schema } from "effect"
import { runnerCommand } from "./bootCache.ts"
import type { EngineOptions } from "./types.ts"

const Step = Schema.NullOr(Schema.String)
/** For each step null, or the name of the errno that kept it away. */
const Told = Schema.Struct({
  no_new_privileges: Step,
  network: Step,
  files: Step,
  capabilities: Step,
  calls: Step
})
const decode = Schema.decodeUnknownEffect(Schema.fromJsonString(Told))

/** What each step takes away, in words. */
const words: Readonly<Record<keyof typeof Told.Type, string>> = {
  no_new_privileges: "new privileges (no_new_privs)",
  network: "the network (an empty network namespace)",
  files: "files that are not the sandbox's (Landlock)",
  capabilities: "capabilities",
  calls: "system calls that no VM needs (seccomp)"
}

/** What VMs' processes go without, and what this machine does not take from them, each with the reason. */
export interface Hardening {
  readonly taken: ReadonlyArray<string>
  readonly left: ReadonlyArray<string>
}

/** Undefined where the program could not be built: its stand-in takes nothing. */
export const hardening = (options: EngineOptions): Effect.Effect<Hardening | undefined> =>
  Effect.gen(function* () {
    const command = yield* runnerCommand(options)
    if (command === options.runnerCommand) return undefined
    const { stdout } = Bun.spawnSync([...command, "--check"], { env: {}, stdin: "ignore", stderr: "ignore" })
    const told = yield* decode(stdout.toString())
    const steps = Object.entries(told) as ReadonlyArray<[keyof typeof words, string | null]>
    return {
      taken: steps.filter(([, error]) => error === null).map(([step]) => words[step]),
      left: steps.filter(([, error]) => error !== null).map(([step, error]) => `${words[step]}: ${error}`)
    }
  }).pipe(Effect.orElseSucceed(() => undefined))
