/**
 * Finds, lists, creates and removes sandboxes as records and files: rows, directories, definitions. Part of VmSupervisor; knows no
 * keeper and boots nothing.
 *
 * Invariants: a failed create leaves nothing; a definition that is there, even one that can not be understood, is never overwritten.
 */
import fs from "node:fs"
import { Clock, Effect, Redacted, Schema } from "effect"
import { SecretNotFound } from "../../domain/errors/secret.ts"
import { StoreFailed } from "../../domain/errors/store.ts"
import { AlreadyExists, ImageMoved, InvalidSpec, SandboxNotFound } from "../../domain/errors/vm.ts"
import { canonicalReference, parseReference } from "../../domain/image/reference.ts"
import { parseName, SafeName } from "../../domain/name.ts"
import { valueProblem } from "../../domain/network/secrets.ts"
import { isTerminal, type SandboxConfig, type SandboxInfo } from "../../domain/sandbox/sandbox.ts"
import { sandboxProblem } from "../../domain/sandbox/validation.ts"
import { Database } from "../../store/database/Database.ts"
import { hasForgottenRoot } from "../../store/database/imageCollection.ts"
import { rootManifest } from "../../store/database/images.ts"
import {
  deleteSandbox,
  forgetSandbox,
  insertSandbox,
  linkRootfs,
  unreadableSandboxes
} from "../../store/database/sandboxes.ts"
import { findMachine } from "../../store/database/syncDefinitions.ts"
import {
  loadMachine,
  removeMachine,
  saveLocked,
  updateMachine,
  withMachineLock
} from "../../store/files/definitions.ts"
import { attemptFile, ensureDirectory, removeBelow } from "../../store/files/files.ts"
import { Paths } from "../../store/files/Paths.ts"
import { isAlive, signalProcess } from "../../store/processes/processes.ts"
import { leaseToken } from "../../store/processes/processToken.ts"
import { listSecrets, setSecrets } from "../../store/secrets/secretFile.ts"
import { makeImageFiles } from "../images/cacheFiles.ts"
import { ImageStore } from "../images/ImageStore.ts"
import { checkPorts } from "../keeper/network/publishedPorts.ts"
import { settleMounts } from "../keeper/resolveMounts.ts"
import { LeaseManager } from "../leases/LeaseManager.ts"
import { leaseImage } from "../leases/leaseImage.ts"
import { removeDirectories } from "./Sweeper.ts"

const SIGKILL = 9
const isName = Schema.is(SafeName)

export interface CreateRequest {
  readonly name?: string
  readonly ephemeral: boolean
  readonly config: SandboxConfig
  /** Values of its secrets that refer to none of the store. */
  readonly secretValues?: Readonly<Record<string, Redacted.Redacted<string>>>
  /** A sandbox of the same name is stopped and removed once everything else was checked. */
  readonly replace?: boolean
}

/** What only shows when it is too late: engines would say that the guest ended early, the guest that a field is wrong. */
const checkDefinition = (config: SandboxConfig, ephemeral: boolean): Effect.Effect<void, InvalidSpec> => {
  const problem = sandboxProblem(config, ephemeral)
  return problem === undefined ? Effect.void : Effect.fail(new InvalidSpec(problem))
}

/** Each secret has a value: one that came along, or one of the store. */
const checkSecrets = Effect.fnUntraced(function* (
  paths: Paths["Service"],
  { secrets = [] }: SandboxConfig,
  values: CreateRequest["secretValues"] = {}
) {
  const wrong = (reason: string) => new InvalidSpec({ field: "secrets", reason })
  const own = secrets.filter(({ store }) => store === undefined).map(({ name }) => name)
  for (const [name, value] of Object.entries(values)) {
    const problem = own.includes(name) ? valueProblem(Redacted.value(value)) : "no secret of that name takes it"
    if (problem !== undefined) return yield* wrong(`the value of ${name.slice(0, 64)} can not be used: ${problem}`)
  }
  const without = own.find((name) => !Object.hasOwn(values, name))
  if (without !== undefined) return yield* wrong(`${without} has no value; give one, or name a secret of the store`)
  const named = secrets.flatMap(({ store }) => (store === undefined ? [] : [store]))
  if (named.length === 0) return
  const stored = (yield* listSecrets(paths.secrets)).map(({ name }) => name)
  const missing = named.find((name) => !stored.includes(name))
  if (missing !== undefined) return yield* new SecretNotFound({ secret: missing })
})

