/** Says what may be mounted where in a guest, and in which order. Pure: looks at no host path. */
import type { ModelMount, Mount, SandboxConfig, TmpfsMount } from "./sandbox.ts"

/** Places of the kernel's own file systems; nothing is mounted there or below. */
const reserved = ["/proc", "/sys", "/dev"] as const

/** `/a//b/` is `/a/b`. */
const normal = (target: string): string =>
  `/${target
    .split("/")
    .filter((step) => step !== "")
    .join("/")}`

/** What is wrong with the mounts of a definition, as a phrase that names the target; undefined when nothing is. */
export const mountProblem = (config: Pick<SandboxConfig, "mounts" | "tmpfs" | "models">): string | undefined => {
  const targets = [...(config.mounts ?? []), ...(config.tmpfs ?? []), ...(config.models ?? [])].map(({ target }) =>
    normal(target)
  )
  for (const [index, target] of targets.entries()) {
    if (target === "/") return 'nothing can be mounted on "/"; the image is there'
    const place = reserved.find((each) => target === each || target.startsWith(`${each}/`))
    if (place !== undefined) return `"${target}" is in ${place}, which belongs to the guest's kernel`
    if (targets.indexOf(target) !== index) return `two mounts on "${target}"`
  }
  return undefined
}

/** The same mounts, those that others lie in first. */
export const inMountOrder = <M extends { readonly target: string }>(mounts: ReadonlyArray<M>): ReadonlyArray<M> =>
  mounts
    .map((mount) => ({ ...mount, target: normal(mount.target) }))
    .sort((a, b) => a.target.split("/").length - b.target.split("/").length)

/** `HOST:GUEST[:ro|rw]`, or what is wrong with it. `resolve` makes an absolute path of the host's part. */
export const parseVolume = (text: string, resolve: (source: string) => string): Mount | string => {
  const [source = "", target, mode = "rw", ...more] = text.split(":")
  if (target === undefined || source === "" || more.length > 0) return `"${text}" is not HOST:GUEST or HOST:GUEST:ro`
  if (mode !== "ro" && mode !== "rw") return `"${mode}" in "${text}" is neither ro nor rw`
  if (!target.startsWith("/")) return `"${target}" in "${text}" is not an absolute path in the guest`
  if (!source.includes("/") && source !== "." && source !== "..") {
    return `there are no named volumes; for the directory "${source}" write "./${source}:${target}"`
  }
  return { source: resolve(source), target, readOnly: mode === "ro" }
}

/** `/path` or `/path:size=64m`, or what is wrong with it. `size` reads a size in MiB, undefined when it is none. */
export const parseTmpfs = (text: string, size: (text: string) => number | undefined): TmpfsMount | string => {
  const [target = "", options, ...more] = text.split(":")
  if (!target.startsWith("/") || more.length > 0) return `"${text}" is not /path or /path:size=64m`
  if (options === undefined) return { target }
  const sizeMb = options.startsWith("size=") ? size(options.slice("size=".length)) : undefined
  return sizeMb === undefined ? `"${options}" in "${text}" is not size=64m` : { target, sizeMb }
}

/** `NAME` or `NAME:/path`, by default `/models/NAME`, or what is wrong with it. */
export const parseModelMount = (text: string): ModelMount | string => {
  const [name = "", target = `/models/${name}`, ...more] = text.split(":")
  if (!/^[A-Za-z_][A-Za-z0-9_-]{0,127}$/.test(name) || more.length > 0) return `"${text}" is not NAME or NAME:/path`
  return target.startsWith("/") ? { name, target } : `"${target}" in "${text}" is not an absolute path in the guest`
}
