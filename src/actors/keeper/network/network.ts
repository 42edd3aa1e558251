/**
 * Gives a VM its network: starts or adopts the process behind its card (net/process), writes down what that tells, and hands it new
 * rules. Decides nothing about traffic; a sandbox whose definition has no network costs nothing here.
 */
import fs from "node:fs"
import { Context, Effect, type Scope } from "effect"
import { type GuestChannelFailed, NetworkFailed, WrongState } from "../../../domain/errors/vm.ts"
import type { NetworkConfig } from "../../../domain/network/config.ts"
import type { NetworkEvent } from "../../../domain/network/events.ts"
import type { SandboxInfo } from "../../../domain/sandbox/sandbox.ts"
import { guestCard } from "../../../net/addresses.ts"
import type { ProxyVariables } from "../../../net/dial/proxy.ts"
import { NetSupervisor, type NetSupervisorOptions } from "../../../net/process/netSupervisor.ts"
import type { NetworkCounters } from "../../../net/process/protocol.ts"
import type { FileError } from "../../../store/files/files.ts"
import { openLog } from "../../../store/files/logs.ts"
import { Paths } from "../../../store/files/Paths.ts"
import type { SecretError } from "../../../store/secrets/secretFile.ts"
import type { GuestRequests } from "../../../vm/guest/GuestChannel.ts"
import { openInterception, type SandboxInterception, watchSecrets } from "./interception.ts"

/** Program and environment of network processes. */
export const NetworkProgram = Context.Reference<{
  readonly command: ReadonlyArray<string>
  readonly environment: Readonly<Record<string, string>>
  /** Upstream proxies of the host, by the values of their variables. */
  readonly proxies: ProxyVariables
}>("bunker/NetworkProgram", { defaultValue: () => ({ command: [], environment: {}, proxies: {} }) })

/** Bytes after which a log of events starts a new file. */
const eventLogBytesMax = 2 * 1024 * 1024

/** The network of a VM that is kept. */
export interface VmNetwork {
  /** The rules hold once it answers; connections that they deny now are gone. */
  readonly update: (config: NetworkConfig) => Effect.Effect<void, NetworkFailed | WrongState>
  readonly counters: Effect.Effect<NetworkCounters | undefined>
  /** `KEY=value` for every command of the guest, over its image's. */
  readonly env: () => ReadonlyArray<string>
}

/** The network of a VM that is about to boot. */
export interface NewNetwork {
  /** The VM's end of the card. */
  readonly card: number
  /** The VM has its end: this process's copy goes. */
  readonly handedOver: Effect.Effect<void>
  /** Prepares a guest that has its root file system, before its first command. */
  readonly settle: (
    channel: GuestRequests,
    imageEnv: ReadonlyArray<string>
  ) => Effect.Effect<void, NetworkFailed | GuestChannelFailed>
  /** Waits for the process, which starts while the guest boots. */
  readonly up: Effect.Effect<VmNetwork, NetworkFailed>
}

/** What the guest's agent is told of its card. */
export const guestNetwork = guestCard

/** A sandbox without a network. */
export const noNetwork = (name: string): VmNetwork => ({
  update: () =>
    Effect.fail(
      new WrongState({
        sandbox: name,
        status: "running without a network",
        operation: "change the network of",
        advice: `stop it and start it again, which gives it one`
      })
    ),
  counters: Effect.succeed(undefined),
  env: () => []
})

const failed = (name: string) => (cause: unknown) =>
  new NetworkFailed({ sandbox: name, reason: cause instanceof Error ? cause.message : String(cause) })

/** Writes events into the sandbox's log of them. */
const recorder = Effect.fnUntraced(function* (
  info: SandboxInfo
): Effect.fn.Return<(event: NetworkEvent) => void, FileError, Scope.Scope | Paths> {
  const log = yield* openLog((yield* Paths).sandbox(info.name).networkLog, { bytesMax: eventLogBytesMax })
  const run = Effect.runForkWith(yield* Effect.context<never>())
  return (event) => void run(log.write("stdout", JSON.stringify(event)))
})

