/**
 * Reads and sets the modes of a terminal (termios(3)), which Node's raw mode sets in part: it leaves the processing of output on, so
 * that a line feed gets a carriage return. Keeps no state and decides nothing.
 *
 * Holds for every call: it is of glibc, whose `struct termios` has 60 bytes on x86-64 and arm64; the structure is borrowed for the
 * call; setting may stop a process in the background (SIGTTOU).
 */
import { dlopen, FFIType, type Pointer, ptr, read } from "bun:ffi"
import { CallFailed, errnoName } from "./errno.ts"

const termiosBytes = 60
const TCSANOW = 0
const { i32, ptr: pointer } = FFIType

let loaded: ReturnType<typeof load> | undefined
const load = () =>
  dlopen("libc.so.6", {
    __errno_location: { args: [], returns: pointer },
    tcgetattr: { args: [i32, pointer], returns: i32 },
    tcsetattr: { args: [i32, i32, pointer], returns: i32 },
    cfmakeraw: { args: [pointer], returns: FFIType.void }
  }).symbols
const libc = () => (loaded ??= load())

const check = (call: string, fd: number, result: number): void => {
  if (result === 0) return
  throw new CallFailed(call, String(fd), errnoName(read.i32(libc().__errno_location() as Pointer, 0)))
}

/** The modes of a terminal, opaque. */
export type TerminalState = Uint8Array

/** The modes of the terminal behind a descriptor; ENOTTY where there is none. */
export const terminalState = (fd: number): TerminalState => {
  const state = new Uint8Array(termiosBytes)
  check("tcgetattr", fd, libc().tcgetattr(fd, ptr(state)))
  return state
}

/** Sets all modes at once. */
export const setTerminalState = (fd: number, state: TerminalState): void =>
  check("tcsetattr", fd, libc().tcsetattr(fd, TCSANOW, ptr(state)))

/** The modes in which every byte passes as it is, both ways: nothing is echoed, edited, translated or made a signal of. */
export const rawState = (state: TerminalState): TerminalState => {
  const raw = Uint8Array.from(state)
  libc().cfmakeraw(ptr(raw))
  return raw
}
