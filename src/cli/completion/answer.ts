/** `__complete WORDS... WORD`: prints what the last word of a command line may be, one a line. Says nothing of what goes wrong. */
import fs from "node:fs"
import os from "node:os"
import { Effect, Result } from "effect"
import { ImageStore } from "../../actors/images/ImageStore.ts"
import { ModelCache } from "../../actors/models/ModelCache.ts"
import { VmSupervisor } from "../../actors/sandboxes/VmSupervisor.ts"
import { SessionStore } from "../../actors/sessions/SessionStore.ts"
import { familiarReference, referenceResult } from "../../domain/image/reference.ts"
import { readSettings } from "../../domain/settings.ts"
import { type Bunker, bunkerLayer, type Program } from "../../plugin/bunker.ts"
import { type Values, valuesFor } from "./values.ts"

/** Most values that are printed. */
const valuesMax = 1000
/** What a shell splits at, or would obey: such names are typed by hand. */
const plain = /^[\w./:@%+,=~-]+$/

const names = {
  sandboxes: VmSupervisor.use((vms) => vms.List()).pipe(Effect.map((all) => all.map(({ name }) => name))),
  images: ImageStore.use((store) => store.List()).pipe(
    Effect.map((all) =>
      all.map(({ reference }) => Result.getOrThrow(Result.map(referenceResult(reference), familiarReference)))
    )
  ),
  sessions: SessionStore.use((store) => store.List({ limit: valuesMax })).pipe(
    Effect.map((all) => all.map(({ sessionId }) => sessionId))
  ),
  models: ModelCache.use((cache) => cache.List()).pipe(Effect.map((all) => all.models.map(({ name }) => name)))
} as const

const candidates = (values: Values, current: string): Effect.Effect<ReadonlyArray<string>, unknown, Bunker> => {
  switch (values.kind) {
    case "words":
      return Effect.succeed(values.words)
    case "none":
    case "files":
      return Effect.succeed<ReadonlyArray<string>>([])
    case "sandboxPaths":
      // After the colon, and for a path of this machine, the shell knows no better than we do.
      return /[:/]/.test(current)
        ? Effect.succeed<ReadonlyArray<string>>([])
        : Effect.map(names.sandboxes, (all) => all.map((name) => `${name}:`))
    default:
      return names[values.kind]
  }
}

export const runComplete = async (program: Program): Promise<never> => {
  const given = process.argv.slice(3)
  const [before, current = ""] = [given.slice(0, -1), given.at(-1)]
  const values = valuesFor(before)
  if (values !== undefined) {
    const layer = bunkerLayer(readSettings(process.env, process.cwd(), os.homedir()), program)
    const found = await Effect.runPromise(
      Effect.orElseSucceed(Effect.provide(candidates(values, current), layer), (): ReadonlyArray<string> => [])
    ).catch((): ReadonlyArray<string> => [])
    const fitting = found.filter((each) => each.startsWith(current) && plain.test(each)).slice(0, valuesMax)
    if (fitting.length > 0) fs.writeSync(1, `${fitting.join("\n")}\n`)
  }
  process.exit(0)
}