const optionsOf = Effect.fnUntraced(function* (
  info: SandboxInfo,
  config: NetworkConfig,
  interception: SandboxInterception | undefined,
  onLost: (reason: string) => void
): Effect.fn.Return<NetSupervisorOptions, SecretError, Scope.Scope | Paths> {
  const { directory } = (yield* Paths).run(info.id)
  const onEvent = yield* recorder(info)
  const opened = interception === undefined ? {} : { interception: yield* interception.state }
  return { ...(yield* NetworkProgram), directory, config, ...opened, onEvent, onLost }
})

/** Hands secrets over again when one of them has changed. */
const followSecrets = Effect.fnUntraced(function* (
  info: SandboxInfo,
  interception: SandboxInterception | undefined,
  supervisor: () => NetSupervisor | undefined
) {
  if (interception === undefined) return
  const run = Effect.runForkWith(yield* Effect.context<never>())
  const hand = interception.state.pipe(
    Effect.map((state) => supervisor()?.intercept(state)),
    Effect.catch((error) => Effect.logError(`the secrets of ${info.name} can not be read again: ${error.message}`))
  )
  yield* watchSecrets(info, () => void run(hand))
})

const kept = (name: string, supervisor: NetSupervisor, interception: SandboxInterception | undefined): VmNetwork => ({
  env: interception?.variables ?? (() => []),
  update: (config) => Effect.tryPromise({ try: () => supervisor.update(config), catch: failed(name) }),
  counters: Effect.promise(() => supervisor.counters().catch(() => undefined))
})

const closing = (started: Promise<NetSupervisor>) =>
  Effect.promise(() =>
    started.then(
      (supervisor) => supervisor.close(),
      () => {}
    )
  )

/** Starts the process for a VM whose definition has a network; undefined for one that has none. The scope keeps it. */
export const openNetwork = Effect.fn("Network.open")(function* (
  info: SandboxInfo
): Effect.fn.Return<NewNetwork | undefined, SecretError, Scope.Scope | Paths> {
  const { networkSocket } = (yield* Paths).run(info.id)
  fs.rmSync(networkSocket, { force: true })
  const { network } = info.config
  if (network === undefined) return undefined
  const interception = yield* openInterception(info)
  const options = yield* optionsOf(info, network, interception, () => {})
  let card = -1
  const handedOver = Effect.sync(() => {
    if (card >= 0) fs.closeSync(card)
    card = -1
  })
  const { started } = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const made = NetSupervisor.start(options)
      card = made.card
      // Heard where `up` is asked, or of no use any more.
      made.started.catch(() => {})
      return made
    }),
    (made) => Effect.andThen(handedOver, closing(made.started))
  )
  let supervisor: NetSupervisor | undefined
  yield* followSecrets(info, interception, () => supervisor)
  return {
    card,
    handedOver,
    settle: (channel, imageEnv) =>
      interception === undefined
        ? Effect.void
        : Effect.catchIf(
            interception.trust(channel, imageEnv),
            (error) => error._tag !== "GuestChannelFailed",
            (error) =>
              new NetworkFailed({ sandbox: info.name, reason: `its guest trusts no authority: ${error.message}` })
          ),
    up: Effect.map(Effect.tryPromise({ try: () => started, catch: failed(info.name) }), (ready) => {
      supervisor = ready
      return kept(info.name, ready, interception)
    })
  }
})

/**
 * Takes over the process of a VM that lives while its keeper is gone. `onLost` hears that its card can not be served any more; a VM
 * that was booted without one has none.
 */
export const adoptNetwork = Effect.fn("Network.adopt")(function* (
  info: SandboxInfo,
  onLost: (reason: string) => void
): Effect.fn.Return<VmNetwork, SecretError, Scope.Scope | Paths> {
  const { networkSocket } = (yield* Paths).run(info.id)
  if (!fs.existsSync(networkSocket)) return noNetwork(info.name)
  const interception = yield* openInterception(info)
  const options = yield* optionsOf(info, info.config.network ?? {}, interception, onLost)
  const adopted = yield* Effect.acquireRelease(
    Effect.promise(() =>
      NetSupervisor.adopt(options).catch((cause) => {
        onLost(cause instanceof Error ? cause.message : String(cause))
        return undefined
      })
    ),
    (supervisor) => Effect.sync(() => supervisor?.close())
  )
  if (adopted === undefined) return noNetwork(info.name)
  yield* followSecrets(info, interception, () => adopted)
  return kept(info.name, adopted, interception)
})
