/** Joins every path below the home directory, and is the only place that does. Creates directories, opens no files. */

import path from "node:path"
import { Context, Effect, Layer, Schema } from "effect"
import { HomeUnusable } from "../../domain/errors/store.ts"
import { type Digest, digestHex } from "../../domain/image/digest.ts"
import type { ModelName } from "../../domain/model/model.ts"
import type { SafeName } from "../../domain/name.ts"
import { type SessionId, sessionStem } from "../../domain/session/session.ts"
import type { SecretPlace } from "../secrets/secretFile.ts"
import { attemptFile, ensureDirectory, type FileError } from "./files.ts"
import { foreignDirectory, foreignFile } from "./ownership.ts"

/** An absolute path built here from checked parts. */
export const CheckedPath = Schema.String.pipe(Schema.brand("CheckedPath"))
export type CheckedPath = typeof CheckedPath.Type

/** The paths of one sandbox. */
export interface SandboxPaths {
  readonly directory: CheckedPath
  /** Held by the VM's process. */
  readonly lock: CheckedPath
  /** Definition of a sandbox that is kept: config.toml. */
  readonly machineFile: CheckedPath
  /** Held by whoever changes the definition; outside of the directory, which may go meanwhile. */
  readonly machineLock: CheckedPath
  /** What identifies the process of the newest run, for a database that was lost. */
  readonly processFile: CheckedPath
  /** Lease token of the process that made an ephemeral sandbox (leaseToken.ts). */
  readonly creator: CheckedPath
  /** Link to the newest run's `entrySocket`. */
  readonly entryLink: CheckedPath
  readonly upper: CheckedPath
  readonly logs: CheckedPath
  readonly consoleLog: CheckedPath
  readonly mainLog: CheckedPath
  readonly execLog: CheckedPath
  /** What the guest's console said before `consoleLog`, in lines of the other logs. */
  readonly consoleLines: CheckedPath
  /** What its network denied, used and failed at, as `store/logs.ts` writes. */
  readonly networkLog: CheckedPath
  /** Values of secrets that the sandbox was given. */
  readonly secrets: SecretPlace
  /** Its certificate authority and its placeholders, mode 0600. */
  readonly interception: CheckedPath
}

/** The sockets and reports of one live sandbox, by row id: a socket's path has at most 107 bytes (unix(7)). */
export interface RunPaths {
  readonly directory: CheckedPath
  readonly keeperSocket: CheckedPath
  /** The same for the entry program, which speaks less. */
  readonly entrySocket: CheckedPath
  readonly keeperLog: CheckedPath
  /** What the VM's process and its helpers print. */
  readonly runnerLog: CheckedPath
  /** What the process behind the guest's network card prints. */
  readonly netLog: CheckedPath
  /** Held by the process that keeps the VM. */
  readonly keeperLock: CheckedPath
  /** The host ports that are listened on, as JSON. */
  readonly ports: CheckedPath
  /** Socket of the process behind its network card. */
  readonly networkSocket: CheckedPath
  /** There while the VM ends with the process that keeps it: without one it is not taken over. */
  readonly tied: CheckedPath
  /** Held by the process that waits to start the sandbox again. */
  readonly restartLock: CheckedPath
}

/** The files of one session. */
export interface SessionPaths {
  readonly database: CheckedPath
  /** Beside it while it is open (SQLite, "Write-Ahead Logging"). */
  readonly wal: CheckedPath
  readonly shm: CheckedPath
}

/** The paths of one model below one cache root. */
export interface ModelPaths {
  /** Where its newest install is: manifest, id and payload directory. */
  readonly directory: CheckedPath
  /** Where an install is put together. */
  readonly staged: (installId: string) => CheckedPath
  /** Where a replaced install waits for its end. */
  readonly replaced: (installId: string) => CheckedPath
  /** Where an install waits that nobody shall bring back. */
  readonly dropped: (installId: string) => CheckedPath
}

/** A cache of models: the one of today, or one that a record names. */
export interface ModelCachePaths {
  readonly root: CheckedPath
  readonly staging: CheckedPath
  readonly purge: CheckedPath
  readonly model: (name: ModelName) => ModelPaths
}

/** The parts of one install. */
export const installPaths = (directory: string) => ({
  manifest: path.join(directory, "manifest.json") as CheckedPath,
  installId: path.join(directory, "install-id") as CheckedPath,
  payload: path.join(directory, "payload") as CheckedPath
})

