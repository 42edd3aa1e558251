/**
 * Binds llistxattr(2) and lgetxattr(2), which node:fs lacks. Holds no policy: every name and value is given as the kernel has it.
 * Both calls follow no symbolic link, do not block but for the disk, and borrow the buffers for the time of the call only.
 */

import { dlopen, FFIType, ptr } from "bun:ffi"
import { Buffer } from "node:buffer"

const { i64, u64, ptr: pointer } = FFIType

let loaded: ReturnType<typeof load> | undefined

const load = () =>
  dlopen("libc.so.6", {
    llistxattr: { args: [pointer, pointer, u64], returns: i64 },
    lgetxattr: { args: [pointer, pointer, pointer, u64], returns: i64 }
  }).symbols

/** The kernel's own bounds (limits.h, XATTR_LIST_MAX and XATTR_SIZE_MAX), so that no call is made twice. */
const buffer = Buffer.allocUnsafeSlow(65_536)
const none: ReadonlyMap<string, Uint8Array> = new Map()

/**
 * Extended attributes of a file by their names (binary strings), sorted; `path` has no NUL. Empty where the file has none, the file
 * system knows none, or they may not be read.
 */
export const fileXattrs = (path: Uint8Array): ReadonlyMap<string, Uint8Array> => {
  const { lgetxattr, llistxattr } = (loaded ??= load())
  const file = Buffer.concat([path, Buffer.alloc(1)])
  const listed = Number(llistxattr(ptr(file), ptr(buffer), buffer.length))
  if (listed <= 0) return none
  const names = buffer
    .toString("latin1", 0, listed - 1)
    .split("\0")
    .sort()
  const found = new Map<string, Uint8Array>()
  for (const name of names) {
    const length = Number(lgetxattr(ptr(file), ptr(Buffer.from(`${name}\0`, "latin1")), ptr(buffer), buffer.length))
    if (length >= 0) found.set(name, Uint8Array.from(buffer.subarray(0, length)))
  }
  return found
}
