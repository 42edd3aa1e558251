/** Tells which process listens on a TCP port of this machine, from procfs (proc(5)). Opens no socket. */
import fs from "node:fs"
import os from "node:os"
import { readText } from "../files/files.ts"

/** A process that listens. */
export interface Listener {
  readonly pid: number
  /** Its command line, at most 200 characters. */
  readonly command: string
}

const LISTEN = "0A"

/** `0100007F` of a little-endian machine is 127.0.0.1; 32 digits are an IPv6 address, four bytes at a time. */
const addressOf = (digits: string): string => {
  const bytes = Buffer.from(digits, "hex")
  if (os.endianness() === "LE") bytes.swap32()
  if (bytes.length === 4) return bytes.join(".")
  return Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(index * 2).toString(16)).join(":")
}

/** Inodes of the sockets that listen on a port of an address that fits. */
const listeningInodes = (port: number, fits: (address: string) => boolean): ReadonlySet<string> => {
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, "0")}`
  const found = new Set<string>()
  for (const file of ["/proc/net/tcp", "/proc/net/tcp6"]) {
    for (const line of (readText(file) ?? "").split("\n").slice(1)) {
      const [, local = "", , state, , , , , , inode = ""] = line.trim().split(/\s+/)
      if (state !== LISTEN || !local.endsWith(wanted)) continue
      if (fits(addressOf(local.slice(0, -wanted.length)))) found.add(inode)
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

/** The process that listens on a port of an address that fits; undefined when there is none, or it belongs to somebody else. */
export const findListener = (port: number, fits: (address: string) => boolean): Listener | undefined => {
  const inodes = listeningInodes(port, fits)
  if (inodes.size === 0) return undefined
  const pid = listing("/proc").find((entry) => /^\d+$/.test(entry) && holdsOne(entry, inodes))
  if (pid === undefined) return undefined
  const words = (readText(`/proc/${pid}/cmdline`) ?? "").split("\0").filter((word) => word !== "")
  return { pid: Number(pid), command: words.join(" ").slice(0, 200) }
}
