/**
 * Settles what a sandbox mounts: which paths of the host it may see, and where. Mounts nothing (vm/shares.ts and the guest's agent
 * do).
 */
import fs from "node:fs"
import { Effect } from "effect"
import { MountRefused } from "../domain/errors/vm.ts"
import { inMountOrder } from "../domain/mounts.ts"
import type { Mount, SandboxConfig } from "../domain/sandbox.ts"
import { Paths } from "../store/Paths.ts"
import type { GuestMount } from "../vm/GuestChannel.ts"
import { openShare, type VmShare } from "../vm/shares.ts"

/** What the VM's process shares, and what the agent makes of it. */
export interface SettledMounts {
  readonly shares: ReadonlyArray<VmShare>
  readonly guest: ReadonlyArray<GuestMount>
}

/** The share of a user's mount. Fails for what does not exist, and for our own records and cache. */
const openMount = Effect.fnUntraced(function* (mount: Mount, home: string) {
  const share = yield* openShare(mount.source, mount.readOnly)
  if (share.source === home || share.source.startsWith(`${home}/`)) {
    return yield* new MountRefused({
      source: mount.source,
      reason: `it is inside ${home}, which holds Bunker's own records and cache`
    })
  }
  return share
})

/** Home without links on its path: what shares are compared with, and what none of them shows. */
export const realHome = Effect.map(Paths, ({ home }) => fs.realpathSync(home))

/**
 * Opens the mounts of a definition. `trusted` are mounts of our own making, such as models, whose sources may be in the home.
 */
export const settleMounts = Effect.fn("Keeper.mounts")(function* (
  config: Pick<SandboxConfig, "mounts" | "tmpfs">,
  trusted: ReadonlyArray<Mount> = []
): Effect.fn.Return<SettledMounts, MountRefused, Paths> {
  const home = yield* realHome
  const opened = [
    ...(yield* Effect.forEach(config.mounts ?? [], (mount) =>
      Effect.map(openMount(mount, home), (share) => ({ share, target: mount.target }))
    )),
    ...(yield* Effect.forEach(trusted, (mount) =>
      Effect.map(openShare(mount.source, mount.readOnly), (share) => ({ share, target: mount.target }))
    ))
  ]
  const guest = [
    ...opened.map(({ share, target }, index) => ({ target, share: String(index), read_only: share.readOnly })),
    ...(config.tmpfs ?? []).map(({ target, sizeMb }) => ({
      target,
      ...(sizeMb === undefined ? {} : { size_mb: sizeMb })
    }))
  ]
  return { shares: opened.map(({ share }) => share), guest: inMountOrder<GuestMount>(guest) }
})
