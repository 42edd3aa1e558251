/**
 * Starts this process over with one more word in its environment. Arguments are taken from /proc/self/cmdline and the
 * environment is left where it is: both reach the new start byte for byte, whatever their encoding.
 */

import { dlopen, FFIType, ptr } from "bun:ffi"
import fs from "node:fs"

/**
 * Sets the variable and executes the same program again (setenv(3), execv(3)): same process, same descriptors. Does not return
 * where it works. Where it does not (no glibc by that name, no /proc) it returns, and the process goes on as it is.
 */
export const execAgain = (name: string, value: string): void => {
  const string = FFIType.ptr
  try {
    const { setenv, execv } = dlopen("libc.so.6", {
      setenv: { args: [string, string, FFIType.i32], returns: FFIType.i32 },
      execv: { args: [string, string], returns: FFIType.i32 }
    }).symbols
    const words = fs.readFileSync("/proc/self/cmdline")
    const starts = [0, ...ends(words).map((end) => end + 1)].slice(0, -1)
    const first = ptr(words)
    // Held in variables until the call: the engine does not see that C reads them.
    const list = BigUint64Array.from([...starts.map((start) => BigInt(first + start)), 0n])
    const [program, key, text] = ["/proc/self/exe", name, value].map((word) => Buffer.from(`${word}\0`)) as [
      Buffer,
      Buffer,
      Buffer
    ]
    if (setenv(ptr(key), ptr(text), 1) === 0) execv(ptr(program), ptr(list))
  } catch {}
}

/** Offsets of the zero bytes. */
const ends = (bytes: Uint8Array): ReadonlyArray<number> => {
  const found: Array<number> = []
  for (let at = bytes.indexOf(0); at >= 0; at = bytes.indexOf(0, at + 1)) found.push(at)
  return found
}
