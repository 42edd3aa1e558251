/**
 * Boots the VM of a recorded sandbox, or takes over one that lives. Runs no commands (see Keeper.ts), spawns no keeper process (see
 * VmSupervisor.ts), and leaves the records of a VM that is up to keepRecords.ts.
 *
 * Invariants: the run row with pid, start ticks and boot id is there before the guest runs; a VM that is found paused stays so.
 */

import fs from "node:fs"
import { Cause, Clock, Deferred, Effect, Option } from "effect"
import { formatDuration } from "../../domain/duration.ts"
import { StoreFailed } from "../../domain/errors/store.ts"
import {
  AlreadyRunning,
  BootFailed,
  EngineUnavailable,
  type GuestChannelFailed,
  SupervisorUnreachable,
  WrongState
} from "../../domain/errors/vm.ts"
import type { LeasedImage, RunDefaults } from "../../domain/image/image.ts"
import {
  type BootPhases,
  isLive,
  type Mount,
  predecessors,
  type SandboxInfo,
  type Status
} from "../../domain/sandbox/sandbox.ts"
import { Termination } from "../../domain/sandbox/termination.ts"
import { Database } from "../../store/database/Database.ts"
import { beginStart, findSandbox, insertRun, savePhases, terminate } from "../../store/database/sandboxes.ts"
import { readTail } from "../../store/files/boundedFile.ts"
import { attemptFile, ensureDirectory } from "../../store/files/files.ts"
import { tryFileLock } from "../../store/files/lock.ts"
import { Paths } from "../../store/files/Paths.ts"
import { saveProcess } from "../../store/files/runFile.ts"
import { awaitEnd, isStopped, type ProcessIdentity, signalProcess } from "../../store/processes/processes.ts"
import { Engines } from "../../vm/engines/Engine.ts"
import { isTransientStart } from "../../vm/engines/krun.ts"
import type { Engine, VmConfig, VmDisk } from "../../vm/engines/types.ts"
import { ensureUpper } from "../../vm/engines/writableDisk.ts"
import { channelLater } from "../../vm/guest/deferredChannel.ts"
import { connectGuest, type GuestChannel, type GuestMount } from "../../vm/guest/GuestChannel.ts"
import type { VmExit } from "../../vm/runner/start.ts"
import { withModels } from "../models/mounts.ts"
import { Sweeper } from "../sandboxes/Sweeper.ts"
import { AgentTimeoutMs, endMute } from "./agentWatch.ts"
import { openConsole } from "./consoleLog.ts"
import { agentSlackMs } from "./lifetime.ts"
import { adoptNetwork, guestNetwork, noNetwork, openNetwork } from "./network/network.ts"
import { publishPorts } from "./network/publishedPorts.ts"
import { continueProcess, makePausing, stopProcess } from "./pausing.ts"
import { keepRecords, settleDefinition, type VmHandle } from "./recordRun.ts"
import { settleMounts } from "./resolveMounts.ts"
import type { KeptVm } from "./runningVm.ts"

/** Longest time from the start of a VM to its agent's hello, in milliseconds; emulation is slower. */
const bootTimeoutMs = { krun: 30_000, qemu: 180_000 } as const

const SIGKILL = 9

export interface Boot {
  readonly info: SandboxInfo
  readonly image: LeasedImage
  /** True for a run in the foreground: the VM ends with this process. */
  readonly dieWithParent: boolean
  /** The planned restart that this is; absent: somebody asked for it. */
  readonly restartAt?: number
}

/** A sandbox as it is recorded now, and its process. */
export interface Adopted {
  readonly info: SandboxInfo
  readonly process: ProcessIdentity
}

