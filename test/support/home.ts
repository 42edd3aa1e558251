/** Gives each test a home directory and a database of its own, removed afterwards. */

import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { Effect, Layer } from "effect"
import { Database } from "../../src/store/database/Database.ts"
import { builtIn } from "../../src/store/database/migrations.ts"
import { Paths } from "../../src/store/files/Paths.ts"

/** A fresh directory for the current scope. */
export const temporaryDirectory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(path.join(tmpdir(), "bk-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

/** Paths and Database over a home of the test's own. */
export const freshHome = Layer.unwrap(Effect.map(temporaryDirectory, (home) => homeAt(home)))

/** Paths and Database over a given home. */
export const homeAt = (home: string) => Layer.provideMerge(Database.layer(builtIn), Paths.layer(home))
