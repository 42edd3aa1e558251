/**
 * Writes the descriptor of a flat VMDK that lays several files end to end as one disk (VMware Virtual Disk Format 1.1,
 * "text descriptor" and "FLAT extents"). QEMU and libkrun (imago) read it. Touches no file.
 */
import path from "node:path"

const SECTOR = 512
/** QEMU reads at most so many characters of an extent's path. */
const PATH_MAX = 511

export interface Extent {
  /** Absolute path. */
  readonly path: string
  /** Length in bytes; a multiple of 512. */
  readonly bytes: number
}

/**
 * The descriptor's text, with extent paths relative to `descriptorDir`, so that descriptor and extents can be moved together.
 * Extents are marked RW because QEMU skips any other; open the disk read-only. A length that is not whole sectors, or a path
 * that the format can not hold, is a bug of the caller and throws.
 */
export const vmdkDescriptor = (descriptorDir: string, extents: ReadonlyArray<Extent>): string => {
  let sectors = 0
  const lines = extents.map((extent) => {
    const relative = path.relative(descriptorDir, extent.path)
    if (extent.bytes % SECTOR !== 0 || extent.bytes === 0)
      throw new RangeError(`${extent.path} is not made of whole sectors`)
    if (/["\r\n:]/.test(relative) || Buffer.byteLength(relative) > PATH_MAX) {
      throw new RangeError(`${relative} can not stand in a VMDK descriptor`)
    }
    sectors += extent.bytes / SECTOR
    return `RW ${extent.bytes / SECTOR} FLAT "${relative}" 0`
  })
  const cylinders = Math.min(Math.ceil(sectors / (16 * 63)), 65_535)
  return [
    "# Disk DescriptorFile",
    "version=1",
    "CID=fffffffe",
    "parentCID=ffffffff",
    'createType="twoGbMaxExtentFlat"',
    "",
    "# Extent description",
    ...lines,
    "",
    "# The Disk Data Base",
    "#DDB",
    "",
    'ddb.virtualHWVersion = "4"',
    `ddb.geometry.cylinders = "${cylinders}"`,
    'ddb.geometry.heads = "16"',
    'ddb.geometry.sectors = "63"',
    'ddb.adapterType = "ide"',
    ""
  ].join("\n")
}
