/**
 * Binds libkrun 1.16's C API (include/libkrun.h), one symbol a line, and checks every argument before it crosses over.
 * Holds no policy: which calls are made, in which order and with which values is decided in vm/.
 *
 * Holds for every symbol of the table unless its line says otherwise:
 * - Memory: strings and arrays are borrowed for the time of the call; libkrun copies what it keeps. `call` keeps the
 *   buffers referenced until the call has returned. Nothing returned has to be freed.
 * - Threads: contexts live in a table behind a mutex, so any thread may call; no call blocks, but `krun_start_enter`.
 * - Result: zero or a positive value, or a negative errno, which `call` throws as CallFailed.
 * - NULL where libkrun expects a string kills the process, as do bytes outside printable ASCII in words that travel on
 *   the guest's kernel command line; more than 2,048 bytes of those hang it. `call` refuses all of these with EINVAL.
 */
import { dlopen, FFIType, type Pointer, ptr } from "bun:ffi"
import { CallFailed, errnoName } from "./errno.ts"

/** Kinds of arguments: how they are checked and what C type they become. */
interface Kinds {
  readonly u8: number
  readonly u32: number
  readonly i32: number
  readonly u64: bigint
  readonly bool: boolean
  /** An open descriptor, or -1 for none; libkrun uses the number itself and closes it when the VM ends. */
  readonly fd: number
  /** A path or name: no NUL, at most 4,095 bytes. */
  readonly text: string
  readonly optionalText: string | null
  /** Printable ASCII without blanks, quotes or backslashes; it becomes a part of the kernel command line. */
  readonly word: string
  /** At most 31 words with 2,048 bytes in all, passed as a NULL-terminated array. */
  readonly words: ReadonlyArray<string>
  /** Six bytes. */
  readonly mac: Uint8Array
}
type Kind = keyof Kinds
type Arguments<K extends ReadonlyArray<Kind>> = { [I in keyof K]: Kinds[K[I]] }

export const KRUN_DISK_RAW = 0
export const KRUN_DISK_VMDK = 2

