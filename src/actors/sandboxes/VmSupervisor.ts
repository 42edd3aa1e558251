/**
 * Creates, starts, reaches, stops and removes sandboxes; routes what concerns a running one to the process that keeps it.
 * Keeps no VM state of its own: records are in the database, a VM's state is with its keeper.
 *
 * Invariants: a failed create leaves nothing; a status changes only along domain/sandbox/sandbox.ts; a sandbox that is live is never
 * removed.
 */

import { Context, Effect, Exit, Option, Result, Schedule, Semaphore, Stream } from "effect"
import { Rpc, type RpcGroup } from "effect/rpc"
import type { ReachError } from "../../domain/errors/groups.ts"
import {
  AlreadyRunning,
  type ExecFailed,
  type GuestChannelFailed,
  InvalidSpec,
  SupervisorUnreachable,
  WrongState
} from "../../domain/errors/vm.ts"
import { parseName } from "../../domain/name.ts"
import type { ExecEvent } from "../../domain/sandbox/exec.ts"
import type { LogRequest } from "../../domain/sandbox/logs.ts"
import { answering, isLive, isTerminal, SandboxInfo, type Status, up } from "../../domain/sandbox/sandbox.ts"
import { Termination } from "../../domain/sandbox/termination.ts"
import { commandProblem } from "../../domain/sandbox/validation.ts"
import { Database } from "../../store/database/Database.ts"
import { cancelRestart, findSandbox } from "../../store/database/sandboxes.ts"
import { indexMachines } from "../../store/database/syncDefinitions.ts"
import { loadMachine } from "../../store/files/definitions.ts"
import { Paths } from "../../store/files/Paths.ts"
import { isAlive } from "../../store/processes/processes.ts"
import { withPorts } from "../keeper/network/publishedPorts.ts"
import type { KeeperAddress } from "../keeper/protocol.ts"
import { type Address, layerLocal, type Unreachable } from "../kit/Actor.ts"
import { ModelCache } from "../models/ModelCache.ts"
import { makeRoutes } from "./execDirectory.ts"
import { sandboxFileHandlers } from "./files.ts"
import { bootsMax, type KeeperOptions, makeKeepers } from "./keeperClient.ts"
import { readLogs } from "./logs.ts"
import { withEngine } from "./makersEngine.ts"
import { networkHandlers } from "./network.ts"
import { portHandlers } from "./ports.ts"
import { VmProtocol } from "./protocol.ts"
import { makeRecovery } from "./recovery.ts"
import { type CreateRequest, makeRecords } from "./registry.ts"
import { awaitsReader, Sweeper } from "./Sweeper.ts"
import { statsHandlers } from "./stats.ts"

/** Time for a sandbox that is replaced to end in order, in milliseconds. */
const replaceTimeoutMs = 10_000

const wrongState = ({ name, status }: SandboxInfo, operation: string) =>
  new WrongState({
    sandbox: name,
    status,
    operation,
    advice:
      status === "starting"
        ? "wait until it is up"
        : status === "paused"
          ? `let it run on with 'bunker unpause ${name}'`
          : `start it with 'bunker start ${name}'`
  })

/** The record with what its definition asks for in vain. */
const withWarnings = (info: SandboxInfo, warnings: ReadonlyArray<string>): SandboxInfo =>
  warnings.length === 0 ? info : new SandboxInfo({ ...info, warnings })

/** How the newest run ended; completed for a sandbox that went with its end. */
const recordedEnd = (info: SandboxInfo | undefined): Termination =>
  new Termination({
    exitCode: info?.exitCode ?? null,
    exitSignal: info?.exitSignal ?? null,
    reason: info?.terminationReason ?? "completed",
    detail: info?.terminationDetail ?? null
  })

