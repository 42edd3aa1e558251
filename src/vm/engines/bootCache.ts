/**
 * Does what both engines do before a VM starts: checks the paths it will use, builds what the boot cache lacks.
 * Starts nothing. What libkrun and QEMU would notice late, or never, is refused here with the reason.
 */

import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import { StoreFailed } from "../../domain/errors/store.ts"
import { AlreadyRunning, EngineUnavailable, type GuestChannelFailed, LibraryNotFound } from "../../domain/errors/vm.ts"
import { type Located, locateLibkrun, locateLibkrunfw } from "../../ffi/locate.ts"
import { tryLockExclusive } from "../../ffi/posix.ts"
import type { RunnerConfig, RunnerDisk } from "../runner/protocol.ts"
import type { StartRunner } from "../runner/start.ts"
import { cachedInitDisk } from "./initDisk.ts"
import { publish } from "./publish.ts"
import type { EngineKind, EngineOptions, VmConfig } from "./types.ts"

/** A unix socket's path has at most 107 bytes (unix(7)); the names in a run directory have at most 16. */
const RUN_DIR_BYTES_MAX = 90

/** Name of the socket that the guest's vsock port leads to. */
export const guestSocket = (runDir: string): string => path.join(runDir, "guest.sock")

/** Most slots of a qemu VM: one for control, sixteen for what runs at the same time. virtio-serial has room for thirty. */
const SLOTS_MAX = 17
/** Fewest: control, and two for what runs. */
const SLOTS_MIN = 3
/** MiB that a slot takes of the guest's memory: its driver fills a queue of 1,024 pages, for QEMU's virtio-mmio offers no less. */
const SLOT_MB = 4
/** MiB that kernel, console and agent need. */
const KERNEL_MB = 40

/** Slots of a qemu VM with so much memory: they take at most half of what the kernel leaves. */
export const slotCount = (memoryMb: number): number =>
  Math.max(SLOTS_MIN, Math.min(SLOTS_MAX, Math.floor((memoryMb - KERNEL_MB) / (2 * SLOT_MB))))

/** Unix sockets of the slots, in their order; without a count every one that there can be. */
export const slotSockets = (runDir: string, count: number = SLOTS_MAX): ReadonlyArray<string> =>
  Array.from({ length: count }, (_, index) => path.join(runDir, `slot${index}.sock`))

/** The file that holds `pid start-ticks` of the VM's process. */
const pidFile = (runDir: string): string => path.join(runDir, "pid")

const INSTALL =
  "install libkrun, or the npm package bunker-sandbox-linux-x64 (in a checkout: libkrun-linux-x64); 'bunker doctor' shows what is missing"

const found = (library: string, located: Located): Effect.Effect<string, LibraryNotFound> =>
  located.path === undefined
    ? Effect.fail(new LibraryNotFound({ library, looked: located.looked, advice: INSTALL }))
    : Effect.succeed(located.path)

export const findLibkrun = (options: EngineOptions): Effect.Effect<string, LibraryNotFound> =>
  Effect.suspend(() => found("libkrun.so.1", locateLibkrun({ explicit: options.libkrun, native: options.native })))

export const findLibkrunfw = (options: EngineOptions): Effect.Effect<string, LibraryNotFound> =>
  Effect.suspend(() =>
    found("libkrunfw.so.5", locateLibkrunfw({ explicit: options.libkrunfw, native: options.native }))
  )

/** Builds or finds something in the boot cache; what goes wrong is a typed failure that names the cache. */
export const fromBootCache = <A>(
  what: string,
  options: EngineOptions,
  make: () => A | Promise<A>
): Effect.Effect<A, StoreFailed> =>
  Effect.tryPromise({
    try: async () => make(),
    catch: (cause) =>
      new StoreFailed({
        operation: `build ${what} in`,
        path: options.bootCacheDir,
        reason: cause instanceof Error ? cause.message : String(cause)
      })
  })

/** A program of this build as a file that can be executed: inside the one compiled binary it can not. */
export const executable = (options: EngineOptions, file: string): string => {
  if (!file.startsWith("/$bunfs/")) return file
  // The bundler puts a digest of the content into the name.
  const copy = path.join(options.bootCacheDir, path.basename(file))
  if (!fs.existsSync(copy)) publish(copy, fs.readFileSync(file), 0o700)
  return copy
}

