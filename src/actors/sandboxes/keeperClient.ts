/**
 * Finds, hosts and starts the keepers of VMs: in this process for foreground runs, in a process of their own for detached ones.
 * Part of VmSupervisor, which owns it.
 */

import fs from "node:fs"
import net from "node:net"
import os from "node:os"
import { Clock, Effect, Exit, Layer, Result, Schedule, Schema, Scope } from "effect"
import { formatDuration } from "../../domain/duration.ts"
import { type StartError, StartErrors } from "../../domain/errors/groups.ts"
import { SupervisorUnreachable } from "../../domain/errors/vm.ts"
import type { SandboxInfo } from "../../domain/sandbox/sandbox.ts"
import { Database } from "../../store/database/Database.ts"
import { findSandbox } from "../../store/database/sandboxes.ts"
import { attemptFile, ensureDirectory } from "../../store/files/files.ts"
import { holderOf, isLocked, withAnyLock } from "../../store/files/lock.ts"
import { openLog } from "../../store/files/logs.ts"
import { Paths, type RunPaths } from "../../store/files/Paths.ts"
import { savedImage } from "../../store/files/runFile.ts"
import { identify, isAlive, isStopped } from "../../store/processes/processes.ts"
import type { Engines } from "../../vm/engines/Engine.ts"
import { ImageStore } from "../images/ImageStore.ts"
import { AgentTimeoutMs, watchAgent } from "../keeper/agentWatch.ts"
import { adoptVm, bootVm } from "../keeper/boot.ts"
import { keeperBehaviour, type Records } from "../keeper/Keeper.ts"
import { enforceLimits } from "../keeper/lifetime.ts"
import { makeMainCommand } from "../keeper/mainCommand.ts"
import type { KeeperAddress } from "../keeper/protocol.ts"
import { KeeperProtocol } from "../keeper/protocol.ts"
import type { KeptVm } from "../keeper/runningVm.ts"
import { local, supervised } from "../kit/Actor.ts"
import { LeaseManager } from "../leases/LeaseManager.ts"
import { leaseImage } from "../leases/leaseImage.ts"
import type { Sweeper } from "./Sweeper.ts"

export interface KeeperOptions {
  /** Program and arguments before the sandbox's name, like `[bunker, "__keeper"]`. */
  readonly keeperCommand: ReadonlyArray<string>
  /** Environment of keeper processes: nothing else of this process's is passed on. */
  readonly keeperEnv: Readonly<Record<string, string>>
  /** Engine of a sandbox whose maker names none; default `auto`. */
  readonly engine?: string | undefined
}

/** One line that a keeper process writes when it knows how the start went. */
export const KeeperReport = Schema.Union([
  Schema.Struct({ ok: Schema.Literal(true) }),
  Schema.Struct({ ok: Schema.Literal(false), error: StartErrors })
])
const decodeReport = Schema.decodeUnknownEffect(Schema.fromJsonString(KeeperReport))

/** Longest wait of somebody who can do without for a new keeper, in milliseconds. */
const ensureMs = 10_000

/** Time for who has a keeper's lock to listen, beside the agent's to answer, in milliseconds. */
const serveMs = 3000

/** Time that a run in the foreground has for itself before it listens to other processes. */
const serveAfter = "250 millis"

/** Sandboxes of a home that boot at once, over all processes: a boot keeps a processor busy, and more would only make each time out. */
export const bootsMax = Math.max(2, os.availableParallelism())

/** Longest wait for one's turn to boot, in milliseconds. */
const bootWaitMs = 180_000

/** Longest report line, in bytes. */
const reportBytesMax = 65_536

