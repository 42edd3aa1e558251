/**
 * The process that becomes a VM: reads its configuration, holds the sandbox's lock, and enters libkrun or QEMU.
 * Supervises nothing, logs nothing and imports no more than the foreign calls it makes, since it starts once for every VM.
 *
 * - The lock is held by this process before anything of the VM is touched, and by nobody else until the process ends.
 * - Every failure before the guest runs is one line on the report descriptor; the exit code is 125 then and says no more.
 */
import fs from "node:fs"
import { CallFailed } from "../../ffi/errno.ts"
import { KRUN_DISK_RAW, KRUN_DISK_VMDK, openKrun } from "../../ffi/libkrun.ts"
import { loadKrunfw } from "../../ffi/libkrunfw.ts"
import {
  changeRoot,
  execve,
  getLimit,
  ownSession,
  parentPid,
  RLIMIT_CORE,
  RLIMIT_NOFILE,
  setCloseOnExec,
  setLimit,
  setParentDeathSignal,
  socketPair,
  tryLockExclusive
} from "../../ffi/posix.ts"
import {
  CARD_FD,
  CARD_MAC,
  CONFIG_BYTES_MAX,
  CONFIG_FD,
  type KrunStart,
  LOCK_FD,
  parseRunnerConfig,
  type QemuStart,
  REPORT_FD,
  type RunnerConfig,
  type RunnerReport
} from "./protocol.ts"

const SIGKILL = 9
/** Exit code of a runner that did not get to run a guest. */
const FAILED = 125

/** Runs the whole life of a runner; comes back never. */
export const runRunner = (): never => {
  try {
    const config = readConfig()
    prepareProcess(config)
    takeLock(config)
    return config.start.kind === "krun" ? enterKrun(config.start) : enterQemu(config.start)
  } catch (cause) {
    const known = cause instanceof CallFailed
    report({
      event: "error",
      call: known ? cause.call : "runner",
      argument: known ? cause.argument : "",
      errno: known ? cause.errno : String(cause instanceof Error ? cause.message : cause)
    })
    return process.exit(FAILED)
  }
}

/** Writes one line; a supervisor that is gone is no reason to stop. */
const report = (line: RunnerReport): void => {
  try {
    fs.writeSync(REPORT_FD, `${JSON.stringify(line)}\n`)
  } catch {}
}

const readConfig = (): RunnerConfig => {
  const buffer = Buffer.alloc(CONFIG_BYTES_MAX + 1)
  let length = 0
  for (;;) {
    const count = fs.readSync(CONFIG_FD, buffer, length, buffer.length - length, null)
    length += count
    if (length > CONFIG_BYTES_MAX) throw new CallFailed("read", "configuration", "EFBIG")
    if (count === 0) break
  }
  fs.closeSync(CONFIG_FD)
  const config = parseRunnerConfig(buffer.toString("utf8", 0, length))
  if (typeof config === "string") throw new CallFailed("read", `configuration field ${config}`, "EINVAL")
  return config
}

const prepareProcess = (config: RunnerConfig): void => {
  // Neither QEMU nor what libkrun might start inherits the report: its end of file tells the supervisor of the switch.
  setCloseOnExec(REPORT_FD, true)
  ownSession()
  if (config.dieWithParent) {
    setParentDeathSignal(SIGKILL)
    // A parent that ended before the line above sends no signal any more.
    if (parentPid() !== config.parentPid) throw new CallFailed("getppid", `parent ${config.parentPid}`, "ESRCH")
  }
  process.umask(0o077)
  const files = getLimit(RLIMIT_NOFILE)
  setLimit(RLIMIT_NOFILE, files.hard, files.hard)
  // A core dump would write the guest's memory to the host's disk.
  setLimit(RLIMIT_CORE, 0n, 0n)
}

/** Keeps the lock's descriptor open and inheritable: the lock lives as long as this process, under whatever program. */
const takeLock = (config: RunnerConfig): void => {
  // The supervisor has locked this open description, so this only fails when it did not, or another file was passed.
  if (!tryLockExclusive(LOCK_FD)) {
    report({ event: "already_running" })
    process.exit(FAILED)
  }
  setCloseOnExec(LOCK_FD, false)
  const stat = fs.readFileSync("/proc/self/stat", "utf8")
  const startTicks = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]
  fs.writeFileSync(config.pidPath, `${process.pid} ${startTicks}\n`)
}

const enter = (): void => report({ event: "entering", afterMs: Math.round(performance.now()) })

const MAC = Uint8Array.from(CARD_MAC.split(":"), (byte) => Number.parseInt(byte, 16))

/** Checksums and segmentation by the host, of TCP over both IPs and of UDP, in both directions (NET_FEATURE_* of libkrun.h). */
const CARD_FEATURES = 0x5d83

const enterKrun = (start: KrunStart): never => {
  loadKrunfw(start.libkrunfw)
  const krun = openKrun(start.libkrun, [
    "krun_set_log_level",
    "krun_create_ctx",
    "krun_set_vm_config",
    "krun_add_disk2",
    "krun_add_virtiofs",
    "krun_add_net_unixstream",
    "krun_add_vsock_port2",
    "krun_set_console_output",
    "krun_set_exec",
    "krun_start_enter"
  ])
  krun.call("krun_set_log_level", 1)
  const context = krun.call("krun_create_ctx")
  krun.call("krun_set_vm_config", context, start.cpus, start.memoryMb)
  for (const [index, disk] of start.disks.entries()) {
    const format = disk.format === "vmdk" ? KRUN_DISK_VMDK : KRUN_DISK_RAW
    krun.call("krun_add_disk2", context, `disk${index}`, disk.path, format, disk.readOnly)
  }
  if (start.share !== undefined) krun.call("krun_add_virtiofs", context, start.share.tag, "/shares")
  // Without any network device libkrun lets the guest use the host's network (TSI). A device whose other end is never
  // read takes that away; vsock ports keep working. Both ends stay open: a closed one hangs the start.
  const [card, features] = start.card ? [CARD_FD, CARD_FEATURES] : [socketPair()[0], 0]
  krun.call("krun_add_net_unixstream", context, null, card, MAC, features, 0)
  krun.call("krun_add_vsock_port2", context, start.vsockPort, start.socketPath, false)
  krun.call("krun_set_console_output", context, start.consolePath)
  krun.call("krun_set_exec", context, start.exec, [], start.words)
  // Everything is loaded; what is opened by its path from here on is in the new root, too.
  if (start.share !== undefined) changeRoot(start.share.root)
  enter()
  krun.call("krun_start_enter", context)
  throw new CallFailed("krun_start_enter", "", "no error, but came back")
}

const enterQemu = (start: QemuStart): never => {
  enter()
  return execve(start.file, [start.file, ...start.arguments], ["PATH=/usr/bin:/bin", "LC_ALL=C"])
}
