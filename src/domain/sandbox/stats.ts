/** Says what is measured of a running sandbox. Pure. */
import { Schema } from "effect"

/** One sample. Bytes; milliseconds. */
export const SandboxStats = Schema.Struct({
  name: Schema.String,
  /** When it was taken, unix milliseconds. */
  time: Schema.Int,
  cpus: Schema.Int,
  /** Time since the guest's kernel started. */
  uptimeMs: Schema.Int,
  /** Time that all of the guest's processors together were busy. */
  guestCpuMs: Schema.Int,
  /** Processor time of the VM's process on the host; emulation costs more than the guest sees. */
  hostCpuMs: Schema.Int,
  /** What the guest can not give away. */
  guestMemoryUsed: Schema.Int,
  guestMemoryTotal: Schema.Int,
  /** Resident memory of the VM's process on the host, guest pages included. */
  hostMemory: Schema.Int,
  /** Of the guest's root file system. */
  guestDiskUsed: Schema.Int,
  guestDiskTotal: Schema.Int,
  /** Blocks of the host's disk under it: the writable disk and the logs. */
  hostDisk: Schema.Int,
  /** Payload bytes that published ports, and connections of its own that have ended, brought to the guest since its keeper looks after it. */
  networkReceived: Schema.Int,
  /** The same of what came from the guest. */
  networkSent: Schema.Int,
  /** Names and connections that its network's rules denied; absent without a network, as are the next two. */
  networkDenied: Schema.optionalKey(Schema.Int),
  /** Connections and names that a bound of its network refused. */
  networkLimited: Schema.optionalKey(Schema.Int),
  /** Connections and UDP flows of its own that are open. */
  networkFlows: Schema.optionalKey(Schema.Int),
  /** Commands that run in it, the main command included. */
  commands: Schema.Int
})
export type SandboxStats = typeof SandboxStats.Type