export const makeKeepers = Effect.fnUntraced(function* (options: KeeperOptions) {
  const db = yield* Database
  const paths = yield* Paths
  const scope = yield* Effect.scope
  const context = yield* Effect.context<
    Database | Paths | Engines | ImageStore | LeaseManager | Sweeper | Scope.Scope
  >()
  /** `socket`: identity of the socket of a keeper in another process, undefined for one in this. */
  const known = new Map<
    string,
    { readonly address: KeeperAddress; readonly scope: Scope.Closeable; readonly socket: string | undefined }
  >()

  const remember = (info: SandboxInfo, address: KeeperAddress, own: Scope.Closeable, socket?: string) =>
    Effect.as(
      Effect.sync(() => known.set(info.name, { address, scope: own, socket })),
      address
    )
  const forget = (name: string) =>
    Effect.suspend(() => {
      const entry = known.get(name)
      known.delete(name)
      return entry === undefined ? Effect.void : Scope.close(entry.scope, Exit.void)
    })

  /** Boots here; the VM ends with this process. */
  const host = Effect.fn("Keepers.host")(function* (info: SandboxInfo) {
    yield* forget(info.name)
    const own = yield* Scope.fork(scope)
    const { address } = yield* hostVm(info, { adopt: false, dieWithParent: true }).pipe(
      Effect.provideContext(context),
      Scope.provide(own),
      Effect.onError(() => Scope.close(own, Exit.void))
    )
    yield* remember(info, address, own)
  })

  /** Starts a keeper process and waits for its report. */
  const spawn = Effect.fn("Keepers.spawn")(function* (
    info: SandboxInfo,
    adopt = false
  ): Effect.fn.Return<void, StartError> {
    yield* forget(info.name)
    const run = paths.run(info.id)
    yield* ensureDirectory(run.directory)
    const line = yield* Effect.acquireUseRelease(
      attemptFile("create", run.keeperLog, () => fs.openSync(run.keeperLog, "a", 0o600)),
      (log) =>
        Effect.promise(() =>
          startKeeper([...options.keeperCommand, info.name, ...(adopt ? ["--adopt"] : [])], options.keeperEnv, log)
        ),
      (log) => Effect.sync(() => fs.closeSync(log))
    )
    const report = yield* decodeReport(line).pipe(
      Effect.mapError(
        () =>
          new SupervisorUnreachable({
            sandbox: info.name,
            reason: `its keeper ended without a word; see ${run.keeperLog}`
          })
      )
    )
    if (!report.ok) return yield* report.error
  })

  /** Starts a keeper process for what was left behind, and waits for nothing: whoever comes too late ends by itself. */
  const leave = Effect.fn("Keepers.leave")(function* (info: SandboxInfo, what: "adopt" | "restart") {
    const run = paths.run(info.id)
    yield* ensureDirectory(run.directory)
    yield* attemptFile("start a keeper for", run.keeperLog, () => {
      const log = fs.openSync(run.keeperLog, "a", 0o600)
      try {
        const command = [...options.keeperCommand, info.name, `--${what}`]
        Bun.spawn(command, {
          cwd: "/",
          env: { ...options.keeperEnv },
          stdio: ["ignore", "ignore", log],
          detached: true
        }).unref()
      } finally {
        fs.closeSync(log)
      }
    })
  })

  /** The keeper that answers now, here or in another process. */
  const existing = Effect.fnUntraced(function* (info: SandboxInfo) {
    const { keeperSocket } = paths.run(info.id)
    const socket = identityOf(keeperSocket)
    const here = known.get(info.name)
    if (here !== undefined && (here.socket === undefined || (here.socket === socket && (yield* answers(keeperSocket)))))
      return here.address
    // Another keeper has taken over since.
    yield* forget(info.name)
    if (!(yield* answers(keeperSocket))) {
      return yield* new SupervisorUnreachable({ sandbox: info.name, reason: "nobody listens on its socket" })
    }
    const still = stoppedHolder(paths.run(info.id).keeperLock)
    if (still !== undefined) return yield* new SupervisorUnreachable({ sandbox: info.name, reason: still })
    const own = yield* Scope.fork(scope)
    const { connectUnix } = yield* sockets
    const address = yield* Scope.provide(connectUnix(KeeperProtocol, keeperSocket), own)
    return yield* remember(info, address, own, socket)
  })

  /** The same; a VM that lives without a keeper gets a new one first. */
  const address = Effect.fn("Keepers.address")(function* (info: SandboxInfo) {
    return yield* existing(info).pipe(
      Effect.catchTag("SupervisorUnreachable", () =>
        Effect.gen(function* () {
          const { keeperLock } = paths.run(info.id)
          const still = stoppedHolder(keeperLock)
          if (still !== undefined) return yield* new SupervisorUnreachable({ sandbox: info.name, reason: still })
          const record = yield* findSandbox(db, info.name)
          const alive = record?.process !== undefined && isAlive(record.process)
          if (!alive) return yield* new SupervisorUnreachable({ sandbox: info.name, reason: "its process is gone" })
          const adopted = yield* Effect.result(spawn(info, true))
          // Somebody else may be adopting it right now.
          const waitMs = (yield* AgentTimeoutMs) + serveMs
          const found = yield* Effect.result(
            existing(info).pipe(
              Effect.retry({ while: () => isLocked(keeperLock), schedule: Schedule.spaced("50 millis") }),
              Effect.timeoutOrElse({
                duration: waitMs,
                orElse: () =>
                  Effect.fail(new SupervisorUnreachable({ sandbox: info.name, reason: deaf(keeperLock, waitMs) }))
              })
            )
          )
          if (Result.isSuccess(found)) return found.success
          if (Result.isSuccess(adopted) || isLocked(keeperLock)) return yield* found.failure
          return yield* new SupervisorUnreachable({ sandbox: info.name, reason: adopted.failure.message })
        })
      )
    )
  })

  /** True while a process keeps the VM: it will record the end itself. */
  const isKept = (id: number) => Effect.sync(() => isLocked(paths.run(id).keeperLock))

  /** True of a VM that ends with the process that keeps it. */
  const isTied = (id: number) => Effect.sync(() => fs.existsSync(paths.run(id).tied))

  /** Sees to it that a VM that runs has a keeper, which brings what its command said meanwhile into the log. */
  const ensure = Effect.fnUntraced(function* (info: SandboxInfo) {
    if (info.status !== "running" || (yield* isKept(info.id))) return
    yield* address(info).pipe(Effect.ignore, Effect.timeoutOption(ensureMs))
  })

  /** True while a process waits to start it again. */
  const isAwaited = (id: number) => Effect.sync(() => isLocked(paths.run(id).restartLock))

  /** Waits until whoever kept a VM that has ended has let go of its directories, for a few seconds at most. */
  const released = (info: SandboxInfo) =>
    Effect.andThen(
      forget(info.name),
      isKept(info.id).pipe(
        Effect.repeat({
          while: (kept) => kept,
          schedule: Schedule.spaced("20 millis").pipe(Schedule.upTo({ times: 250 }))
        })
      )
    )

  return { host, spawn, leave, existing, address, ensure, isKept, isTied, isAwaited, released }
})