/** What becomes a VM: the runner in C where there is one, else Bun. */
export const runnerCommand = (options: EngineOptions): Effect.Effect<ReadonlyArray<string>, StoreFailed> =>
  fromBootCache("the launcher", options, () => {
    const { launcherPath } = options
    const built = launcherPath !== undefined && (fs.statSync(launcherPath, { throwIfNoEntry: false })?.size ?? 0) > 0
    return built ? [executable(options, launcherPath)] : options.runnerCommand
  })

/** Fails when the agent was not built. */
export const checkAgent = (kind: EngineKind, options: EngineOptions): Effect.Effect<void, EngineUnavailable> =>
  fs.existsSync(options.agentPath)
    ? Effect.void
    : Effect.fail(
        new EngineUnavailable({
          engine: kind,
          reason: `the guest agent ${options.agentPath} is missing`,
          advice:
            "install the npm package bunker-sandbox-linux-x64, or build it in a checkout with native/guest/build.sh"
        })
      )

/** All disks of a VM, the init disk first, each checked to be a file that can be opened as it will be. */
export const prepareDisks = Effect.fn("Engine.prepareDisks")(function* (
  config: VmConfig,
  options: EngineOptions
): Effect.fn.Return<ReadonlyArray<RunnerDisk>, StoreFailed> {
  if (Buffer.byteLength(config.runDir) > RUN_DIR_BYTES_MAX) {
    return yield* new StoreFailed({
      operation: "make sockets in",
      path: config.runDir,
      reason: `a path of more than ${RUN_DIR_BYTES_MAX} bytes leaves no room for a socket's name; set BUNKER_HOME to a shorter one`
    })
  }
  for (const disk of config.disks) {
    yield* Effect.try({
      try: () => {
        const fd = fs.openSync(disk.path, disk.readOnly ? "r" : "r+")
        try {
          if (fs.fstatSync(fd).size === 0) throw new Error("it is empty")
        } finally {
          fs.closeSync(fd)
        }
      },
      catch: (cause) => {
        const code = (cause as NodeJS.ErrnoException).code
        return new StoreFailed({ operation: "open disk", path: disk.path, reason: code ?? (cause as Error).message })
      }
    })
  }
  const init = yield* fromBootCache("the init disk", options, () =>
    cachedInitDisk(options.bootCacheDir, options.agentPath)
  )
  return [{ path: init, format: "raw", readOnly: true }, ...config.disks]
})

/** The sandbox that a lock file belongs to: `sandboxes/<name>/lock`. */
const lockName = (lockPath: string): string => path.basename(path.dirname(lockPath))

/**
 * Runs `use` with the sandbox's lock, or fails when a VM of it lives. The descriptor is closed afterwards; the lock goes
 * on in the process that it was handed to. Sockets are made inside, so a second start can not break the first one's.
 */
export const withLock = <A, E, R>(
  lockPath: string,
  use: (lockFd: number) => Effect.Effect<A, E, R>
): Effect.Effect<A, E | AlreadyRunning | StoreFailed, R> =>
  Effect.acquireUseRelease(
    Effect.try({
      try: () => fs.openSync(lockPath, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o600),
      catch: (cause) =>
        new StoreFailed({
          operation: "open lock",
          path: lockPath,
          reason: (cause as NodeJS.ErrnoException).code ?? String(cause)
        })
    }),
    (fd): Effect.Effect<A, E | AlreadyRunning, R> =>
      tryLockExclusive(fd) ? use(fd) : Effect.fail(new AlreadyRunning({ sandbox: lockName(lockPath) })),
    (fd) => Effect.sync(() => fs.closeSync(fd))
  )

/** A channel that can not even be set up is a directory that can not hold its sockets. */
export const asStoreFailed =
  (runDir: string) =>
  (failure: GuestChannelFailed): StoreFailed =>
    new StoreFailed({ operation: "make sockets in", path: runDir, reason: failure.reason })

/** What the runner of any engine is told of a VM. `lockFd`: of its lock, which is held; `start`: what the engine is to start. */
export const runnerOf = (
  config: VmConfig,
  command: ReadonlyArray<string>,
  lockFd: number,
  start: RunnerConfig["start"]
): StartRunner => ({
  command,
  runDir: config.runDir,
  lockFd,
  ...(config.card === undefined ? {} : { card: config.card }),
  onProcess: config.onProcess ?? (() => Effect.void),
  name: lockName(config.lockPath),
  config: {
    version: 1,
    parentPid: process.pid,
    dieWithParent: config.dieWithParent,
    pidPath: pidFile(config.runDir),
    start
  }
})
