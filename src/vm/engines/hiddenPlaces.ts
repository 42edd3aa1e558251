/**
 * Finds where a directory that no guest may see would show in what is shared with one: at its own path, through bind mounts of it or of
 * what contains it, and through what is mounted inside of it. Pure: reads no file and mounts nothing.
 *
 * Places are compared as the kernel names them in /proc/self/mountinfo (proc(5)): a device, and a path in its file system.
 */
import path from "node:path"

/** One line of mountinfo. */
export interface MountPoint {
  /** `major:minor`. */
  readonly device: string
  /** The directory of the file system that is mounted. */
  readonly root: string
  /** Where. */
  readonly at: string
}

const unescape = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)))

/** The mounts of a mountinfo file; a later one covers an earlier one at the same place. */
export const parseMounts = (text: string): ReadonlyArray<MountPoint> =>
  text
    .split("\n")
    .map((line) => line.split(" "))
    .filter((fields) => fields.length > 5)
    .map(([, , device = "", root = "", at = ""]) => ({ device, root: unescape(root), at: unescape(at) }))

/** The part of `inner` below `outer`, "" for the same; undefined when it is not inside. */
const below = (outer: string, inner: string): string | undefined => {
  if (outer === inner) return ""
  const prefix = outer === "/" ? "/" : `${outer}/`
  return inner.startsWith(prefix) ? inner.slice(prefix.length) : undefined
}

const mountOf = (mounts: ReadonlyArray<MountPoint>, place: string): MountPoint | undefined =>
  mounts.reduce<MountPoint | undefined>(
    (best, mount) => (below(mount.at, place) !== undefined && mount.at.length >= (best?.at.length ?? 0) ? mount : best),
    undefined
  )

interface Location {
  readonly device: string
  readonly path: string
}

const locate = (mounts: ReadonlyArray<MountPoint>, place: string): Location | undefined => {
  const mount = mountOf(mounts, place)
  return mount && { device: mount.device, path: path.posix.join(mount.root, below(mount.at, place)!) }
}

/**
 * Where `hidden` show below `share`, as relative paths, the outermost alone; `"inside"` when the share itself is one of them or lies in one.
 * All paths are absolute and without links.
 */
export const hiddenPlaces = (
  mounts: ReadonlyArray<MountPoint>,
  share: string,
  hidden: ReadonlyArray<string>
): ReadonlyArray<string> | "inside" => {
  const locations = hidden.flatMap((place) => [
    ...[locate(mounts, place)].filter((found) => found !== undefined),
    ...mounts.filter(({ at }) => below(place, at)).map(({ device, root }) => ({ device, path: root }))
  ])
  const shared = locate(mounts, share)
  if (shared === undefined) return []
  const regions = [
    { ...shared, at: "" },
    ...mounts.flatMap(({ device, root, at }) => {
      const inner = below(share, at)
      return inner ? [{ device, path: root, at: inner }] : []
    })
  ]
  const places = new Set<string>()
  for (const region of regions) {
    for (const { device, path: secret } of locations) {
      if (device !== region.device) continue
      if (below(secret, region.path) !== undefined) {
        if (region.at === "") return "inside"
        places.add(region.at)
        continue
      }
      const deeper = below(region.path, secret)
      if (deeper === undefined) continue
      const place = path.posix.join(region.at, deeper)
      // Where something else is mounted over it, that is what shows.
      const covering = locate(mounts, path.posix.join(share, place))
      if (covering?.device === device && covering.path === secret) places.add(place)
    }
  }
  return [...places].filter((each) => ![...places].some((other) => other !== each && below(other, each) !== undefined))
}
