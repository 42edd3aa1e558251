/** Tells which process listens on a TCP port of this machine, from procfs (proc(5)). Opens no socket. */
import fs from "node:fs"
import { readText } from "./files.ts"

/** A process that listens. */
export interface Listener {
  readonly pid: number
  /** Its command line, at most 200 characters. */
  readonly command: string
}

const LISTEN = "0A"

/** Inodes of the sockets that listen on a port, whatever the address. */
const listeningInodes = (port: number): ReadonlySet<string> => {
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, "0")}`
  const found = new Set<string>()
  for (const file of ["/proc/net/tcp", "/proc/net/tcp6"]) {
    for (const line of (readText(file) ?? "").split("\n").slice(1)) {
      const [, local = "", , state, , , , , , inode = ""] = line.trim().split(/\s+/)
      if (state === LISTEN && local.endsWith(wanted)) found.add(inode)
    }
  }
  return found
}

const listing = (directory: string): ReadonlyArray<string> => {
  try {
    return fs.readdirSync(directory)
  } catch {
    return []
  }
}

const holdsOne = (pid: string, inodes: ReadonlySet<string>): boolean =>
  listing(`/proc/${pid}/fd`).some((fd) => {
    try {
      const inode = /^socket:\[(\d+)\]$/.exec(fs.readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1]
      return inode !== undefined && inodes.has(inode)
    } catch {
      return false
    }
  })

/** The process that listens on a port; undefined when there is none, or it belongs to somebody else. */
export const findListener = (port: number): Listener | undefined => {
  const inodes = listeningInodes(port)
  if (inodes.size === 0) return undefined
  const pid = listing("/proc").find((entry) => /^\d+$/.test(entry) && holdsOne(entry, inodes))
  if (pid === undefined) return undefined
  const words = (readText(`/proc/${pid}/cmdline`) ?? "").split("\0").filter((word) => word !== "")
  return { pid: Number(pid), command: words.join(" ").slice(0, 200) }
}