export type Keepers = Effect.Success<ReturnType<typeof makeKeepers>>

/** Boots or adopts in this process and serves the keeper to others; the scope keeps both. */
export const hostVm = Effect.fnUntraced(function* (
  info: SandboxInfo,
  how: { readonly adopt: boolean; readonly dieWithParent: boolean; readonly restartAt?: number }
) {
  const db = yield* Database
  const paths = yield* Paths
  const images = yield* ImageStore
  const leases = yield* LeaseManager
  /** Ends once the VM has its disks open. */
  const using = yield* Scope.make()
  const vm: KeptVm = yield* Effect.gen(function* () {
    const lease = leaseImage(images, leases, { reference: info.config.image, sandboxId: info.id }).pipe(
      Scope.provide(using)
    )
    const { dieWithParent, restartAt } = how
    const more = restartAt === undefined ? {} : { restartAt }
    if (!how.adopt) {
      yield* tie(paths.run(info.id), dieWithParent)
      const boot = Effect.flatMap(lease, (image) => bootVm({ info, image, dieWithParent, ...more }))
      return yield* withAnyLock(
        Array.from({ length: bootsMax }, (_, slot) => paths.bootLock(slot)),
        bootWaitMs,
        boot
      )
    }
    const record = yield* findSandbox(db, info.name)
    if (record?.process === undefined)
      return yield* new SupervisorUnreachable({ sandbox: info.name, reason: "its process is gone" })
    // Its disks are open and its records hold them: only a definition of an older build, or none, has to ask.
    const image = savedImage(paths, info.name) ?? (yield* lease).config
    return yield* adoptVm(image, { info: record.info, process: record.process })
  }).pipe(Effect.onExit((exit) => Scope.close(using, exit)))
  const { mainLog, execLog } = paths.sandbox(info.name)
  const records = { main: makeMainCommand(yield* openLog(mainLog)), execs: yield* openLog(execLog) }
  const address: KeeperAddress = yield* startKeeperActor(vm, records)
  const { keeperSocket } = paths.run(info.id)
  yield* attemptFile("remove", keeperSocket, () => fs.rmSync(keeperSocket, { force: true }))
  // Others who want something of a run in the foreground meanwhile find its keeper's lock, and wait.
  const serving = Effect.gen(function* () {
    yield* serve(address, keeperSocket)
    const { serveEntry } = yield* entry
    yield* serveEntry(info, vm, address)
  })
  if (how.dieWithParent) yield* Effect.forkScoped(Effect.delay(serving, serveAfter))
  else yield* serving
  const startedAt = (yield* findSandbox(db, info.name))?.info.startedAt
  yield* Effect.forkScoped(watchAgent(vm))
  yield* Effect.forkScoped(enforceLimits(vm, startedAt ?? (yield* Clock.currentTimeMillis)))
  return { vm, address, main: records.main }
})

