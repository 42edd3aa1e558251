/** Writes rows and processes for tests of leases and sweeps. */
import { Effect } from "effect"
import type { SafeName } from "../../src/domain/name.ts"
import type { SandboxConfig, Status } from "../../src/domain/sandbox/sandbox.ts"
import { Database } from "../../src/store/database/Database.ts"
import { insertRun, insertSandbox } from "../../src/store/database/sandboxes.ts"
import { identify, type ProcessIdentity } from "../../src/store/processes/processes.ts"

export const config: SandboxConfig = {
  image: "docker.io/library/test:latest",
  env: [],
  cpus: 1,
  memoryMb: 256,
  diskMb: 1024,
  engine: "auto",
  endsWithCommand: false,
  labels: {}
}

const manifestDigest = `sha256:${"a".repeat(64)}`

/** A manifest row for sandboxes to stand on. */
const someManifest = Effect.gen(function* () {
  const db = yield* Database
  yield* db.run(
    "INSERT OR IGNORE INTO manifest (digest, media_type, config_digest, architecture, os, layer_count, total_size_bytes, created_at) VALUES (?, 'm', 'c', 'amd64', 'linux', 0, 0, 0)",
    [manifestDigest]
  )
})

/** Inserts a sandbox in any status, with a run of `process` if given. */
export const putSandbox = Effect.fnUntraced(function* (input: {
  readonly name: string
  readonly status: Status
  readonly ephemeral?: boolean
  readonly process?: ProcessIdentity
}) {
  const db = yield* Database
  yield* someManifest
  const name = input.name as SafeName
  const id = yield* insertSandbox(db, { name, config, ephemeral: input.ephemeral ?? false, manifestDigest, nowMs: 1 })
  yield* db.run("UPDATE sandbox SET status = ? WHERE id = ?", [input.status, id])
  if (input.process !== undefined) yield* insertRun(db, id, "qemu", input.process, 2)
  return id
})

/** Identity of a process that has ended. */
export const deadProcess = Effect.promise(async (): Promise<ProcessIdentity> => {
  const child = Bun.spawn(["sleep", "60"])
  const identity = identify(child.pid)!
  child.kill("SIGKILL")
  await child.exited
  return identity
})
