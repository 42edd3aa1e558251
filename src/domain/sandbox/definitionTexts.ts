/**
 * Reads and writes mounts, ports and limits in the `config.toml` of a machine as they are typed on the command line, where a table
 * would say the same. Pure.
 */

import { snakeCase, type WireIssue } from "../wire.ts"
import { parseTmpfs, parseVolume } from "./mounts.ts"
import { formatAddress, parsePort } from "./ports.ts"
import { parseRlimit } from "./rlimits.ts"
import type { Mount, PublishedPort, SandboxConfig, TmpfsMount } from "./sandbox.ts"

/** `64m`, `1g`, `64`: MiB. */
const parseSize = (text: string): number | undefined => {
  const [, count, unit = ""] = /^(\d{1,7})([mg]?)$/i.exec(text) ?? []
  return count === undefined ? undefined : Number(count) * (unit.toLowerCase() === "g" ? 1024 : 1)
}

/** Parsers of one element by the key of its list. A parser answers what is wrong as a text. */
const parsers: Readonly<Record<string, (text: string) => object | string>> = {
  mounts: (text) => parseVolume(text, (source) => source),
  tmpfs: (text) => parseTmpfs(text, parseSize),
  ports: parsePort,
  rlimits: parseRlimit
}

const toTable = (value: object): Readonly<Record<string, unknown>> =>
  Object.fromEntries(Object.entries(value).map(([key, item]) => [snakeCase(key), item]))

type Document = Readonly<Record<string, unknown>>

/** The document with tables in place of texts, or what is wrong with a text. */
export const readTexts = (document: Document): { readonly document: Document } | { readonly issue: WireIssue } => {
  const read: Record<string, unknown> = { ...document }
  for (const [key, parse] of Object.entries(parsers)) {
    const list = document[key]
    if (!Array.isArray(list)) continue
    const tables: Array<unknown> = []
    for (const [index, element] of list.entries()) {
      const parsed = typeof element === "string" ? parse(element) : element
      if (typeof parsed === "string") return { issue: { path: `${key}.${index}`, message: parsed } }
      tables.push(typeof element === "string" ? toTable(parsed) : element)
    }
    read[key] = tables
  }
  return { document: read }
}

/** A path with a colon has no text. */
const volumeText = ({ source, target, readOnly }: Mount): string | Mount =>
  `${source}${target}`.includes(":") ? { source, target, readOnly } : `${source}:${target}${readOnly ? ":ro" : ""}`
const tmpfsText = ({ target, sizeMb }: TmpfsMount): string | TmpfsMount => {
  if (target.includes(":")) return { target, ...(sizeMb === undefined ? {} : { sizeMb }) }
  return sizeMb === undefined ? target : `${target}:size=${sizeMb}m`
}
const portText = ({ hostIp, hostPort, guestPort }: PublishedPort): string =>
  `${formatAddress(hostIp, hostPort)}:${guestPort}`

/** The lists of a definition as texts, by the keys of the file; what has no text is a table. */
export const writeTexts = ({ mounts, tmpfs, ports }: Pick<SandboxConfig, "mounts" | "tmpfs" | "ports">): Document => {
  const lists = { mounts: mounts?.map(volumeText), tmpfs: tmpfs?.map(tmpfsText), ports: ports?.map(portText) }
  return Object.fromEntries(
    Object.entries(lists).flatMap(([key, list]) =>
      list === undefined ? [] : [[key, list.map((item) => (typeof item === "string" ? item : toTable(item)))]]
    )
  )
}