const make = (options: KeeperOptions) =>
  Effect.gen(function* () {
    const db = yield* Database
    const paths = yield* Paths
    const sweeper = yield* Sweeper
    const models = yield* ModelCache
    const keepers = yield* makeKeepers(options)
    const records = yield* makeRecords
    const { current, all: list, killByRecord } = yield* makeRecovery(keepers)

    const find = (text: string) => Effect.flatMap(records.find(text), current)

    const checkModels = ({ config }: CreateRequest) =>
      Effect.forEach(config.models ?? [], ({ name }) => models.Get({ name }), { discard: true }).pipe(
        Effect.catchTag("RpcClientError", Effect.die)
      )

    const check = Effect.fn("VmSupervisor.check")(function* (request: CreateRequest) {
      yield* checkModels(request)
      yield* records.check(request)
    })

    const create = Effect.fn("VmSupervisor.create")(function* (request: CreateRequest) {
      yield* checkModels(request)
      const name = yield* records.create(request, (old) => retire(old))
      return (yield* Effect.orDie(find(name))).info
    })

    /** Stops and removes a sandbox in favour of another of its name. */
    const retire = Effect.fn("VmSupervisor.retire")(function* (name: string) {
      yield* stop(name, replaceTimeoutMs).pipe(
        Effect.catchTag("WrongState", () => Effect.void),
        Effect.catchTag("SupervisorUnreachable", () => Effect.void)
      )
      yield* remove(name, true)
    })

    /** No more processes of keepers are started than could boot. */
    const boots = yield* Semaphore.make(bootsMax)

    const start = Effect.fn("VmSupervisor.start")(function* (text: string, detached: boolean) {
      const { info } = yield* find(text)
      if (info.status === "running") return yield* new AlreadyRunning({ sandbox: info.name })
      if (info.status === "paused") return yield* wrongState(info, "start")
      const warnings = yield* records.root(info)
      // Before the keeper, which has none of this process's environment and so no credentials.
      for (const { name } of info.config.models ?? []) {
        yield* Stream.runDrain(models.Ensure({ name })).pipe(Effect.catchTag("RpcClientError", Effect.die))
      }
      yield* boots.withPermits(1)(detached ? keepers.spawn(info) : keepers.host(info))
      return withWarnings((yield* find(text)).info, warnings)
    })

    /** The keeper of a sandbox that must be running, or in one of the states named. */
    const reach = Effect.fnUntraced(function* (
      text: string,
      operation: string,
      from: ReadonlyArray<Status> = answering
    ) {
      const { info } = yield* find(text)
      if (!from.includes(info.status)) return yield* wrongState(info, operation)
      return yield* keepers.address(info)
    })

    /**
     * Asks a keeper for something after which it may be gone before its answer is: then the record tells how the run ended.
     */
    const untilEnded = Effect.fnUntraced(function* (info: SandboxInfo, ask: Effect.Effect<Termination, Unreachable>) {
      const answer = yield* Effect.exit(ask)
      if (Exit.isSuccess(answer)) return answer.value
      const after = yield* findSandbox(db, info.name).pipe(
        Effect.repeat({
          until: (record) => record === undefined || !isLive(record.info.status),
          schedule: Schedule.spaced("50 millis").pipe(Schedule.upTo({ times: 40 }))
        })
      )
      if (after !== undefined && isLive(after.info.status)) {
        return yield* new SupervisorUnreachable({ sandbox: info.name, reason: "its keeper ended while it was asked" })
      }
      return recordedEnd(after?.info)
    })

    const unreachable = (name: string) => ({
      RpcClientError: (error: { readonly message: string }) =>
        Effect.fail(new SupervisorUnreachable({ sandbox: name, reason: error.message }))
    })

    const commands = makeRoutes()
    const numberOf = (event: ExecEvent) => (event._tag === "Started" ? event.exec : undefined)

    const events = (
      text: string,
      ask: (keeper: KeeperAddress) => Stream.Stream<ExecEvent, ExecFailed | GuestChannelFailed | Unreachable>
    ) =>
      Stream.unwrap(
        Effect.map(reach(text, "reach"), (keeper) => commands.follow(text, keeper, ask(keeper), numberOf))
      ).pipe(
        Stream.catchTags({
          RpcClientError: (error) => Stream.fail(new SupervisorUnreachable({ sandbox: text, reason: error.message }))
        })
      )

    const logs = (query: { readonly name: string } & LogRequest) =>
      Stream.unwrap(
        Effect.gen(function* () {
          const { info } = yield* find(query.name)
          yield* keepers.ensure(info)
          // A VM that died with its keeper is not recorded as ended yet, and says no more.
          const live = Effect.map(
            findSandbox(db, info.name),
            (record) =>
              isLive(record?.info.status ?? "stopped") && (record?.process === undefined || isAlive(record.process))
          )
          const lines = readLogs(
            paths.sandbox(info.name),
            query,
            Effect.orElseSucceed(live, () => false)
          )
          // Kept for whoever reads all of its console; see Sweeper.
          const { source, tail, sinceMs, untilMs } = query
          const whole = source === "console" && (tail ?? sinceMs ?? untilMs) === undefined
          return whole && isTerminal(info.status) && awaitsReader(paths, info)
            ? Stream.onEnd(lines, Effect.ignore(sweeper.Clean({ name: info.name })))
            : lines
        })
      )

    const restart = Effect.fn("VmSupervisor.restart")(function* (text: string, timeoutMs: number) {
      const { info } = yield* find(text)
      if (info.ephemeral) {
        return yield* new WrongState({
          sandbox: info.name,
          status: info.status,
          operation: "restart",
          advice: "it goes with its end, and only one that is kept ('bunker create') starts again"
        })
      }
      if (isLive(info.status)) {
        yield* stop(text, timeoutMs).pipe(Effect.catchTag("WrongState", () => Effect.void))
      }
      return yield* start(text, true)
    })

    const kill = Effect.fn("VmSupervisor.kill")(function* (text: string) {
      const record = yield* find(text)
      const { info } = record
      if (info.restartAt !== null && (yield* cancelRestart(db, info.id))) return recordedEnd(info)
      if (!isLive(record.info.status)) {
        return yield* new WrongState({
          sandbox: record.info.name,
          status: record.info.status,
          operation: "kill",
          advice: `nothing of it runs; 'bunker start ${record.info.name}' boots it, 'bunker rm ${record.info.name}' removes it`
        })
      }
      const keeper = yield* Effect.option(keepers.existing(record.info))
      if (Option.isNone(keeper)) return yield* killByRecord(record)
      return yield* untilEnded(record.info, keeper.value.Kill()).pipe(
        Effect.catchTag("SupervisorUnreachable", () => killByRecord(record))
      )
    })

    const stop = Effect.fn("VmSupervisor.stop")(function* (text: string, timeoutMs: number) {
      const { info } = yield* find(text)
      if (info.restartAt !== null && (yield* cancelRestart(db, info.id))) return recordedEnd(info)
      if (!isLive(info.status)) {
        return yield* new WrongState({
          sandbox: info.name,
          status: info.status,
          operation: "stop",
          advice: `nothing of it runs; 'bunker start ${info.name}' boots it, 'bunker rm ${info.name}' removes it`
        })
      }
      const keeper = yield* reach(text, "stop", up)
      return yield* untilEnded(info, keeper.Stop({ timeoutMs }))
    })

    const drain = Effect.fn("VmSupervisor.drain")(function* (text: string, timeoutMs: number) {
      const keeper = yield* reach(text, "drain")
      const { info } = yield* find(text)
      return yield* untilEnded(info, keeper.Drain({ timeoutMs }))
    })

    const wait = Effect.fn("VmSupervisor.wait")(function* (text: string) {
      const { info } = yield* find(text)
      if (isTerminal(info.status)) return recordedEnd(info)
      const keeper = yield* Effect.result(reach(text, "wait for", up))
      if (Result.isSuccess(keeper)) return yield* untilEnded(info, keeper.success.Wait())
      // It may have ended since it was found.
      const after = yield* findSandbox(db, info.name)
      if (after === undefined || isLive(after.info.status)) return yield* keeper.failure
      return recordedEnd(after.info)
    })

    const inspect = Effect.fn("VmSupervisor.inspect")(function* (text: string) {
      const { info } = yield* find(text)
      // One whose file can not be read any more has its record.
      const file = info.ephemeral ? Option.none() : yield* Effect.option(loadMachine(paths, info.name))
      return withWarnings(withPorts(paths, info), Option.isSome(file) ? file.value.unheeded : [])
    })

    const remove = Effect.fn("VmSupervisor.remove")(function* (text: string, force: boolean) {
      const name = yield* parseName(text)
      const found = yield* find(name).pipe(
        Effect.asSome,
        Effect.catchIf(
          (error) => force && error._tag === "MachineConfigInvalid",
          () => Effect.as(records.removeBroken(name), Option.none())
        ),
        Effect.catchTag(["DatabaseFailed", "SandboxNotFound"], (error) =>
          Effect.flatMap(force ? records.removeUnreadable(name) : Effect.succeed(false), (removed) =>
            removed ? Effect.succeedNone : Effect.fail(error)
          )
        )
      )
      if (Option.isNone(found)) return
      const before = found.value
      if (isLive(before.info.status)) {
        if (!force) {
          return yield* new WrongState({
            sandbox: before.info.name,
            status: before.info.status,
            operation: "remove",
            advice: `stop it with 'bunker stop ${before.info.name}', or remove it with -f`
          })
        }
        yield* kill(text).pipe(Effect.catchTag("WrongState", () => Effect.void))
      }
      const record = yield* Effect.option(find(text))
      // An ephemeral sandbox is gone with its end.
      if (Option.isNone(record)) return
      const { info } = record.value
      // A keeper that writes its last words into the directory keeps it from going.
      yield* records
        .remove(info)
        .pipe(Effect.catchTag("StoreFailed", () => Effect.andThen(keepers.released(info), records.remove(info))))
    })

    const network = yield* networkHandlers(find, keepers.address)
    const ports = yield* portHandlers(find, keepers.address)

    const viaKeeper = <A>(
      text: string,
      send: (keeper: KeeperAddress) => Effect.Effect<A, ReachError | Unreachable>,
      // What a paused sandbox is sent waits for it.
      operation = "reach",
      from = up
    ): Rpc.Wrapper<Effect.Effect<A, ReachError>> =>
      Rpc.fork(Effect.flatMap(reach(text, operation, from), send).pipe(Effect.catchTags(unreachable(text))))

    /** The keeper of a command, which is asked at once where the command was started through this process. */
    const viaCommand = (
      { name, exec: id }: { readonly name: string; readonly exec: number },
      send: (keeper: KeeperAddress) => Effect.Effect<void, ReachError | Unreachable>
    ): Rpc.Wrapper<Effect.Effect<void, ReachError>> => {
      const keeper = commands.find(name, id)
      return keeper === undefined
        ? viaKeeper(name, send)
        : Rpc.fork(send(keeper).pipe(Effect.catchTags(unreachable(name))))
    }

    return VmProtocol.of({
      Create: (request) => Rpc.fork(Effect.flatMap(withEngine(options.engine, request), create)),
      Check: (request) => Rpc.fork(Effect.flatMap(withEngine(options.engine, request), check)),
      Start: ({ name, detached }) => Rpc.fork(start(name, detached)),
      Exec: ({ name, request }) => {
        const problem = commandProblem(request)
        return Rpc.fork(
          problem === undefined ? events(name, (keeper) => keeper.Exec(request)) : Stream.fail(new InvalidSpec(problem))
        )
      },
      RunMain: ({ name, how }) => Rpc.fork(events(name, (keeper) => keeper.RunMain(how))),
      Attach: ({ name }) => Rpc.fork(events(name, (keeper) => keeper.Attach())),
      Logs: (query) => Rpc.fork(logs(query)),
      Restart: ({ name, timeoutMs }) => Rpc.fork(restart(name, timeoutMs)),
      Input: ({ data, ...to }) => viaCommand(to, (keeper) => keeper.Input({ exec: to.exec, data })),
      CloseInput: (to) => viaCommand(to, (keeper) => keeper.CloseInput({ exec: to.exec })),
      Signal: ({ signal, ...to }) => viaCommand(to, (keeper) => keeper.Signal({ exec: to.exec, signal })),
      Resize: ({ size, ...to }) => viaCommand(to, (keeper) => keeper.Resize({ exec: to.exec, size })),
      Stop: ({ name, timeoutMs }) => Rpc.fork(stop(name, timeoutMs)),
      Kill: ({ name }) => Rpc.fork(kill(name)),
      Drain: ({ name, timeoutMs }) => Rpc.fork(drain(name, timeoutMs)),
      Pause: ({ name }) => viaKeeper(name, (keeper) => keeper.Pause(), "pause"),
      Unpause: ({ name }) => viaKeeper(name, (keeper) => keeper.Unpause(), "unpause"),
      Touch: ({ name }) => viaKeeper(name, (keeper) => keeper.Touch()),
      Finish: ({ name, exitCode }) => viaKeeper(name, (keeper) => keeper.Finish({ exitCode })),
      Wait: ({ name }) => Rpc.fork(wait(name)),
      Remove: ({ name, force }) => Rpc.fork(remove(name, force)),
      Inspect: ({ name }) => inspect(name),
      List: () => list,
      Recover: () => Effect.asVoid(list),
      Problems: () => Effect.map(indexMachines(db, paths), ({ problems }) => problems),
      ...network,
      ...ports,
      ...statsHandlers(reach),
      ...sandboxFileHandlers(reach)
    })
  })

export class VmSupervisor extends Context.Service<VmSupervisor, Address<RpcGroup.Rpcs<typeof VmProtocol>>>()(
  "bunker/VmSupervisor"
) {
  static readonly layer = (options: KeeperOptions) => layerLocal(VmSupervisor, VmProtocol, make(options))
}