export class Paths extends Context.Service<
  Paths,
  {
    readonly home: CheckedPath
    readonly database: CheckedPath
    /** Room that is given up when the disk is full; see reserve.ts. */
    readonly reserve: CheckedPath
    readonly userConfig: CheckedPath
    readonly temporary: CheckedPath
    readonly locks: CheckedPath
    readonly boot: CheckedPath
    readonly layers: CheckedPath
    readonly fsmetas: CheckedPath
    readonly vmdks: CheckedPath
    readonly sandboxes: CheckedPath
    readonly runs: CheckedPath
    readonly sessions: CheckedPath
    /** Secrets that sandboxes may refer to by name. */
    readonly secrets: SecretPlace
    /** Held by whoever makes or removes a session's file. */
    readonly sessionsLock: CheckedPath
    readonly serverSocket: CheckedPath
    /** Bearer token of network listeners. */
    readonly serverToken: CheckedPath
    /** The cache of models of today. */
    readonly models: ModelCachePaths
    /** The cache of models that a recorded directory is in. */
    readonly modelCacheHolding: (directory: string) => ModelCachePaths
    /** Held while a sandbox boots; there are as many as may boot at once. */
    readonly bootLock: (slot: number) => CheckedPath
    /** Held by whoever changes a model, however long that takes; in the home, wherever its files are. */
    readonly modelLock: (name: ModelName) => CheckedPath
    /** Held for moments by whoever moves a model's files, shared by those who are about to open them. */
    readonly modelPlaceLock: (name: ModelName) => CheckedPath
    readonly layerImage: (diffId: Digest) => CheckedPath
    readonly fsmeta: (manifest: Digest) => CheckedPath
    /** Manifest and config as they came. */
    readonly documents: (manifest: Digest) => CheckedPath
    readonly vmdk: (manifest: Digest) => CheckedPath
    readonly lockFile: (digest: Digest) => CheckedPath
    /** What a download of a layer's blob brought before the network was cut. */
    readonly partial: (diffId: Digest, blob: Digest) => CheckedPath
    readonly sandbox: (name: SafeName) => SandboxPaths
    readonly run: (sandboxId: number) => RunPaths
    readonly session: (id: SessionId) => SessionPaths
    /** The same by the name that a listing of `sessions` gave: `<stem>.db`. */
    readonly sessionFile: (name: string) => SessionPaths
  }
>()("bunker/Paths") {
  /** Creates what is missing below `home`, mode 0700. Fails with `HomeUnusable` where it can not be used, or is not the user's alone. */
  static readonly layer = (
    home: string,
    options: { readonly models?: string | undefined } = {}
  ): Layer.Layer<Paths, FileError> => Layer.effect(Paths, make(home, options.models))
}

/** Longest socket name below `run/<id>/`, with room for a ten-digit id. */
const socketTail = "/run/1234567890/keeper.sock".length

const modelCache = (given: string): ModelCachePaths => {
  const root = path.resolve(given)
  const at = (...parts: ReadonlyArray<string>): CheckedPath => path.join(root, ...parts) as CheckedPath
  return {
    root: at(),
    staging: at(".staging"),
    purge: at(".purge"),
    model: (name) => ({
      directory: at(name),
      staged: (id) => at(".staging", `${name}-${id}`),
      replaced: (id) => at(".purge", `${name}-${id}`),
      dropped: (id) => at(".purge", `${name}-${id}.dropped`)
    })
  }
}

