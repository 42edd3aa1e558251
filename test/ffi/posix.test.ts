/** Calls the real kernel. */
import { describe, expect, it } from "bun:test"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { CallFailed } from "../../src/ffi/errno.ts"
import {
  duplicateTo,
  getLimit,
  kill,
  parentPid,
  pidfdOpen,
  pidfdSendSignal,
  RLIMIT_NOFILE,
  setCloseOnExec,
  setLimit,
  socketPair,
  tryLockExclusive
} from "../../src/ffi/posix.ts"

const errnoOf = (run: () => unknown): string => {
  try {
    run()
  } catch (cause) {
    return cause instanceof CallFailed ? cause.errno : String(cause)
  }
  return "none"
}

const flags = (fd: number): number =>
  Number.parseInt(/flags:\s+(\d+)/.exec(fs.readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))![1]!, 8)
const CLOEXEC = 0o2000000

describe("posix", () => {
  it("gives a file lock to one open description at a time", () => {
    const file = path.join(fs.mkdtempSync(path.join(os.tmpdir(), "bunker-lock-")), "lock")
    const [one, two] = [fs.openSync(file, "w"), fs.openSync(file, "w")]
    expect(tryLockExclusive(one)).toBe(true)
    expect(tryLockExclusive(one)).toBe(true)
    expect(tryLockExclusive(two)).toBe(false)
    fs.closeSync(one)
    expect(tryLockExclusive(two)).toBe(true)
    fs.closeSync(two)
    fs.rmSync(path.dirname(file), { recursive: true })
  })

  it("names the errno of a failed call", () => {
    expect(errnoOf(() => tryLockExclusive(999_999))).toBe("EBADF")
    expect(errnoOf(() => kill(0x7fff_fff0, 0))).toBe("ESRCH")
    expect(errnoOf(() => pidfdOpen(0x7fff_fff0))).toBe("ESRCH")
    expect(errnoOf(() => setCloseOnExec(999_999, true))).toBe("EBADF")
  })

  it("connects a pair of sockets that close on exec until told otherwise", () => {
    const [one, two] = socketPair()
    expect(flags(one) & CLOEXEC).toBe(CLOEXEC)
    setCloseOnExec(one, false)
    expect(flags(one) & CLOEXEC).toBe(0)
    setCloseOnExec(one, true)
    expect(flags(one) & CLOEXEC).toBe(CLOEXEC)
    fs.writeSync(one, "hi")
    const buffer = Buffer.alloc(8)
    expect(fs.readSync(two, buffer)).toBe(2)
    duplicateTo(one, two)
    expect(fs.readlinkSync(`/proc/self/fd/${two}`)).toBe(fs.readlinkSync(`/proc/self/fd/${one}`))
    fs.closeSync(one)
    fs.closeSync(two)
  })

  it("reads and lowers limits, knows the parent", () => {
    const { soft, hard } = getLimit(RLIMIT_NOFILE)
    setLimit(RLIMIT_NOFILE, soft - 1n, hard)
    expect(getLimit(RLIMIT_NOFILE)).toEqual({ soft: soft - 1n, hard })
    setLimit(RLIMIT_NOFILE, soft, hard)
    expect(parentPid()).toBe(process.ppid)
  })

  it("signals the process behind a pidfd, and nobody once it has ended", async () => {
    const child = Bun.spawn(["sleep", "60"])
    const pidfd = pidfdOpen(child.pid)
    pidfdSendSignal(pidfd, 15)
    await child.exited
    expect(child.signalCode).toBe("SIGTERM")
    expect(errnoOf(() => pidfdSendSignal(pidfd, 0))).toBe("ESRCH")
    fs.closeSync(pidfd)
  })
})
