/**
 * Opens to one VM the host's paths that it shares: which file is meant is settled here, once, and the program `stage` binds that
 * file and no other in a mount namespace of the VM's own. Decides nothing about what may be shared (actors/keeper/resolveMounts.ts does).
 */

import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import type { StoreFailed } from "../../domain/errors/store.ts"
import { EngineUnavailable, MountRefused } from "../../domain/errors/vm.ts"
import { executable, fromBootCache, runnerCommand } from "./bootCache.ts"
import type { EngineOptions, VmConfig, VmShare } from "./types.ts"

const O_PATH = 0o10_000_000

/** Finds what a path leads to; whatever is put in its place later is refused when the VM starts. */
export const openShare = (source: string, readOnly: boolean): Effect.Effect<VmShare, MountRefused> =>
  Effect.try({
    try: () => {
      const fd = fs.openSync(source, O_PATH)
      try {
        const found = fs.fstatSync(fd, { bigint: true })
        if (!found.isDirectory() && !found.isFile()) throw new Error("it is neither a directory nor a file")
        return { source: fs.readlinkSync(`/proc/self/fd/${fd}`), device: found.dev, inode: found.ino, readOnly }
      } finally {
        fs.closeSync(fd)
      }
    },
    catch: (cause) => {
      const { code, message } = cause as NodeJS.ErrnoException
      const reason = code === "ENOENT" ? "it does not exist on the host" : (code ?? message)
      return new MountRefused({ source, reason })
    }
  })

/** Name of the directory in the run directory that the shares appear in, seen by the VM's process alone. */
export const shareDirectory = (runDir: string): string => path.join(runDir, "shares")

/** Socket between QEMU and virtiofsd. */
export const shareSocket = (runDir: string): string => path.join(runDir, "virtiofs.sock")

/** The tag under which the agent mounts the directory of shares. */
export const SHARE_TAG = "bunker"

/** Who serves the guest: a virtiofsd, or the VM's own process, in a root with `kept` alone. */
type ShareService =
  | { readonly server: string }
  | { readonly kept: () => ReadonlyArray<{ readonly path: string; readonly readOnly: boolean }> }

/** The runner's command line, behind `stage` when the VM has shares. */
export const stageCommand = Effect.fn("Engine.stageCommand")(function* (
  config: VmConfig,
  options: EngineOptions,
  how: ShareService
): Effect.fn.Return<ReadonlyArray<string>, StoreFailed | EngineUnavailable> {
  const shares = config.shares ?? []
  const runner = yield* runnerCommand(options)
  if (shares.length === 0) return runner
  if (!fs.existsSync(options.mountHelperPath)) {
    return yield* new EngineUnavailable({
      engine: "server" in how ? "qemu" : "krun",
      reason: `the program ${options.mountHelperPath}, which mounts shared directories, is missing`,
      advice: "build it with native/mount-helper/build.sh (needs a C compiler)"
    })
  }
  const stage = yield* fromBootCache("the program that mounts shares", options, () =>
    executable(options, options.mountHelperPath)
  )
  const directory = shareDirectory(config.runDir)
  yield* fromBootCache("the directory of shares", options, () => fs.mkdirSync(directory, { recursive: true }))
  return [
    ...[stage, directory],
    ...("server" in how
      ? ["--serve", how.server, shareSocket(config.runDir)]
      : ["--jail", ...how.kept().flatMap(({ path, readOnly }) => ["--keep", readOnly ? "ro" : "rw", path])]),
    ...shares.flatMap(({ source, device, inode, readOnly, hidden = [] }) => [
      ...["--share", readOnly ? "ro" : "rw", String(device), String(inode), source],
      ...hidden.flatMap((place) => ["--hide", place])
    ]),
    ...["--", ...runner]
  ]
})

/** Files that a flat VMDK consists of, as its descriptor names them (oci/erofs/vmdk.ts writes it). */
export const extentsOf = (vmdk: string): ReadonlyArray<string> =>
  [...fs.readFileSync(vmdk, "utf8").matchAll(/^RW \d+ FLAT "([^"]+)" \d+$/gm)].map(([, name]) =>
    path.resolve(path.dirname(vmdk), name!)
  )