const make = Effect.fnUntraced(function* (
  home: string,
  models: string | undefined
): Effect.fn.Return<Paths["Service"], FileError> {
  const root = path.resolve(home)
  if (Buffer.byteLength(root) + socketTail > 107) {
    return yield* new HomeUnusable({
      path: root,
      reason: `its path is longer than ${107 - socketTail} bytes, too long for sockets`
    })
  }
  const at = (...parts: ReadonlyArray<string>): CheckedPath => path.join(root, ...parts) as CheckedPath
  const directories = {
    temporary: at("cache", "tmp"),
    locks: at("cache", "locks"),
    boot: at("cache", "boot"),
    layers: at("cache", "layers"),
    fsmetas: at("cache", "fsmeta"),
    vmdks: at("cache", "vmdk"),
    sandboxes: at("sandboxes"),
    sessions: at("sessions"),
    secretsDirectory: at("secrets"),
    runs: at("run")
  }
  yield* Effect.forEach([root, ...Object.values(directories)], ensureDirectory).pipe(
    Effect.catchIf(
      (error) => error._tag === "StoreFailed",
      (error) =>
        new HomeUnusable({
          path: root,
          reason: ["EEXIST", "ENOTDIR", "ELOOP", "ENAMETOOLONG"].includes(error.reason)
            ? "there is something else than a directory on its path"
            : `no directory can be made there (${error.reason})`
        })
    )
  )
  // Not only the config file in it is code: definitions say what a sandbox may see of this machine.
  for (const directory of [root, ...Object.values(directories)]) {
    const wrong = yield* attemptFile("look at", directory, () =>
      directory === root ? foreignDirectory(root) : foreignFile(directory)
    )
    if (wrong !== undefined) return yield* new HomeUnusable({ path: root, reason: wrong })
  }
  const sessionFile = (name: string): SessionPaths => {
    const file = path.basename(name)
    return {
      database: at("sessions", file),
      wal: at("sessions", `${file}-wal`),
      shm: at("sessions", `${file}-shm`)
    }
  }
  const { secretsDirectory, ...rooms } = directories
  const key = { file: at("secrets", "key"), lock: at("cache", "locks", "secret-key.lock") }
  return {
    home: at(),
    secrets: { file: path.join(secretsDirectory, "store.json"), lock: at("cache", "locks", "secrets.lock"), key },
    sessionsLock: at("cache", "locks", "sessions.lock"),
    session: (id) => sessionFile(`${sessionStem(id)}.db`),
    sessionFile,
    database: at("bunker.db"),
    reserve: at("reserve"),
    userConfig: at("bunker.config.ts"),
    serverSocket: at("bunker.sock"),
    serverToken: at("token"),
    models: modelCache(models ?? at("models")),
    modelCacheHolding: (directory) => modelCache(path.dirname(directory)),
    modelLock: (name) => at("cache", "locks", `model-${name}.lock`),
    modelPlaceLock: (name) => at("cache", "locks", `model-place-${name}.lock`),
    ...rooms,
    layerImage: (diffId) => at("cache", "layers", `${digestHex(diffId)}.erofs`),
    fsmeta: (manifest) => at("cache", "fsmeta", `${digestHex(manifest)}.erofs`),
    documents: (manifest) => at("cache", "fsmeta", `${digestHex(manifest)}.json`),
    vmdk: (manifest) => at("cache", "vmdk", `${digestHex(manifest)}.vmdk`),
    partial: (diffId, blob) => at("cache", "tmp", `${digestHex(diffId)}.${digestHex(blob).slice(0, 16)}.part`),
    bootLock: (slot) => at("cache", "locks", `boot-${slot}.lock`),
    lockFile: (digest) => at("cache", "locks", `${digestHex(digest)}.lock`),
    sandbox: (name) => ({
      directory: at("sandboxes", name),
      lock: at("sandboxes", name, "lock"),
      machineFile: at("sandboxes", name, "config.toml"),
      machineLock: at("cache", "locks", `machine-${name}.lock`),
      processFile: at("sandboxes", name, "process.json"),
      creator: at("sandboxes", name, "creator"),
      entryLink: at("sandboxes", name, "entry.sock"),
      upper: at("sandboxes", name, "upper.ext4"),
      logs: at("sandboxes", name, "logs"),
      consoleLog: at("sandboxes", name, "logs", "console.log"),
      mainLog: at("sandboxes", name, "logs", "main.jsonl"),
      execLog: at("sandboxes", name, "logs", "exec.jsonl"),
      consoleLines: at("sandboxes", name, "logs", "console.jsonl"),
      networkLog: at("sandboxes", name, "logs", "network.jsonl"),
      secrets: {
        file: at("sandboxes", name, "secrets.json"),
        lock: at("cache", "locks", `secrets-${name}.lock`),
        key
      },
      interception: at("sandboxes", name, "interception.json")
    }),
    run: (sandboxId) => ({
      directory: at("run", String(sandboxId)),
      keeperSocket: at("run", String(sandboxId), "keeper.sock"),
      entrySocket: at("run", String(sandboxId), "entry.sock"),
      keeperLog: at("run", String(sandboxId), "keeper.log"),
      runnerLog: at("run", String(sandboxId), "runner.log"),
      netLog: at("run", String(sandboxId), "net.log"),
      keeperLock: at("run", String(sandboxId), "keeper.lock"),
      restartLock: at("run", String(sandboxId), "restart.lock"),
      ports: at("run", String(sandboxId), "ports.json"),
      networkSocket: at("run", String(sandboxId), "net.sock"),
      tied: at("run", String(sandboxId), "tied")
    })
  }
})
