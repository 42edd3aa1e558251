/**
 * Measures a running sandbox: asks its guest, and reads what the host's kernel says of the VM's process (proc(5)). Keeps nothing
 * between samples; rates are for whoever looks at two.
 */

import fs from "node:fs"
import { Clock, Effect, Stream } from "effect"
import { Rpc } from "effect/rpc"
import type { ReachError } from "../../domain/errors/groups.ts"
import { SupervisorUnreachable } from "../../domain/errors/vm.ts"
import { type Status, up } from "../../domain/sandbox/sandbox.ts"
import { diskUsage } from "../../store/files/files.ts"
import type { KeeperAddress } from "../keeper/protocol.ts"
import type { Measured } from "../keeper/runningVm.ts"
import type { Unreachable } from "../kit/Actor.ts"

/** Clock ticks of /proc/PID/stat: USER_HZ is 100 on every Linux that libkrun runs on. */
const hostTickMs = 10

/** Field 14 and 15 of /proc/PID/stat, in milliseconds; 0 when the process has just ended. */
const hostCpuMs = (pid: number): number => {
  try {
    const text = fs.readFileSync(`/proc/${pid}/stat`, "latin1")
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ")
    return (Number(fields[11]) + Number(fields[12])) * hostTickMs
  } catch {
    return 0
  }
}

const hostMemory = (pid: number): number => {
  try {
    const found = /^VmRSS:\s+(\d+) kB$/m.exec(fs.readFileSync(`/proc/${pid}/status`, "latin1"))
    return Number(found?.[1] ?? 0) * 1024
  } catch {
    return 0
  }
}

/** One sample; `commands` run in it. */
export const sampleStats = Effect.fn("Keeper.sample")(function* (measured: Measured, commands: number) {
  const { name, cpus, pid, directory } = measured
  const guest = yield* measured.guest
  const network = yield* measured.network
  const tickMs = 1000 / (guest.ticks_per_second ?? 100)
  const busy = [
    guest.cpu_user,
    guest.cpu_nice,
    guest.cpu_system,
    guest.cpu_irq,
    guest.cpu_softirq,
    guest.cpu_steal
  ].reduce<number>((sum, ticks) => sum + (ticks ?? 0), 0)
  const { memory_total: memory = 0, disk_total: disk = 0 } = guest
  return {
    name,
    time: Math.round(yield* Clock.currentTimeMillis),
    cpus,
    uptimeMs: Math.round(guest.uptime_ms),
    guestCpuMs: Math.round(busy * tickMs),
    hostCpuMs: hostCpuMs(pid),
    guestMemoryUsed: memory - (guest.memory_available ?? 0),
    guestMemoryTotal: memory,
    hostMemory: hostMemory(pid),
    guestDiskUsed: disk - (guest.disk_free ?? 0),
    guestDiskTotal: disk,
    hostDisk: diskUsage(directory),
    networkReceived: measured.traffic.received + (network?.bytesDown ?? 0),
    networkSent: measured.traffic.sent + (network?.bytesUp ?? 0),
    ...(network === undefined
      ? {}
      : {
          networkDenied: network.denied,
          networkLimited: network.limited,
          networkFlows: network.tcpFlows + network.udpFlows
        }),
    commands
  }
})

type Reach = (text: string, operation: string, from?: ReadonlyArray<Status>) => Effect.Effect<KeeperAddress, ReachError>

/** The supervisor's part of it. */
export const statsHandlers = (reach: Reach) => ({
  Stats: ({ name, watch }: { readonly name: string; readonly watch: boolean }) => {
    const one = Effect.flatMap(reach(name, "measure", up), (keeper) => keeper.Sample()).pipe(
      Effect.catchTags({
        RpcClientError: (error: Unreachable) =>
          Effect.fail(new SupervisorUnreachable({ sandbox: name, reason: error.message }))
      })
    )
    if (!watch) return Rpc.fork(Stream.fromEffect(one))
    // It has ended: so do its numbers.
    const further = Stream.fromEffectRepeat(Effect.delay(one, "1 second")).pipe(Stream.catch(() => Stream.empty))
    return Rpc.fork(Stream.concat(Stream.fromEffect(one), further))
  }
})