export const makeRecords = Effect.gen(function* () {
  const db = yield* Database
  const paths = yield* Paths
  const images = yield* ImageStore
  const leases = yield* LeaseManager
  const files = yield* makeImageFiles

  const find = Effect.fnUntraced(function* (text: string) {
    const name = yield* parseName(text)
    const record = yield* findMachine(db, paths, name)
    if (record === undefined) return yield* new SandboxNotFound({ sandbox: name })
    return record
  })

  /** Runs `use` with an image that stays here meanwhile. */
  const leasing = <A, E, R>(
    request: { readonly reference: string; readonly sandboxId?: number },
    use: (manifestDigest: string) => Effect.Effect<A, E, R>
  ) =>
    leaseImage(images, leases, request).pipe(
      Effect.flatMap(({ manifestDigest }) => use(manifestDigest)),
      Effect.scoped
    )

  interface Checked {
    readonly name: SafeName
    readonly config: SandboxConfig
    readonly manifestDigest: string
  }

  const insertEphemeral = Effect.fnUntraced(function* ({ name, config, manifestDigest }: Checked) {
    const nowMs = yield* Clock.currentTimeMillis
    const id = yield* insertSandbox(db, { name, config, ephemeral: true, manifestDigest, nowMs })
    const { creator, directory } = paths.sandbox(name)
    // For the sweep: one that was never started goes with whoever made it.
    const said = attemptFile("write", creator, () => fs.writeFileSync(creator, leaseToken(), { mode: 0o600 }))
    yield* Effect.andThen(ensureDirectory(directory), said).pipe(
      Effect.onError(() =>
        Effect.ignore(Effect.andThen(removeBelow(paths.sandboxes, directory), deleteSandbox(db, id)))
      )
    )
  })

  /** Directory, definition, row, in this order: what is left by a crash in between is a machine, too. */
  const insertMachine = ({ name, config, manifestDigest }: Checked) =>
    withMachineLock(
      paths,
      name,
      Effect.gen(function* () {
        const { directory, machineFile } = paths.sandbox(name)
        if (fs.existsSync(machineFile)) return yield* new AlreadyExists({ sandbox: name })
        const nowMs = yield* Clock.currentTimeMillis
        const vmId = crypto.randomUUID()
        const fresh = yield* attemptFile("make directory", directory, () => {
          const made = !fs.existsSync(directory)
          fs.mkdirSync(directory, { recursive: true, mode: 0o700 })
          return made
        })
        yield* saveLocked(paths, {
          name,
          vmId,
          state: "created",
          createdAt: nowMs,
          config,
          imageDigest: manifestDigest
        }).pipe(
          Effect.flatMap((configStamp) =>
            insertSandbox(db, { name, config, ephemeral: false, manifestDigest, nowMs, vmId, configStamp })
          ),
          Effect.onError(() =>
            fresh
              ? Effect.ignore(removeBelow(paths.sandboxes, directory))
              : Effect.sync(() => fs.rmSync(machineFile, { force: true }))
          )
        )
      })
    )

  const keepValues = ({ name }: Checked, values: CreateRequest["secretValues"] = {}) =>
    Object.keys(values).length === 0
      ? Effect.void
      : setSecrets(paths.sandbox(name).secrets, new Map(Object.entries(values))).pipe(
          Effect.onError(() => Effect.ignore(Effect.flatMap(find(name), ({ info }) => remove(info))))
        )

  /** Fails with what a create would fail with, its image aside: that may not be here yet. */
  const check = Effect.fn("Records.check")(function* (request: CreateRequest) {
    const name = yield* parseName(request.name ?? `box-${crypto.randomUUID().slice(0, 8)}`)
    const image = canonicalReference(yield* parseReference(request.config.image))
    const config = { ...request.config, image }
    yield* checkDefinition(config, request.ephemeral)
    yield* checkSecrets(paths, config, request.secretValues)
    yield* settleMounts(config).pipe(Effect.provideService(Paths, paths))
    const before = yield* findMachine(db, paths, name)
    // One that only waits for a reader makes room.
    const spent = before?.info.ephemeral === true && isTerminal(before.info.status)
    if (before !== undefined && request.replace !== true && !spent) return yield* new AlreadyExists({ sandbox: name })
    yield* checkPorts(config, before?.info).pipe(
      Effect.provideService(Paths, paths),
      Effect.provideService(Database, db)
    )
    return { name, config, before }
  })

  /** Checks everything, then records it. `retire` takes the sandbox of the same name away when that was asked for. */
  const create = Effect.fn("Records.create")(function* <E, R>(
    request: CreateRequest,
    retire: (name: SafeName) => Effect.Effect<void, E, R>
  ) {
    const { name, config, before } = yield* check(request)
    // The lease keeps the image until the sandbox's own row does.
    yield* leasing({ reference: config.image }, (manifestDigest) =>
      Effect.gen(function* () {
        if (before !== undefined) yield* retire(name)
        const checked = { name, config, manifestDigest }
        yield* request.ephemeral ? insertEphemeral(checked) : insertMachine(checked)
        yield* keepValues(checked, request.secretValues)
      })
    )
    return name
  })

  /**
   * Makes sure that a machine knows its root file system: one that came as a file, or whose file names another image now, looks
   * its image up, and refuses to put a disk over another image than the one it was written over. Answers what its file asks for in
   * vain.
   */
  const root = Effect.fn("Records.root")(function* (info: SandboxInfo) {
    if (info.ephemeral) return []
    const { machine, unheeded } = yield* loadMachine(paths, info.name)
    // A person may have edited it.
    yield* checkDefinition(info.config, false)
    if ((yield* rootManifest(db, info.id)) !== undefined) return unheeded
    if (info.config.image === "") {
      return yield* new InvalidSpec({ field: "image", reason: `the definition of "${info.name}" names none` })
    }
    const { imageDigest } = machine
    // The very manifest may be here under another name.
    if (imageDigest !== undefined && (yield* linkRootfs(db, info.id, imageDigest))) return unheeded
    yield* leasing({ reference: info.config.image }, (manifestDigest) =>
      Effect.gen(function* () {
        if (
          imageDigest !== undefined &&
          imageDigest !== manifestDigest &&
          fs.existsSync(paths.sandbox(info.name).upper)
        ) {
          return yield* new ImageMoved({
            sandbox: info.name,
            image: info.config.image,
            was: imageDigest,
            is: manifestDigest
          })
        }
        yield* linkRootfs(db, info.id, manifestDigest)
        yield* updateMachine(paths, info.name, (old) => ({ ...old, imageDigest: manifestDigest }))
      })
    )
    return unheeded
  })

  /** Takes directories and row away; the caller has made sure that it is not live. */
  const remove = Effect.fn("Records.remove")(function* (info: SandboxInfo) {
    const both = Effect.gen(function* () {
      if (!(yield* removeDirectories(paths, info))) {
        return yield* new StoreFailed({
          operation: "remove",
          path: paths.sandbox(info.name).directory,
          reason: "something in it could not be removed; the sandbox is kept for another try"
        })
      }
      yield* deleteSandbox(db, info.id)
    })
    const forgotten = yield* hasForgottenRoot(db, info.id)
    yield* info.ephemeral ? both : removeMachine(paths, info.name, both)
    if (forgotten) yield* Effect.ignore(files.collectUnused)
  })

  /** Takes away the directory of a definition that can not be understood and of which nothing else is known. */
  const removeBroken = (name: SafeName) =>
    removeMachine(paths, name, removeBelow(paths.sandboxes, paths.sandbox(name).directory))

  /**
   * Takes away a sandbox whose row can not be read, by its name or number, with its VM and its directories. False when there is no
   * such row.
   */
  const removeUnreadable = Effect.fnUntraced(function* (text: string) {
    const row = (yield* unreadableSandboxes(db)).find(({ id, name }) => name === text || String(id) === text)
    if (row === undefined) return false
    if (row.process !== undefined && isAlive(row.process)) signalProcess(row.process, SIGKILL)
    yield* removeBelow(paths.runs, paths.run(row.id).directory)
    if (isName(row.name)) yield* removeBroken(row.name)
    yield* forgetSandbox(db, row.id)
    return true
  })

  return { find, check, create, root, remove, removeBroken, removeUnreadable }
})
