/**
 * Times the guest's boot under libkrun, from the start of a process to the agent's first word, for lists of kernel words: which of
 * them are worth having is decided with this. Starts the init disk alone; compares words, nothing else.
 *
 * usage: bun boot.js LIBKRUN LIBKRUNFW INIT_DISK RUNS OUT < lines of "name: words"   (inside the lab; see inside.sh)
 */
import { dlopen, FFIType as T } from "bun:ffi"
import fs from "node:fs"
import path from "node:path"
import { list, text } from "../support/cStrings.ts"

const [libkrun, libkrunfw, disk, ...rest] = process.argv.slice(2) as [string, string, string, ...Array<string>]
const base = ["root=/dev/vda", "rootfstype=erofs", "ro", "init=/init", "BUNKER_CHANNEL=vsock"]

/** Becomes the VM. */
const child = (socket: string, console_: string, words: ReadonlyArray<string>): never => {
  dlopen(libkrunfw, { krunfw_get_version: { args: [], returns: T.i32 } })
  const krun = dlopen(libkrun, {
    krun_create_ctx: { args: [], returns: T.i32 },
    krun_set_vm_config: { args: [T.u32, T.u8, T.u32], returns: T.i32 },
    krun_add_disk2: { args: [T.u32, T.ptr, T.ptr, T.u32, T.bool], returns: T.i32 },
    krun_add_vsock_port2: { args: [T.u32, T.u32, T.ptr, T.bool], returns: T.i32 },
    krun_set_console_output: { args: [T.u32, T.ptr], returns: T.i32 },
    krun_set_exec: { args: [T.u32, T.ptr, T.ptr, T.ptr], returns: T.i32 },
    krun_start_enter: { args: [T.u32], returns: T.i32 }
  }).symbols
  const context = krun.krun_create_ctx()
  krun.krun_set_vm_config(context, 1, 512)
  krun.krun_add_disk2(context, text("disk0"), text(disk), 0, true)
  krun.krun_add_vsock_port2(context, 1024, text(socket), false)
  krun.krun_set_console_output(context, text(console_))
  krun.krun_set_exec(context, text("/init"), list([]), list([...base, ...words]))
  krun.krun_start_enter(context)
  return process.exit(125)
}

/** Milliseconds until the agent called, undefined when it did not within six seconds. */
const boot = async (name: string, words: ReadonlyArray<string>, out: string): Promise<number | undefined> => {
  const socket = path.join("/tmp", `boot-${process.pid}.sock`)
  const console_ = path.join(out, `console-${name}.txt`)
  fs.rmSync(socket, { force: true })
  const called = Promise.withResolvers<number>()
  const listener = Bun.listen({
    unix: socket,
    socket: { data: () => called.resolve(performance.now()), open: () => {} }
  })
  const began = performance.now()
  const vm = Bun.spawn(
    [process.execPath, import.meta.path, libkrun, libkrunfw, disk, "child", socket, console_, ...words],
    {
      stdio: ["ignore", "ignore", "ignore"]
    }
  )
  const ended = await Promise.race([
    called.promise,
    vm.exited.then(() => undefined),
    Bun.sleep(6000).then(() => undefined)
  ])
  vm.kill("SIGKILL")
  await vm.exited
  listener.stop(true)
  return ended === undefined ? undefined : ended - began
}

if (rest[0] === "child") child(rest[1]!, rest[2]!, rest.slice(3))

const [runs, out] = [Number(rest[0]), rest[1]!]
const variants = (await Bun.stdin.text())
  .split("\n")
  .filter((line) => line.includes(":"))
  .map((line) => ({
    name: line.slice(0, line.indexOf(":")),
    words: line
      .slice(line.indexOf(":") + 1)
      .trim()
      .split(" ")
      .filter((word) => word !== "")
  }))
await boot("warm", [], out)
const times = new Map(variants.map(({ name }) => [name, [] as Array<string>]))
for (let run = 0; run < runs; run += 1) {
  for (const { name, words } of variants) {
    const ms = await boot(name, words, out)
    times.get(name)!.push(ms?.toFixed(1) ?? "failed")
    console.log(name, ms?.toFixed(1) ?? "failed")
  }
}
fs.writeFileSync(path.join(out, "boot.json"), JSON.stringify(Object.fromEntries(times), undefined, 2))
process.exit(0)
