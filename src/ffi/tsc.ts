/**
 * Reads the processor's time stamp counter, which JavaScript has no way to reach.
 * Does not convert it to time (vm/engines/tscRate.ts does). x86-64 only.
 */
import { CFunction, dlopen, FFIType, type Pointer, toArrayBuffer } from "bun:ffi"

/** rdtsc; shl rdx, 32; or rax, rdx; ret: returns the counter by the C calling convention, touches no memory. */
const CODE = Uint8Array.of(0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0xc3)

const PROT_READ = 1
const PROT_WRITE = 2
const PROT_EXEC = 4
const MAP_PRIVATE = 2
const MAP_ANONYMOUS = 0x20
const PAGE_BYTES = 4096

/**
 * A function that reads the counter, or undefined where the kernel forbids executable pages. The page that holds its ten
 * bytes is written first, then made executable and never writable again; it lives as long as the process. Blocks nothing.
 */
export const timeStampCounter = (): (() => bigint) | undefined => {
  const { i32, i64, u64, ptr } = FFIType
  const libc = dlopen("libc.so.6", {
    mmap: { args: [ptr, u64, i32, i32, i32, i64], returns: ptr },
    mprotect: { args: [ptr, u64, i32], returns: i32 }
  }).symbols
  const page = libc.mmap(null, BigInt(PAGE_BYTES), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0n)
  // MAP_FAILED is (void *) -1, which no longer is a small number once it went through a double.
  if (page === null || page >= 2 ** 47) return undefined
  new Uint8Array(toArrayBuffer(page, 0, PAGE_BYTES)).set(CODE)
  if (libc.mprotect(page, BigInt(PAGE_BYTES), PROT_READ | PROT_EXEC) !== 0) return undefined
  return CFunction({ ptr: page as Pointer, args: [], returns: u64 }) as unknown as () => bigint
}
