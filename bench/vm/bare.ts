/**
 * The smallest program that runs a command in a VM with stock libkrun: the yardstick of the others. No image, no lock, no
 * record, no network switch, no check; libkrun's own init runs the command, its output comes over libkrun's console ports.
 *
 * usage: bun bare.ts LIBKRUN LIBKRUNFW ROOT_DIRECTORY COMMAND [ARG...]
 */
import { dlopen, FFIType as T } from "bun:ffi"
import { list, text } from "../support/cStrings.ts"

const [libkrun, libkrunfw, root, command, ...rest] = process.argv.slice(2) as [string, string, string, string]

dlopen(libkrunfw, { krunfw_get_version: { args: [], returns: T.i32 } })
const krun = dlopen(libkrun, {
  krun_create_ctx: { args: [], returns: T.i32 },
  krun_set_vm_config: { args: [T.u32, T.u8, T.u32], returns: T.i32 },
  krun_set_root: { args: [T.u32, T.ptr], returns: T.i32 },
  krun_set_exec: { args: [T.u32, T.ptr, T.ptr, T.ptr], returns: T.i32 },
  krun_start_enter: { args: [T.u32], returns: T.i32 }
}).symbols

const context = krun.krun_create_ctx()
krun.krun_set_vm_config(context, 1, 512)
krun.krun_set_root(context, text(root))
krun.krun_set_exec(context, text(command), list(rest), list(["PATH=/bin"]))
console.error(`krun_start_enter came back: ${krun.krun_start_enter(context)}`)
process.exit(125)