/** Says for others whether the VM that is about to boot ends with this process. */
const tie = Effect.fnUntraced(function* (run: RunPaths, tied: boolean) {
  yield* ensureDirectory(run.directory)
  yield* attemptFile(tied ? "write" : "remove", run.tied, () =>
    tied ? fs.writeFileSync(run.tied, "", { mode: 0o600 }) : fs.rmSync(run.tied, { force: true })
  )
})

const startKeeperActor = Effect.fnUntraced(function* (vm: KeptVm, records: Records) {
  const handlers = yield* KeeperProtocol.toHandlers(supervised(KeeperProtocol, keeperBehaviour(vm, records)))
  return yield* local(KeeperProtocol, { name: "bunker/Keeper" }).pipe(Effect.provideContext(handlers))
})

/** A run that is over at once has nothing to do with another process. */
const sockets = Effect.promise(() => import("../kit/unixSocket.ts"))
const entry = Effect.promise(() => import("../keeper/fastPathSocket.ts"))

const serve = Effect.fnUntraced(function* (address: KeeperAddress, socket: string) {
  const { serveUnix } = yield* sockets
  yield* Effect.orDie(Layer.build(serveUnix(address, KeeperProtocol, socket)))
})

/** What to say, and what to do, of a process that has the lock and does not do a keeper's work. */
const deaf = (lock: string, waitedMs: number): string => {
  const holder = holderOf(lock)
  const who = holder === undefined ? "a process" : `process ${holder}`
  const end = holder === undefined ? "once that has ended" : `after 'kill -9 ${holder}'`
  return `${who} holds ${lock} and has not listened for ${formatDuration(waitedMs)}; ${end} another one takes the sandbox over`
}

/** What to say of a keeper that would never answer: the kernel takes connections for a process that stands still. */
const stoppedHolder = (lock: string): string | undefined => {
  const pid = holderOf(lock)
  const identity = pid === undefined ? undefined : identify(pid)
  if (identity === undefined || !isStopped(identity)) return undefined
  return `its keeper, process ${pid}, is stopped; 'kill -CONT ${pid}' lets it go on`
}

/** Which file it is: the number alone may be that of the socket that was there before. */
const identityOf = (file: string): string | undefined => {
  const stat = fs.statSync(file, { bigint: true, throwIfNoEntry: false })
  return stat === undefined ? undefined : `${stat.ino}:${stat.ctimeNs}`
}

/** True when a process listens on a unix socket. */
const answers = (socket: string): Effect.Effect<boolean> =>
  Effect.callback<boolean>((resume) => {
    const probe = net.connect(socket)
    probe.once("connect", () => {
      probe.destroy()
      resume(Effect.succeed(true))
    })
    probe.once("error", () => resume(Effect.succeed(false)))
    return Effect.sync(() => probe.destroy())
  })

/** Starts the process in a session of its own and answers the first line that it writes, empty when it ends without one. */
const startKeeper = async (
  command: ReadonlyArray<string>,
  env: Readonly<Record<string, string>>,
  log: number
): Promise<string> => {
  const child = Bun.spawn([...command], { cwd: "/", env: { ...env }, stdio: ["ignore", "pipe", log], detached: true })
  let text = ""
  const decoder = new TextDecoder()
  for await (const chunk of child.stdout) {
    text += decoder.decode(chunk, { stream: true })
    if (text.includes("\n") || text.length > reportBytesMax) break
  }
  // From here on it lives without us.
  child.unref()
  return text.split("\n", 1)[0] ?? ""
}
