/** What a create takes stands in the machine's file as it is, whatever texts and numbers it has. */
import { expect } from "bun:test"
import { Arbitrary, Effect } from "effect"
import { SandboxConfig } from "../../../src/domain/sandbox/sandbox.ts"
import { sandboxProblem } from "../../../src/domain/sandbox/validation.ts"
import { loadMachine, removeMachine, saveMachine } from "../../../src/store/files/definitions.ts"
import { Paths } from "../../../src/store/files/Paths.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { machine } from "../../support/machines.ts"

const rounds = Number(process.env["BUNKER_TEST_ROUNDS"] ?? 150)

/** Like what was made up, with the fields in order that are right by chance only. */
const likely = (config: SandboxConfig): SandboxConfig => ({
  ...config,
  cpus: 1,
  env: config.env.map((entry, at) => `V${at}=${entry}`),
  ...(config.workdir === undefined ? {} : { workdir: `/${config.workdir}` }),
  ...(config.hostname === undefined ? {} : { hostname: "h" }),
  ...(config.ports === undefined ? {} : { ports: config.ports.map((port) => ({ ...port, hostIp: "::1" })) }),
  ...(config.rlimits === undefined ? {} : { rlimits: config.rlimits.map((limit) => ({ ...limit, hard: -1 })) })
})

it.live(
  "a definition that a create takes is read back as it was",
  () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const home = yield* Effect.provide(Paths, Paths.layer(directory))
      let taken = 0
      const result = yield* Arbitrary.checkEffect(
        Arbitrary.schema(SandboxConfig),
        (given) =>
          Effect.gen(function* () {
            const config = likely(given)
            if (sandboxProblem(config, false) !== undefined) return true
            taken += 1
            const saved = machine("web", { config })
            yield* saveMachine(home, saved)
            const { machine: loaded } = yield* loadMachine(home, saved.name)
            expect(loaded).toEqual(saved)
            yield* removeMachine(home, saved.name, Effect.void)
            return true
          }),
        { runs: rounds }
      )
      expect(Arbitrary.formatCheckFailure(result)).toBeUndefined()
      expect(taken).toBeGreaterThan(rounds / 3)
    }),
  60_000
)
