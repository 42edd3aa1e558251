/**
 * Loads libkrunfw, the kernel bundle that libkrun boots, and reads the kernel out of it.
 * Decides nothing about where the library is (locate.ts) or what the kernel becomes (vm/engines/kernelElf.ts).
 */
import { dlopen, FFIType, ptr, toArrayBuffer } from "bun:ffi"

/** The guest kernel as libkrunfw carries it. */
export interface BundledKernel {
  /** Guest physical address where the image belongs. */
  readonly loadAddress: bigint
  /** Entry point of the 64-bit boot protocol. */
  readonly entryAddress: bigint
  /** The uncompressed image: a copy, owned by the caller. */
  readonly image: Uint8Array
}

/** The largest kernel image taken from a bundle, in bytes; the known ones have 15 to 20 MB. */
const IMAGE_BYTES_MAX = 256 * 1024 * 1024

/**
 * Loads the library by absolute path for the life of the process. libkrun then finds it by its soname, without
 * LD_LIBRARY_PATH, among the objects that are loaded already. Throws what the loader says.
 */
export const loadKrunfw = (path: string): void => {
  dlopen(path, { krunfw_get_version: { args: [], returns: FFIType.i32 } })
}

/** Copies the kernel out of the library. `krunfw_get_kernel` returns a pointer to the library's own read-only data. */
export const readKernel = (path: string): BundledKernel => {
  const library = dlopen(path, {
    krunfw_get_kernel: { args: [FFIType.ptr, FFIType.ptr, FFIType.ptr], returns: FFIType.ptr }
  })
  const [load, entry, size] = [new BigUint64Array(1), new BigUint64Array(1), new BigUint64Array(1)]
  const start = library.symbols.krunfw_get_kernel(ptr(load), ptr(entry), ptr(size))
  const bytes = size[0]!
  if (start === null || bytes === 0n || bytes > BigInt(IMAGE_BYTES_MAX)) throw new Error(`${path} holds no kernel`)
  const image = new Uint8Array(toArrayBuffer(start, 0, Number(bytes))).slice()
  return { loadAddress: load[0]!, entryAddress: entry[0]!, image }
}