/** Boots the VM of a sandbox; it answers when the guest is ready for commands. The scope keeps it. */
export const bootVm = Effect.fn("Keeper.boot")(function* (boot: Boot) {
  const { info } = boot
  const db = yield* Database
  const paths = yield* Paths
  const own = paths.sandbox(info.name)
  const run = paths.run(info.id)

  yield* ensureDirectory(run.directory)
  yield* claimKeeper(run.keeperLock, info)
  const ports = yield* publishPorts(info, false)
  if (!(yield* beginStart(db, info.id, yield* Clock.currentTimeMillis, boot.restartAt))) {
    return yield* startRefused(yield* statusNow(info), info, "see 'bunker ps'")
  }
  const begun = performance.now()
  return yield* Effect.gen(function* () {
    // Only now: a boot that came too late must not bring back the directory of a sandbox that was removed.
    yield* ensureDirectory(own.logs)
    const engine = yield* chooseEngine(info)
    const network = yield* openNetwork(info)
    const disks: Array<VmDisk> = [{ path: boot.image.disk, format: "vmdk", readOnly: true }]
    if (!info.ephemeral) {
      yield* ensureUpper(own.upper, info.config.diskMb)
      disks.push({ path: own.upper, format: "raw", readOnly: false })
    }
    // What a run whose keeper was killed left there.
    yield* Effect.scoped(Effect.flatMap(openConsole(own), (left) => Effect.andThen(left.collect, left.begin)))
    yield* attemptFile("create", own.consoleLog, () => fs.writeFileSync(own.consoleLog, "", { mode: 0o600 }))
    const { vm, channel, phases } = yield* withModels(
      info,
      Effect.fnUntraced(function* (models: ReadonlyArray<Mount>) {
        const mounts = yield* settleMounts(info.config, models)
        const config: VmConfig = {
          cpus: info.config.cpus,
          memoryMb: info.config.memoryMb,
          disks,
          shares: mounts.shares,
          ...(network === undefined ? {} : { card: network.card }),
          runDir: run.directory,
          consolePath: own.consoleLog,
          lockPath: own.lock,
          dieWithParent: boot.dieWithParent,
          brief: boot.dieWithParent && info.ephemeral
        }
        const prepared = performance.now()
        const started = yield* startAndGreet(engine, config, boot).pipe(
          Effect.mapError((error) => explain(error, info, own.consoleLog))
        )
        const greeted = performance.now()
        if (network !== undefined) yield* network.handedOver
        yield* prepareGuest(started.channel, info, mounts.guest).pipe(
          Effect.mapError((error) => explain(error, info, own.consoleLog, own.upper))
        )
        if (network !== undefined) {
          yield* network
            .settle(started.channel, boot.image.config.env)
            .pipe(Effect.mapError((error) => explain(error, info, own.consoleLog)))
        }
        const times = [begun, prepared, started.spawned, greeted, performance.now()]
        return { ...started, phases: phasesBetween(times) }
      })
    )
    const pausing = yield* makePausing({ info, process: vm.identity, channel, paused: false })
    const handle = { ...vm, ports, network: network === undefined ? noNetwork(info.name) : yield* network.up }
    const kept = yield* keepRecords(info, boot.image.config, handle, channel, pausing)
    yield* ports.open(kept)
    // Whoever waits for the boot does not wait for its times, and a run that is over at once needs none.
    const saved = Effect.ignore(savePhases(db, info.id, phases))
    yield* Effect.forkScoped(boot.dieWithParent ? Effect.delay(saved, phasesAfter) : saved)
    return kept
  }).pipe(Effect.onError((cause) => recordBootFailure(info, cause)))
})

/** Time that a run in the foreground has for itself. */
const phasesAfter = "250 millis"

/** From the moments at which a boot began and its phases ended, in milliseconds. */
const phasesBetween = (times: ReadonlyArray<number>): BootPhases => {
  const [prepareMs = 0, spawnMs = 0, helloMs = 0, mountMs = 0] = times
    .slice(1)
    .map((time, i) => Math.round(time - times[i]!))
  return { prepareMs, spawnMs, helloMs, mountMs }
}

/** Takes over a VM that lives while its keeper is gone: the agent calls again by itself, that of a paused VM once it runs on. */
export const adoptVm = Effect.fn("Keeper.adopt")(function* (image: RunDefaults, { info, process }: Adopted) {
  const run = yield* Effect.map(Paths, (paths) => paths.run(info.id))
  yield* claimKeeper(run.keeperLock, info)
  const ports = yield* publishPorts(info, true)
  // What somebody else stopped is paused, too: it could not answer, and would be taken for broken.
  const paused = info.status === "paused" || (info.status === "running" && isStopped(process))
  if (paused) yield* stopProcess(process)
  else continueProcess(process)
  const engine = (yield* Engines).get(info.engine === "krun" ? "krun" : "qemu")
  const timeoutMs = yield* AgentTimeoutMs
  const transport = yield* engine.attach({ runDir: run.directory })
  const greeting = Effect.andThen(connectGuest(transport), (found) =>
    // Its mounts are as they were: the agent boots once.
    Effect.as(prepareGuest(found, info, []), found)
  )
  const exited = Effect.as(awaitEnd(process), { code: undefined, signal: undefined, report: undefined, output: "" })
  const kill = Effect.andThen(
    Effect.sync(() => signalProcess(process, SIGKILL)),
    exited
  )
  const lost = yield* Deferred.make<string>()
  const network = yield* adoptNetwork(info, (reason) => Deferred.doneUnsafe(lost, Effect.succeed(reason)))
  const vm: VmHandle = { identity: process, transport, exited, kill: Effect.asVoid(kill), network, ports }
  const own = { info, process, paused }
  if (!paused) {
    const channel = yield* greeting.pipe(
      Effect.timeoutOrElse({
        duration: timeoutMs,
        orElse: () =>
          Effect.gen(function* () {
            const reason = `its agent did not answer for ${formatDuration(timeoutMs)}`
            yield* endMute(info, process, reason)
            return yield* new SupervisorUnreachable({ sandbox: info.name, reason })
          })
      })
    )
    const kept = yield* keepRecords(info, image, vm, channel, yield* makePausing({ ...own, channel }))
    yield* ports.open(kept)
    yield* Effect.forkScoped(endWithCard(kept, Deferred.await(lost)))
    return kept
  }
  const greeted = yield* Deferred.make<GuestChannel, GuestChannelFailed>()
  const channel = channelLater(transport, Deferred.await(greeted))
  const end = new Termination({
    ...nothing,
    exitSignal: "SIGKILL",
    reason: "agent_unresponsive",
    detail: "after a pause"
  })
  const act = Effect.suspend(() => {
    kept.expect(end)
    return vm.kill
  })
  const pausing = yield* makePausing({ ...own, channel, mute: { answerMs: timeoutMs, act } })
  const kept: KeptVm = yield* keepRecords(info, image, vm, channel, pausing)
  yield* Effect.forkScoped(Effect.andThen(pausing.running, Deferred.into(greeting, greeted)))
  yield* ports.open(kept)
  yield* Effect.forkScoped(endWithCard(kept, Deferred.await(lost)))
  return kept
})

