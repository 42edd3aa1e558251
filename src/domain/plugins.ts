/** Orders plugins so that each comes after what it needs, and decides permissions. Pure; loads nothing. */
import { Result } from "effect"
import { PluginCycle, PluginDuplicate, type PluginError, PluginMissing } from "./errors/plugin.ts"

export interface Node {
  readonly name: string
  readonly deps: ReadonlyArray<string>
}

/** Dependencies first; among free ones the given order stays. A missing, duplicate or cyclic plugin is refused by name. */
export const sortByDeps = <P extends Node>(plugins: ReadonlyArray<P>): Result.Result<ReadonlyArray<P>, PluginError> => {
  const byName = new Map<string, P>()
  for (const plugin of plugins) {
    if (byName.has(plugin.name)) return Result.fail(new PluginDuplicate({ plugin: plugin.name }))
    byName.set(plugin.name, plugin)
  }
  const sorted: Array<P> = []
  const done = new Set<string>()
  const visit = (plugin: P, trail: ReadonlyArray<string>): PluginError | undefined => {
    if (done.has(plugin.name)) return undefined
    const again = trail.indexOf(plugin.name)
    if (again >= 0) return new PluginCycle({ names: [...trail.slice(again), plugin.name] })
    for (const dep of plugin.deps) {
      const needed = byName.get(dep)
      if (needed === undefined) return new PluginMissing({ plugin: dep, neededBy: plugin.name })
      const error = visit(needed, [...trail, plugin.name])
      if (error !== undefined) return error
    }
    done.add(plugin.name)
    sorted.push(plugin)
    return undefined
  }
  for (const plugin of plugins) {
    const error = visit(plugin, [])
    if (error !== undefined) return Result.fail(error)
  }
  return Result.succeed(sorted)
}

/** The named plugins and, transitively, all that they need, in the order given. */
export const closure = <P extends Node>(sorted: ReadonlyArray<P>, names: ReadonlyArray<string>): ReadonlyArray<P> => {
  const wanted = new Set(names)
  for (const plugin of sorted.toReversed()) if (wanted.has(plugin.name)) for (const dep of plugin.deps) wanted.add(dep)
  return sorted.filter((plugin) => wanted.has(plugin.name))
}

/** Permissions by pattern: `images:pull`, `images:*` or `*`. */
export interface Policy {
  readonly allow: ReadonlyArray<string>
  readonly deny: ReadonlyArray<string>
}

const matches = (pattern: string, permission: string): boolean =>
  pattern === "*" || pattern === permission || (pattern.endsWith(":*") && permission.startsWith(pattern.slice(0, -1)))

/** Deny wins; what no pattern allows is denied. */
export const permits = (policy: Policy, permission: string): boolean =>
  !policy.deny.some((pattern) => matches(pattern, permission)) &&
  policy.allow.some((pattern) => matches(pattern, permission))