/** Every symbol in use or in reach, with its arguments in order; all return int32_t. */
export const KRUN_API = {
  /** Log level of the library to stderr: 0 off, 1 error … 5 trace. At most once in a process, else it aborts. */
  krun_set_log_level: ["u32"],
  /** Log target descriptor (-1 stderr), level, style (0 auto, 2 never), options (1 = ignore RUST_LOG). Once; aborts when out of range. */
  krun_init_log: ["fd", "u32", "u32", "u32"],
  /** Makes a context and returns its id. */
  krun_create_ctx: [],
  /** Drops a context that was not entered. */
  krun_free_ctx: ["u32"],
  /** Context, vCPUs, memory in MiB. Accepts absurd sizes; below 64 MiB the start aborts. */
  krun_set_vm_config: ["u32", "u8", "u32"],
  /** Root by virtiofs: a host directory. Not checked before the start. */
  krun_set_root: ["u32", "text"],
  /** Root remounted from a block device: device, file system type, options. Loses the guest's exit code. */
  krun_set_root_disk_remount: ["u32", "text", "optionalText", "optionalText"],
  /** Raw disk: block id, path, read-only. The path is opened at the start, not now. */
  krun_add_disk: ["u32", "text", "text", "bool"],
  /** Disk: block id, path, format (0 raw, 1 qcow2, 2 VMDK), read-only. A VMDK names further files that the guest then reads. */
  krun_add_disk2: ["u32", "text", "text", "u32", "bool"],
  /** Disk as above, then direct I/O, sync mode (0 none, 1 relaxed, 2 full). Missing from some builds. */
  krun_add_disk3: ["u32", "text", "text", "u32", "bool", "bool", "u32"],
  /** Shared directory: tag, host path. Writable by the guest with the runner's rights. */
  krun_add_virtiofs: ["u32", "text", "text"],
  /** Shared directory: tag, host path, DAX window in bytes. */
  krun_add_virtiofs2: ["u32", "text", "text", "u64"],
  /** Network device on a unix stream socket: path or descriptor, MAC, features, flags. Any network device switches TSI off. */
  krun_add_net_unixstream: ["u32", "optionalText", "fd", "mac", "u32", "u32"],
  /** Network device on a unix datagram socket: path or descriptor, MAC, features, flags. */
  krun_add_net_unixgram: ["u32", "optionalText", "fd", "mac", "u32", "u32"],
  /** Network device on a tap interface: interface name, MAC, features, flags. */
  krun_add_net_tap: ["u32", "text", "mac", "u32", "u32"],
  /** TSI's map of listening ports, `host:guest` each; an empty list opens none, never calling it opens all on 0.0.0.0. */
  krun_set_port_map: ["u32", "words"],
  /** vsock port on a unix socket that a host process listens on. */
  krun_add_vsock_port: ["u32", "u32", "text"],
  /** vsock port on a unix socket; true: libkrun listens there (EEXIST when the path exists), false: a host process does. */
  krun_add_vsock_port2: ["u32", "u32", "text", "bool"],
  /** Console output to a file that libkrun creates or truncates; stdin is ignored then. A second call answers EINVAL. */
  krun_set_console_output: ["u32", "text"],
  /** No console but those added by hand. */
  krun_disable_implicit_console: ["u32"],
  /** The kernel's `console=` word. */
  krun_set_kernel_console: ["u32", "word"],
  /** Virtio console on three descriptors: in, out, err. */
  krun_add_virtio_console_default: ["u32", "fd", "fd", "fd"],
  /** Virtio console with named ports; returns its id. */
  krun_add_virtio_console_multiport: ["u32"],
  /** Terminal port of such a console: id, name, tty descriptor (ENOTTY when it is none). */
  krun_add_console_port_tty: ["u32", "u32", "text", "fd"],
  /** Byte port of such a console: id, name, input and output descriptors. */
  krun_add_console_port_inout: ["u32", "u32", "text", "fd", "fd"],
  /** Serial port: input, output descriptors. */
  krun_add_serial_console_default: ["u32", "fd", "fd"],
  /** Program in the guest, its arguments and environment, all on the kernel command line. */
  krun_set_exec: ["u32", "word", "words", "words"],
  /** Environment alone, on the kernel command line. */
  krun_set_env: ["u32", "words"],
  /** Working directory for libkrun's own init. */
  krun_set_workdir: ["u32", "word"],
  /** Resource limits for libkrun's own init, `NUMBER=soft:hard` each. */
  krun_set_rlimits: ["u32", "words"],
  /** A kernel of the caller: path, format (1 ELF), initramfs, command line. */
  krun_set_kernel: ["u32", "text", "u32", "optionalText", "optionalText"],
  /** User id taken just before the VM starts. */
  krun_setuid: ["u32", "u32"],
  /** Group id taken just before the VM starts. */
  krun_setgid: ["u32", "u32"],
  /** Nested virtualization for the guest. */
  krun_set_nested_virt: ["u32", "bool"],
  /** 1 when the host can nest, 0 when not. */
  krun_check_nested_virt: [],
  /** Interrupt controller split between host and guest. */
  krun_split_irqchip: ["u32", "bool"],
  /** The most vCPUs that KVM gives to a VM; opens /dev/kvm. */
  krun_get_max_vcpus: [],
  /** Descriptor that asks the guest to shut down; EINVAL on x86-64. */
  krun_get_shutdown_eventfd: ["u32"],
  /**
   * Boots and runs the VM on the calling thread and does not come back: the process ends by _exit() with the guest's code
   * and nothing of JavaScript is flushed. Returns a negative errno only when the VM could not be started.
   */
  krun_start_enter: ["u32"]
} as const satisfies Record<string, ReadonlyArray<Kind>>

export type KrunCall = keyof typeof KRUN_API
type KrunArguments<C extends KrunCall> = Arguments<(typeof KRUN_API)[C]>

const C_TYPES: { readonly [K in Kind]: FFIType } = {
  u8: FFIType.u8,
  u32: FFIType.u32,
  i32: FFIType.i32,
  u64: FFIType.u64,
  bool: FFIType.bool,
  fd: FFIType.i32,
  text: FFIType.ptr,
  optionalText: FFIType.ptr,
  word: FFIType.ptr,
  words: FFIType.ptr,
  mac: FFIType.ptr
}

/** Words on the kernel command line: printable ASCII without the characters that end or quote a word. */
const WORD = /^[\x21\x23-\x5b\x5d-\x7e]*$/
const WORDS_MAX = 31
const WORD_BYTES_MAX = 2048
const TEXT_BYTES_MAX = 4095

