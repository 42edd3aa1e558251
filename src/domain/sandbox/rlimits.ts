/** Reads limits of commands as people type them: `nofile=1024:2048`. Pure. */
import { Schema } from "effect"
import { ResourceLimit } from "./sandbox.ts"
import { isSoundLimit } from "./validation.ts"

const isName = Schema.is(ResourceLimit.fields.resource)

const value = (text: string): number | undefined => {
  if (text === "unlimited" || text === "-1") return -1
  return /^\d{1,15}$/.test(text) ? Number(text) : undefined
}

/** `NAME=SOFT[:HARD]`, -1 or `unlimited` for none; else what is wrong with it. */
export const parseRlimit = (text: string): ResourceLimit | string => {
  const [name = "", values = "", ...more] = text.split("=")
  const [softText = "", hardText = softText, ...rest] = values.split(":")
  if (more.length + rest.length > 0) return `"${text}" is not NAME=SOFT[:HARD]`
  if (!isName(name)) return `"${name}" is not a limit; there are ${ResourceLimit.fields.resource.literals.join(", ")}`
  const [soft, hard] = [value(softText), value(hardText)]
  if (soft === undefined || hard === undefined)
    return `"${values}" in "${text}" is not SOFT[:HARD], numbers or "unlimited"`
  if (!isSoundLimit({ soft, hard })) return `the soft limit in "${text}" is above the hard one`
  return { resource: name, soft, hard }
}

/** The same limits with later ones in place of earlier ones of the same name, as the guest channel takes them. */
export const mergeLimits = (
  ...layers: ReadonlyArray<ReadonlyArray<ResourceLimit> | undefined>
): ReadonlyArray<readonly [name: string, soft: number, hard: number]> => {
  const all = layers.flatMap((layer) => layer ?? [])
  return [...new Map(all.map((each) => [each.resource, [each.resource, each.soft, each.hard] as const])).values()]
}
