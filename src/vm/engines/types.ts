/** Says what an engine is: the one interface that krun and qemu implement. Types only; the service is in Engine.ts. */
import type { Effect, Scope } from "effect"
import type { StoreFailed } from "../../domain/errors/store.ts"
import type {
  AlreadyRunning,
  EngineUnavailable,
  GuestChannelFailed,
  KrunCallFailed,
  LibraryNotFound,
  MountRefused
} from "../../domain/errors/vm.ts"
import type { ProcessIdentity } from "../../store/processes/processes.ts"
import type { GuestTransport } from "../guest/transport.ts"
import type { RunnerDisk } from "../runner/protocol.ts"
import type { RunnerProcess } from "../runner/start.ts"

export type EngineKind = "krun" | "qemu"

/** A disk after the init disk: /dev/vdb, /dev/vdc, … in the order given. */
export type VmDisk = RunnerDisk

/** A file or directory of the host, by path without links and by what it is. */
export interface VmShare {
  readonly source: string
  readonly device: bigint
  readonly inode: bigint
  /** The host refuses the guest's writes. */
  readonly readOnly: boolean
  /** Directories below it that the guest finds empty, by relative path. Default: none. */
  readonly hidden?: ReadonlyArray<string>
}

export interface VmConfig {
  /** vCPUs, 1 to 16. */
  readonly cpus: number
  /** MiB, at least 64. */
  readonly memoryMb: number
  /** Disks after the init disk, at most five. A raw disk that the guest may write must never be opened as anything else. */
  readonly disks: ReadonlyArray<VmDisk>
  /** What the guest sees of the host: the agent finds share n of this list as the name `n`. Absent: nothing, and no device. */
  readonly shares?: ReadonlyArray<VmShare>
  /**
   * Descriptor of the network card's end of a stream of ethernet frames (see net/link.ts); the caller closes its copy. Absent: the
   * guest has no network.
   */
  readonly card?: number
  /** Directory of mode 0700 for the sockets, the pid file and the runner's output; its path has at most 90 bytes. */
  readonly runDir: string
  /** File that receives the guest's console; grows as long as the guest writes to it. */
  readonly consolePath: string
  /** File that the VM's process keeps locked as long as it lives. */
  readonly lockPath: string
  /** The kernel ends the VM when the thread that started it ends. For runs in the foreground. */
  readonly dieWithParent: boolean
  /** For one command and soon gone: what makes it start sooner may cost it a little for as long as it runs. Default false. */
  readonly brief?: boolean
  /** Runs once the VM's process is there and before the guest is; absent: nothing. For whoever keeps records. */
  readonly onProcess?: (process: ProcessIdentity) => Effect.Effect<void, StoreFailed>
}

/** A VM that was started: its process, and the way its agent will call. */
export interface VmProcess extends RunnerProcess {
  readonly transport: GuestTransport
}

export interface Engine {
  readonly kind: EngineKind
  /** Checks what can be checked without booting: devices, programs, libraries. */
  readonly available: Effect.Effect<void, EngineUnavailable | LibraryNotFound>
  /** Starts a VM. The scope holds the transport; closing it ends the VM only when `dieWithParent` is set. */
  readonly spawn: (
    config: VmConfig
  ) => Effect.Effect<
    VmProcess,
    EngineUnavailable | LibraryNotFound | KrunCallFailed | MountRefused | AlreadyRunning | StoreFailed,
    Scope.Scope
  >
  /** The transport to a VM that another process started; its agent calls again by itself. */
  readonly attach: (config: {
    readonly runDir: string
  }) => Effect.Effect<GuestTransport, GuestChannelFailed, Scope.Scope>
}

/** Where engines find what they need. */
export interface EngineOptions {
  /** Directory for what is built once and used by every VM: init disks, kernels, probe results. */
  readonly bootCacheDir: string
  /** Paths that the user named, instead of a search. */
  readonly libkrun?: string | undefined
  readonly libkrunfw?: string | undefined
  readonly qemu?: string | undefined
  /** Directory with the libraries and mke2fs, which is looked into first. */
  readonly native?: string | undefined
  /** The static guest agent. */
  readonly agentPath: string
  /** The static program that mounts shares. */
  readonly mountHelperPath: string
  /** The runner in C; absent, missing or empty where it could not be compiled: then `runnerCommand` does its work. */
  readonly launcherPath?: string | undefined
  /** Program and first arguments of a runner, like `[bun, main.ts, "__runner"]`. */
  readonly runnerCommand: ReadonlyArray<string>
}
