/**
 * Checks the superblock of an EROFS file of ours without reading anything else: the cheap look before each use. It tells a file
 * that is missing, cut, zeroed at its start or another's from a good one; it does not see a changed byte further inside.
 */
import { Buffer } from "node:buffer"
import fs from "node:fs"
import { CryptoHasher } from "bun"
import { BLOCK, crc32c, SUPER_MAGIC, SUPER_OFFSET } from "./format.ts"

/** What a good superblock says of its file. */
export interface Seal {
  readonly bytes: number
  /** 32 hexadecimal digits. */
  readonly uuid: string
}

/** The seal of a file; undefined when it is missing or damaged. */
export const readSeal = (file: string): Seal | undefined => {
  let fd: number
  try {
    fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW)
  } catch {
    return undefined
  }
  try {
    const bytes = fs.fstatSync(fd).size
    const first = Buffer.alloc(BLOCK)
    if (fs.readSync(fd, first, 0, BLOCK, 0) !== BLOCK) return undefined
    const sb = first.subarray(SUPER_OFFSET)
    const checksum = sb.readUInt32LE(4)
    sb.writeUInt32LE(0, 4)
    if (sb.readUInt32LE(0) !== SUPER_MAGIC || crc32c(sb) !== checksum || sb.readUInt32LE(36) * BLOCK !== bytes)
      return undefined
    return { bytes, uuid: sb.toString("hex", 48, 64) }
  } catch {
    return undefined
  } finally {
    fs.closeSync(fd)
  }
}

/** The uuid of a layer's image: the first half of its diff id. */
export const layerUuid = (diffId: string): string => diffId.slice("sha256:".length, "sha256:".length + 32)

/** The uuid of the merged metadata of layers, bottom to top. */
export const mergedUuid = (layerUuids: ReadonlyArray<string>): string => {
  const identity = new CryptoHasher("sha256")
  for (const uuid of layerUuids) identity.update(uuid, "hex")
  return identity.digest("hex").slice(0, 32)
}
