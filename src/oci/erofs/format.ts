/**
 * Names the numbers of the EROFS on-disk format, as in Linux `fs/erofs/erofs_fs.h` and
 * https://erofs.docs.kernel.org/en/latest/core_ondisk.html. Knows only the subset that Bunker writes: no compression, no
 * shared xattrs, no 48-bit addresses. All integers on disk are little endian.
 */

/** Block size in bytes and its logarithm; the only one Bunker writes or reads. */
export const BLOCK = 4096
export const BLOCK_BITS = 12

/** Place and length of the superblock, in bytes (`EROFS_SUPER_OFFSET`, `struct erofs_super_block`). */
export const SUPER_OFFSET = 1024
export const SUPER_SIZE = 128
/** Place and length of a note of our own in the first block, behind everything that EROFS puts there. */
export const NOTE_OFFSET = 2048
export const NOTE_SIZE = 64
export const SUPER_MAGIC = 0xe0f5e1e2

/** `feature_compat`: the superblock carries a crc32c; inode times are mtimes. */
export const COMPAT_SB_CHKSUM = 0x1
export const COMPAT_MTIME = 0x2

/** `feature_incompat`: chunk-based inodes exist; a device table exists. */
export const INCOMPAT_CHUNKED_FILE = 0x4
export const INCOMPAT_DEVICE_TABLE = 0x8

/** One slot of the device table, in bytes (`struct erofs_deviceslot`); `devt_slotoff` counts in these. */
export const DEVICE_SLOT = 128
export const DEVICE_TAG = 64

/** Extended inode, in bytes (`struct erofs_inode_extended`); node ids count in slots of 32 bytes. */
export const INODE_SIZE = 64
export const INODE_SLOT_BITS = 5
/** Bit 0 of `i_format`. */
export const INODE_EXTENDED = 1

/** Bits 1 to 3 of `i_format`: where the data is. */
export const LAYOUT_PLAIN = 0
export const LAYOUT_INLINE = 2
export const LAYOUT_CHUNK = 4

/** `chunk_info.format`: low five bits are chunk bits minus block bits; this one says 8-byte indexes. */
export const CHUNK_BITS_MASK = 0x1f
export const CHUNK_INDEXES = 0x20
export const CHUNK_INDEX_SIZE = 8
/** Block address of a hole. */
export const NULL_ADDRESS = 0xffffffff

/** Directory entry header, in bytes (`struct erofs_dirent`). */
export const DIRENT_SIZE = 12
export const NAME_MAX = 255

/** `struct erofs_xattr_ibody_header` and `struct erofs_xattr_entry`, in bytes. */
export const XATTR_HEADER = 12
export const XATTR_ENTRY = 4
export const XATTR_VALUE_MAX = 65_535
/** `i_xattr_icount` is 16 bits of 4-byte units after the header, plus one. */
export const XATTR_BODY_MAX = XATTR_HEADER + 4 * (65_535 - 1)

/** `e_name_index`: the part of the name that is not stored. ACL names are whole, their suffix is empty. */
export const XATTR_PREFIXES: ReadonlyArray<readonly [index: number, prefix: string, whole: boolean]> = [
  [1, "user.", false],
  [2, "system.posix_acl_access", true],
  [3, "system.posix_acl_default", true],
  [4, "trusted.", false],
  [6, "security.", false]
]

/** Type bits of `i_mode`, as in stat(2). */
export const S_IFMT = 0o170000
const S_IFSOCK = 0o140000
export const S_IFLNK = 0o120000
export const S_IFREG = 0o100000
export const S_IFBLK = 0o060000
export const S_IFDIR = 0o040000
export const S_IFCHR = 0o020000
export const S_IFIFO = 0o010000

/** `file_type` of a directory entry for the type bits of a mode (the kernel's `FT_*`). */
export const fileType = (mode: number): number => {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return 1
    case S_IFDIR:
      return 2
    case S_IFCHR:
      return 3
    case S_IFBLK:
      return 4
    case S_IFIFO:
      return 5
    case S_IFSOCK:
      return 6
    case S_IFLNK:
      return 7
    default:
      return 0
  }
}

/** Device number as the kernel's `new_encode_dev` packs it: 12 bits of major, 20 of minor. */
export const encodeDevice = (major: number, minor: number): number =>
  ((minor & 0xff) | (major << 8) | ((minor & 0xfff00) << 12)) >>> 0

/** Rounds up to a multiple of a power of two; right beyond 32 bits, too. */
export const roundUp = (value: number, unit: number): number => Math.ceil(value / unit) * unit

const CRC32C_TABLE = (() => {
  const table = new Uint32Array(256)
  for (let n = 0; n < 256; n++) {
    let c = n
    for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1
    table[n] = c
  }
  return table
})()

/** The kernel's `crc32c(~0, bytes)`: seeded with all ones and, unlike iSCSI's, not inverted at the end. */
export const crc32c = (bytes: Uint8Array): number => {
  let c = 0xffffffff
  for (let i = 0; i < bytes.length; i++) c = CRC32C_TABLE[(c ^ bytes[i]!) & 0xff]! ^ (c >>> 8)
  return c >>> 0
}
