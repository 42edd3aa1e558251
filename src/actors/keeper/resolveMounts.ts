/**
 * Settles what a sandbox mounts: which paths of the host it may see, and where. Mounts nothing (vm/engines/shares.ts and the guest's agent
 * do).
 */

import fs from "node:fs"
import { Effect } from "effect"
import { MountRefused } from "../../domain/errors/vm.ts"
import { inMountOrder } from "../../domain/sandbox/mounts.ts"
import type { Mount, SandboxConfig } from "../../domain/sandbox/sandbox.ts"
import { Paths } from "../../store/files/Paths.ts"
import { hiddenPlaces, parseMounts } from "../../vm/engines/hiddenPlaces.ts"
import { openShare } from "../../vm/engines/shares.ts"
import type { VmShare } from "../../vm/engines/types.ts"
import type { GuestMount } from "../../vm/guest/GuestChannel.ts"

/** What the VM's process shares, and what the agent makes of it. */
export interface SettledMounts {
  readonly shares: ReadonlyArray<VmShare>
  readonly guest: ReadonlyArray<GuestMount>
}

/** Most directories of ours that one share hides: more are mounted into it on purpose. */
const placesMax = 64

/** Our own directories, by path without links and by what they are: below the home, and where links in it lead. */
const secrets = Effect.map(Paths, (paths) => {
  const { layers, fsmetas, vmdks, locks, temporary, boot, sandboxes, sessions, runs, home } = paths
  const places = [home, layers, fsmetas, vmdks, locks, temporary, boot, sandboxes, sessions, runs].map((place) => {
    const { dev, ino } = fs.statSync(place, { bigint: true })
    return { path: fs.realpathSync(place), identity: `${dev}:${ino}` }
  })
  return { home: places[0]!.path, places }
})

/** The share of a user's mount. Fails for what does not exist, and for our own records and cache, by whatever path. */
const openMount = Effect.fnUntraced(function* (mount: Mount, own: Effect.Success<typeof secrets>) {
  const share = yield* openShare(mount.source, mount.readOnly)
  const refused = (reason: string) => new MountRefused({ source: mount.source, reason })
  const inside = `it is inside ${own.home}, which holds Bunker's own records and cache`
  if (own.places.some(({ identity }) => identity === `${share.device}:${share.inode}`)) return yield* refused(inside)
  const hidden = yield* Effect.try({
    try: () => {
      const mounts = parseMounts(fs.readFileSync("/proc/self/mountinfo", "utf8"))
      const paths = own.places.map((place) => place.path)
      return hiddenPlaces(mounts, share.source, paths)
    },
    catch: (cause) => refused(`what is mounted on this machine can not be read: ${(cause as Error).message}`)
  })
  if (hidden === "inside") return yield* refused(inside)
  if (hidden.length <= placesMax) return { ...share, hidden }
  return yield* refused(`parts of ${own.home} are mounted in it at more than ${placesMax} places`)
})

/**
 * Opens the mounts of a definition. `trusted` are mounts of our own making, such as models, whose sources may be in the home.
 */
export const settleMounts = Effect.fn("Keeper.mounts")(function* (
  config: Pick<SandboxConfig, "mounts" | "tmpfs">,
  trusted: ReadonlyArray<Mount> = []
): Effect.fn.Return<SettledMounts, MountRefused, Paths> {
  const asked = config.mounts ?? []
  const own = asked.length === 0 ? undefined : yield* secrets
  const opened = [
    ...(yield* Effect.forEach(asked, (mount) =>
      Effect.map(openMount(mount, own!), (share) => ({ share, target: mount.target }))
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