/** The process of a VM whose card has lost its other end may spin for ever. */
const endWithCard = (vm: KeptVm, lost: Effect.Effect<string>) =>
  Effect.flatMap(lost, (reason) => {
    vm.expect(new Termination({ ...nothing, reason: "internal_error", detail: `its network is lost: ${reason}` }))
    return vm.kill
  })

const nothing = { exitCode: null, exitSignal: null, detail: null }

/** One keeper at a time: the lock is held as long as this process keeps the VM. */
const claimKeeper = Effect.fnUntraced(function* (lock: string, info: SandboxInfo) {
  for (let turn = 0; !(yield* tryFileLock(lock)); turn += 1) {
    // Somebody who only looks whether the lock is held has it for an instant; who is about to start or to go, for some more.
    const status = turn < claimTurns ? undefined : yield* statusNow(info)
    if (status !== undefined && (isLive(status) || turn >= claimTurnsMax)) {
      return yield* startRefused(status, info, "the process that kept it has not let go of it yet; try again")
    }
    yield* Effect.sleep("10 millis")
  }
})

/** Turns of 10 ms in which a lock is tried before the record is asked who has it, and in which that may say nothing. */
const claimTurns = 10
const claimTurnsMax = 200

/** What it is by now: it may have been started since it was looked up. */
const statusNow = Effect.fnUntraced(function* (info: SandboxInfo) {
  return (yield* findSandbox(yield* Database, info.name))?.info.status ?? info.status
})

const startRefused = (status: Status, { name }: SandboxInfo, advice: string): AlreadyRunning | WrongState => {
  if (status === "running") return new AlreadyRunning({ sandbox: name })
  if (status === "starting") return new AlreadyRunning({ sandbox: name, starting: true })
  return new WrongState({ sandbox: name, status, operation: "start", advice })
}

const chooseEngine = Effect.fnUntraced(function* (info: SandboxInfo) {
  const engines = yield* Engines
  if (info.config.engine === "krun") {
    // A /dev/kvm that opens proves nothing: where a guest was seen not to boot, say so now and not after the boot timeout.
    yield* engines.get("krun").available
    const { ok, reason } = yield* engines.probe("krun")
    if (!ok) {
      return yield* new EngineUnavailable({
        engine: "krun",
        reason,
        advice: "use --engine qemu, or a machine whose /dev/kvm boots guests, and 'bunker doctor' says more"
      })
    }
  }
  if (info.config.engine !== "auto") return engines.get(info.config.engine)
  return (yield* engines.auto).engine
})

