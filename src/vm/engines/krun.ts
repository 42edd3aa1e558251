/**
 * The engine that boots a VM through libkrun on KVM, each in a process of its own.
 * Makes no libkrun call itself (runner.ts does) and does not say whether KVM works (probe.ts does).
 */

import fs from "node:fs"
import { Effect } from "effect"
import { EngineUnavailable } from "../../domain/errors/vm.ts"
import { unixListenerTransport } from "../guest/transport.ts"
import { startRunner, type VmExit } from "../runner/start.ts"
import {
  asStoreFailed,
  checkAgent,
  findLibkrun,
  findLibkrunfw,
  guestSocket,
  prepareDisks,
  runnerOf,
  withLock
} from "./bootCache.ts"
import { placesOf } from "./places.ts"
import { bootWords } from "./qemuArguments.ts"
import { extentsOf, SHARE_TAG, shareDirectory, stageCommand } from "./shares.ts"
import type { Engine, EngineOptions } from "./types.ts"

/** vsock port on the host (CID 2) that the agent calls. */
const VSOCK_PORT = 1024

/** What to tell of a KVM device that could not be opened, by the error's code. */
export const kvmProblem = (device: string, code: string): { readonly reason: string; readonly advice: string } => {
  if (code === "EACCES" || code === "EPERM") {
    return {
      reason: `${device} may not be opened`,
      advice: "add yourself to the group that owns it: sudo usermod -aG kvm $USER"
    }
  }
  return {
    reason: code === "ENOENT" ? `${device} is missing` : `${device} answers ${code}`,
    advice: "load the module kvm_intel or kvm_amd, switch virtualization on in the firmware, or use --engine qemu"
  }
}

const openKvm = (device: string): Effect.Effect<void, EngineUnavailable> =>
  Effect.try({
    try: () => fs.closeSync(fs.openSync(device, "r+")),
    catch: (cause) => {
      const code = (cause as NodeJS.ErrnoException).code ?? "an error"
      return new EngineUnavailable({ engine: "krun", ...kvmProblem(device, code) })
    }
  })

/**
 * True where libkrun gives its guests the TSC deadline timer, which needs no calibration: on processors of Intel. Asks for the
 * first lines of /proc/cpuinfo, which has a page for every processor.
 */
const hasDeadlineTimer = (): boolean => {
  const head = Buffer.alloc(256)
  const fd = fs.openSync("/proc/cpuinfo", "r")
  try {
    return head.toString("latin1", 0, fs.readSync(fd, head)).includes("GenuineIntel")
  } finally {
    fs.closeSync(fd)
  }
}

/** `device`: another one than KVM's own is for tests. */
export const makeKrunEngine = (options: EngineOptions, device = "/dev/kvm"): Engine => {
  const available = Effect.gen(function* () {
    yield* openKvm(device)
    yield* checkAgent("krun", options)
    yield* findLibkrun(options)
    yield* findLibkrunfw(options)
  }).pipe(Effect.withSpan("KrunEngine.available"))

  return {
    kind: "krun",
    available,
    attach: ({ runDir }) => unixListenerTransport(guestSocket(runDir)),
    spawn: Effect.fn("KrunEngine.spawn")(function* (config) {
      yield* available
      const libkrun = yield* findLibkrun(options)
      const libkrunfw = yield* findLibkrunfw(options)
      const disks = yield* prepareDisks(config, options)
      // What libkrun opens by its path once its root is changed.
      const kept = () => [
        ...disks.flatMap(({ path, format, readOnly }) => [
          { path, readOnly },
          ...(format === "vmdk" ? extentsOf(path).map((extent) => ({ path: extent, readOnly })) : [])
        ]),
        ...["/dev/kvm", guestSocket(config.runDir), config.consolePath].map((path) => ({ path, readOnly: false }))
      ]
      const command = yield* stageCommand(config, options, { kept })
      // libkrun connects to the socket when the agent calls, so somebody has to listen before the guest runs.
      const socketPath = guestSocket(config.runDir)
      const brief = config.brief === true
      return yield* withLock(
        config.lockPath,
        Effect.fnUntraced(function* (lockFd) {
          const transport = yield* Effect.mapError(unixListenerTransport(socketPath), asStoreFailed(config.runDir))
          const runner = yield* startRunner(
            runnerOf(config, command, lockFd, {
              kind: "krun",
              ...placesOf(config, disks),
              libkrun,
              libkrunfw,
              cpus: config.cpus,
              memoryMb: config.memoryMb,
              disks,
              ...(config.shares === undefined || config.shares.length === 0
                ? {}
                : { share: { tag: SHARE_TAG, root: shareDirectory(config.runDir) } }),
              card: config.card !== undefined,
              consolePath: config.consolePath,
              socketPath,
              vsockPort: VSOCK_PORT,
              exec: "/init",
              // libkrun puts its own root= first; of two the kernel takes the last.
              words: bootWords("vsock", { brief, soon: brief && config.cpus === 1 && !hasDeadlineTimer() })
            })
          )
          return { ...runner, transport }
        })
      )
    })
  }
}

/**
 * True for the one start in some hundreds that libkrun gives up on ("failed to send resume status") before the guest has
 * run: the same start tried once more is safe and succeeds.
 */
export const isTransientStart = (exit: VmExit): boolean =>
  exit.report?.event === "error" && exit.report.call === "krun_start_enter" && exit.report.errno === "EINVAL"
