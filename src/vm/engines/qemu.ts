/**
 * The engine that boots a VM in QEMU's software emulation, for machines whose KVM is missing or can not run a guest.
 * Boots the same kernel, init disk and images as krun, some ten times slower. Never uses KVM.
 */

import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import { EngineUnavailable } from "../../domain/errors/vm.ts"
import { slotTransport } from "../guest/transport.ts"
import { startRunner } from "../runner/start.ts"
import {
  asStoreFailed,
  checkAgent,
  findLibkrunfw,
  fromBootCache,
  prepareDisks,
  runnerOf,
  slotCount,
  slotSockets,
  withLock
} from "./bootCache.ts"
import { cachedKernelElf } from "./kernelElf.ts"
import { placesOf } from "./places.ts"
import { qemuArguments } from "./qemuArguments.ts"
import { SHARE_TAG, shareSocket, stageCommand } from "./shares.ts"
import { tscRateKhz } from "./tscRate.ts"
import type { Engine, EngineOptions } from "./types.ts"

const PROGRAM = "qemu-system-x86_64"
/** Where distributions put it; the user's PATH is not asked, BUNKER_QEMU names anything else. */
const PLACES = "/usr/local/bin:/usr/bin:/bin:/usr/libexec:/run/current-system/sw/bin"

const findQemu = (options: EngineOptions): Effect.Effect<string, EngineUnavailable> =>
  Effect.suspend(() => {
    const file = options.qemu ?? Bun.which(PROGRAM, { PATH: PLACES }) ?? undefined
    if (file !== undefined && fs.existsSync(file)) return Effect.succeed(fs.realpathSync(file))
    return Effect.fail(
      new EngineUnavailable({
        engine: "qemu",
        reason: `${options.qemu ?? PROGRAM} was not found`,
        advice: "install it, on Debian with: sudo apt-get install qemu-system-x86"
      })
    )
  })

/** Distributions keep it out of the PATH: it is QEMU's own helper. */
const VIRTIOFSD_PLACES = "/usr/libexec:/usr/lib/qemu:/usr/libexec/qemu:/usr/lib:/usr/local/libexec:/usr/bin"

const findVirtiofsd = Effect.suspend(() => {
  const file = Bun.which("virtiofsd", { PATH: VIRTIOFSD_PLACES })
  if (file !== null) return Effect.succeed(fs.realpathSync(file))
  return Effect.fail(
    new EngineUnavailable({
      engine: "qemu",
      reason: "virtiofsd, which shares directories with a guest, was not found",
      advice: "install it, on Debian with: sudo apt-get install qemu-system-common"
    })
  )
})

export const makeQemuEngine = (options: EngineOptions): Engine => {
  const available = Effect.gen(function* () {
    yield* findQemu(options)
    yield* checkAgent("qemu", options)
    yield* findLibkrunfw(options)
  }).pipe(Effect.withSpan("QemuEngine.available"))

  return {
    kind: "qemu",
    available,
    // Another version may have started it with fewer slots.
    attach: ({ runDir }) => slotTransport(slotSockets(runDir).filter((slot) => fs.existsSync(slot))),
    spawn: Effect.fn("QemuEngine.spawn")(function* (config) {
      const file = yield* findQemu(options)
      yield* checkAgent("qemu", options)
      const libkrunfw = yield* findLibkrunfw(options)
      const disks = yield* prepareDisks(config, options)
      const kernel = yield* fromBootCache("the kernel", options, () => cachedKernelElf(options.bootCacheDir, libkrunfw))
      const slots = slotSockets(config.runDir, slotCount(config.memoryMb))
      const shares = config.shares !== undefined && config.shares.length > 0
      const command = yield* stageCommand(config, options, { server: shares ? yield* findVirtiofsd : "" })
      const start = {
        kind: "qemu" as const,
        // QEMU's own files are beside its directory of programs.
        ...placesOf(config, disks, [kernel, path.dirname(path.dirname(file))]),
        file,
        arguments: qemuArguments({
          kernel,
          cpus: config.cpus,
          memoryMb: config.memoryMb,
          disks,
          share: shares ? { socket: shareSocket(config.runDir), tag: SHARE_TAG } : undefined,
          card: config.card !== undefined,
          consolePath: config.consolePath,
          slots,
          brief: config.brief === true,
          soon: config.brief === true && config.cpus === 1,
          tscKhz: tscRateKhz(options.bootCacheDir)
        })
      }
      const runner = yield* withLock(
        config.lockPath,
        Effect.fnUntraced(function* (lockFd) {
          // QEMU refuses to listen on a path that exists, and a killed VM leaves its sockets behind.
          yield* Effect.sync(() => {
            for (const slot of slotSockets(config.runDir)) fs.rmSync(slot, { force: true })
          })
          return yield* startRunner(runnerOf(config, command, lockFd, start))
        })
      )
      const transport = yield* Effect.mapError(slotTransport(slots), asStoreFailed(config.runDir))
      return { ...runner, transport }
    })
  }
}