/** The subset of libkrun's calls that was asked for, looked up in one library. */
export interface Krun<C extends KrunCall> {
  /** Makes one call; throws CallFailed for an argument that is refused here and for a negative result. */
  readonly call: <N extends C>(name: N, ...values: KrunArguments<N>) => number
}

/**
 * Loads the library at an absolute path and looks up `names`; throws when the file can not be loaded or lacks one of them.
 * Load libkrunfw first (ffi/libkrunfw.ts), or `krun_start_enter` does not find it. The library is never unloaded.
 */
export const openKrun = <const C extends KrunCall>(path: string, names: ReadonlyArray<C>): Krun<C> => {
  const wanted: Record<string, { args: Array<FFIType>; returns: FFIType }> = {}
  for (const name of names) wanted[name] = { args: KRUN_API[name].map((kind) => C_TYPES[kind]), returns: FFIType.i32 }
  const library = dlopen(path, wanted)
  return {
    call: (name, ...values) => {
      const kinds: ReadonlyArray<Kind> = KRUN_API[name]
      const owned: Array<Uint8Array | BigUint64Array> = []
      const words = kinds.map((kind, index) => marshal(name, kind, values[index], owned))
      const run = library.symbols[name] as (...words: ReadonlyArray<unknown>) => number
      const result = run(...words)
      // Keeps the buffers alive to here: the garbage collector knows nothing of the pointers into them.
      if (result < 0) throw new CallFailed(name, describe(kinds, values, owned.length), errnoName(result))
      return result
    }
  }
}

const marshal = (call: string, kind: Kind, value: unknown, owned: Array<Uint8Array | BigUint64Array>): unknown => {
  const refuse = (why: string): never => {
    throw new CallFailed(call, `${kind} ${why}`, "EINVAL")
  }
  const integer = (minimum: number, maximum: number): unknown =>
    Number.isInteger(value) && (value as number) >= minimum && (value as number) <= maximum
      ? value
      : refuse(`out of range: ${String(value)}`)
  const borrow = (bytes: Uint8Array | BigUint64Array): Pointer => {
    owned.push(bytes)
    return ptr(bytes)
  }
  const text = (of: unknown, bytesMax: number): Pointer => {
    if (typeof of !== "string") return refuse("is not a string")
    if (of.includes("\0")) return refuse("has a NUL")
    const bytes = Buffer.from(`${of}\0`, "utf8")
    return bytes.length - 1 > bytesMax ? refuse(`is longer than ${bytesMax} bytes`) : borrow(bytes)
  }
  const word = (of: unknown): Pointer =>
    typeof of === "string" && WORD.test(of) ? text(of, WORD_BYTES_MAX) : refuse(`is not a plain word: ${String(of)}`)
  switch (kind) {
    case "u8":
      return integer(0, 0xff)
    case "u32":
      return integer(0, 0xffff_ffff)
    case "i32":
      return integer(-0x8000_0000, 0x7fff_ffff)
    case "fd":
      return integer(-1, 0x7fff_ffff)
    case "u64":
      return typeof value === "bigint" && value >= 0n && value < 1n << 64n ? value : refuse("out of range")
    case "bool":
      return typeof value === "boolean" ? value : refuse("is not a boolean")
    case "text":
      return text(value, TEXT_BYTES_MAX)
    case "optionalText":
      return value === null ? null : text(value, TEXT_BYTES_MAX)
    case "word":
      return word(value)
    case "words": {
      if (!Array.isArray(value) || value.length > WORDS_MAX) return refuse(`are not at most ${WORDS_MAX} words`)
      if (value.join(" ").length > WORD_BYTES_MAX) return refuse(`are longer than ${WORD_BYTES_MAX} bytes`)
      const table = new BigUint64Array(value.length + 1)
      for (const [index, each] of value.entries()) table[index] = BigInt(word(each))
      return borrow(table)
    }
    case "mac":
      return value instanceof Uint8Array && value.length === 6 ? borrow(value) : refuse("is not six bytes")
  }
}

/** The arguments that tell two calls apart, for people: strings as they are, numbers but the context, no bytes. */
const describe = (kinds: ReadonlyArray<Kind>, values: ReadonlyArray<unknown>, buffers: number): string => {
  const shown = values.filter((_, index) => index > 0 && kinds[index] !== "mac")
  return shown.length === 0 && buffers === 0 ? String(values[0] ?? "") : shown.map(String).join(", ")
}
