/** Writes a changed definition of a sandbox down: into its file, or its record where it has no file. Checks nothing. */
import { Effect } from "effect"
import type { SandboxConfig, SandboxInfo } from "../../domain/sandbox/sandbox.ts"
import { Database } from "../../store/database/Database.ts"
import { saveConfig } from "../../store/database/sandboxes.ts"
import { findMachine } from "../../store/database/syncDefinitions.ts"
import { updateMachine } from "../../store/files/definitions.ts"
import { Paths } from "../../store/files/Paths.ts"

export const saveDefinition = Effect.gen(function* () {
  const db = yield* Database
  const paths = yield* Paths
  return Effect.fnUntraced(function* (info: SandboxInfo, config: SandboxConfig) {
    if (info.ephemeral) return yield* saveConfig(db, info.id, config)
    yield* updateMachine(paths, info.name, (old) => ({ ...old, config }))
    // Reads the file into the record.
    yield* findMachine(db, paths, info.name)
  })
})
