/** What the parts of a keeper know of the VM that it keeps. Types only: boot.ts makes one. */

import type { Deferred, Effect, Scope } from "effect"
import type { PortTaken } from "../../domain/errors/guestIo.ts"
import type { GuestChannelFailed } from "../../domain/errors/vm.ts"
import type { RunDefaults } from "../../domain/image/image.ts"
import type { PublishedPort, SandboxConfig } from "../../domain/sandbox/sandbox.ts"
import type { Termination } from "../../domain/sandbox/termination.ts"
import type { NetworkCounters } from "../../net/process/protocol.ts"
import type { FileError } from "../../store/files/files.ts"
import type { GuestRequests } from "../../vm/guest/GuestChannel.ts"
import type { GuestStats } from "../../vm/guest/messages.ts"
import type { VmNetwork } from "./network/network.ts"
import type { Pausing } from "./pausing.ts"

/** Who uses a VM. */
export interface VmUse {
  /** Commands that run now, without the main command. */
  commands: number
  /** Grows with every use that is no command: traffic on a port, a file, a touch. */
  touches: number
}

/** Bytes that a sandbox's network carried, seen from the guest; whoever carries adds to it. */
export interface Traffic {
  received: number
  sent: number
}

/** Ports that are listened on, not yet answered. */
export interface Published {
  /** Lets connections through to the guest until the VM ends. `activity` hears of traffic. */
  readonly open: (vm: {
    readonly channel: GuestRequests
    readonly ended: Deferred.Deferred<Termination>
    readonly activity?: () => void
    /** Counts what is carried. */
    readonly traffic?: Traffic
  }) => Effect.Effect<void, never, Scope.Scope>
  /**
   * Listens on these from now on, on those that are there, by the host port that was picked or asked for, without a break; answers
   * them with the host ports that were picked.
   */
  readonly set: (
    ports: ReadonlyArray<PublishedPort>
  ) => Effect.Effect<ReadonlyArray<PublishedPort>, PortTaken | FileError>
}

/** What is measured. */
export interface Measured {
  readonly name: string
  readonly cpus: number
  /** The VM's process. */
  readonly pid: number
  /** Directory of the writable disk and the logs. */
  readonly directory: string
  /** The guest's own numbers. */
  readonly guest: Effect.Effect<GuestStats, GuestChannelFailed>
  readonly traffic: Traffic
  /** What its network process counts; undefined for a sandbox without a network. */
  readonly network: Effect.Effect<NetworkCounters | undefined>
}

/** A VM that is up, as its keeper sees it. */
export interface KeptVm {
  /** Nothing of it is kept: it need not be powered off in order. */
  readonly ephemeral: boolean
  readonly channel: GuestRequests
  readonly config: SandboxConfig
  readonly image: RunDefaults
  /** Completes when the VM has ended and the records say so. */
  readonly ended: Deferred.Deferred<Termination>
  /** Says why the VM is about to end; the first reason stays. */
  readonly expect: (end: Termination) => void
  /** Says that it will not end in order: what ends it now is SIGKILL, which the record has beside the reason. */
  readonly giveUp: () => void
  /** True once somebody has said why. */
  readonly ending: () => boolean
  readonly use: VmUse
  /** What its published ports carried since this process keeps it. */
  readonly traffic: Traffic
  /** Says that the sandbox is used now: it does not count as idle. */
  readonly activity: () => void
  /** Records that it is about to end in order, and for what, should this process not live to see it. */
  readonly markDraining: (end: Termination) => Effect.Effect<void>
  readonly kill: Effect.Effect<void>
  readonly network: VmNetwork
  readonly ports: Published
  readonly pausing: Pausing
  readonly measured: Measured
}