/** Starts the VM and waits for its agent. The one transient failure of libkrun is tried again, once. */
const startAndGreet = Effect.fnUntraced(function* (engine: Engine, config: VmConfig, { info, image }: Boot) {
  const db = yield* Database
  const paths = yield* Paths
  const record = (process: ProcessIdentity) =>
    Effect.gen(function* () {
      const startedAt = yield* Clock.currentTimeMillis
      yield* insertRun(db, info.id, engine.kind, process, startedAt)
      const run = { sandboxId: info.id, engine: engine.kind, startedAt, image: image.config }
      if (!info.ephemeral) yield* saveProcess(paths, info.name, run, process)
    }).pipe(
      Effect.mapError(
        (error) => new StoreFailed({ operation: "record the process of", path: info.name, reason: error.message })
      )
    )
  const attempt = Effect.gen(function* () {
    const started = yield* engine.spawn({ ...config, onProcess: record })
    const spawned = performance.now()
    const vm: Omit<VmHandle, "network" | "ports"> = started
    const died = Effect.flatMap(started.exited, (exit) => Effect.fail(new DiedEarly(exit)))
    const greeted = connectGuest(started.transport).pipe(
      Effect.timeoutOrElse({
        duration: bootTimeoutMs[engine.kind],
        orElse: () => Effect.fail(new Silent(bootTimeoutMs[engine.kind]))
      })
    )
    // A VM that ends takes its connection along: how it ended says more.
    const heard = Effect.catchTag(greeted, "GuestChannelFailed", (error) =>
      Effect.raceFirst(died, Effect.andThen(Effect.sleep(endGraceMs), Effect.fail(error)))
    )
    const channel = yield* Effect.raceFirst(heard, died).pipe(Effect.tapError(() => started.kill))
    return { vm, channel, spawned }
  })
  return yield* attempt.pipe(
    Effect.catchIf(
      (error): error is DiedEarly => error instanceof DiedEarly && isTransient(engine, error.exit, config.consolePath),
      () => attempt
    )
  )
})

/** Longest time from the end of a VM's connection to the end of its process, in milliseconds. */
const endGraceMs = 2000

/**
 * libkrun's one failure that passes; and an emulated machine that ended before its kernel could say a word, which a starved
 * host makes of its timers now and then.
 */
const isTransient = (engine: Engine, exit: VmExit, consoleLog: string): boolean =>
  isTransientStart(exit) || (engine.kind === "qemu" && exit.code === 0 && consoleTail(consoleLog) === "")

class DiedEarly {
  readonly _tag = "DiedEarly"
  constructor(readonly exit: VmExit) {}
}
class Silent {
  readonly _tag = "Silent"
  constructor(readonly timeoutMs: number) {}
}

/** Failures of engine and records pass; what the guest did becomes `BootFailed` with the end of its console. */
const explain = <E>(
  error: E | DiedEarly | Silent | GuestChannelFailed,
  info: SandboxInfo,
  consoleLog: string,
  upper = ""
) => {
  const failed = (reason: string) => new BootFailed({ sandbox: info.name, reason, console: consoleTail(consoleLog) })
  if (error instanceof DiedEarly) {
    const { exit } = error
    const how = exit.signal === undefined ? `with code ${exit.code ?? "unknown"}` : `by ${exit.signal}`
    const words = exit.output.trim().split("\n").at(-1)
    return failed(`the VM ended ${how} before its agent answered${words ? ` (${words})` : ""}`)
  }
  if (error instanceof Silent) return failed(`its agent did not answer within ${error.timeoutMs / 1000} s`)
  if ((error as { readonly _tag?: string })._tag === "GuestChannelFailed") {
    const { reason } = error as GuestChannelFailed
    const disk = !info.ephemeral && reason.includes("mount the upper")
    return failed(disk ? `its disk is broken (${reason}); 'e2fsck -f ${upper}' may mend it` : reason)
  }
  return error as Exclude<E, GuestChannelFailed>
}

const consoleTail = (file: string): string => readTail(file, 4096)

/** Clock, host name, root file system: everything before the first command. */
const agentLimits = ({ maxDurationMs, idleTimeoutMs }: SandboxInfo["config"]) => ({
  ...(maxDurationMs === undefined ? {} : { max_ms: maxDurationMs + agentSlackMs }),
  ...(idleTimeoutMs === undefined ? {} : { idle_ms: idleTimeoutMs + agentSlackMs })
})

const prepareGuest = (channel: GuestChannel, info: SandboxInfo, mounts: ReadonlyArray<GuestMount>) => {
  const hostname = info.config.hostname ?? info.name.slice(0, 63)
  return channel.boot({
    root: { device: "/dev/vdb", type: "erofs" },
    upper: info.ephemeral ? { kind: "tmpfs" } : { kind: "ext4", device: "/dev/vdc" },
    hostname,
    mounts,
    limits: agentLimits(info.config),
    ...(info.config.network === undefined ? {} : guestNetwork),
    hosts: `127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\t${hostname}\n`
  })
}

/** What has a console to be read is kept for its reader; see Sweeper. */
const recordBootFailure = Effect.fnUntraced(function* (info: SandboxInfo, cause: Cause.Cause<unknown>) {
  const db = yield* Database
  const sweeper = yield* Sweeper
  const end = {
    exitCode: null,
    exitSignal: null,
    reason: "boot_failed" as const,
    detail: cause.toString().slice(0, 1000)
  }
  yield* Effect.ignore(
    terminate(db, info.id, [...predecessors("crashed")], "crashed", end, yield* Clock.currentTimeMillis)
  )
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  if (!info.ephemeral) yield* settleDefinition(info)
  else if (!(error instanceof BootFailed)) yield* Effect.ignore(sweeper.Clean({ name: info.name }))
})
