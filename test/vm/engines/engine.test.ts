/** Boots real guests through Engine and GuestChannel: qemu on this machine, krun in the lab (BUNKER_TEST_ENGINE=krun). */
import { afterAll, describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect, Exit, Scope, Stream } from "effect"
import { limits } from "../../../src/domain/sandbox/sandbox.ts"
import { setCloseOnExec } from "../../../src/ffi/posix.ts"
import { vmdkDescriptor } from "../../../src/oci/erofs/vmdk.ts"
import { awaitEnd, identify, isAlive, signalProcess } from "../../../src/store/processes/processes.ts"
import type { VmProcess } from "../../../src/vm/engines/Engine.ts"
import { connectGuest, type GuestChannel } from "../../../src/vm/guest/GuestChannel.ts"
import { it } from "../../support/it.ts"
import { bootTimeoutMs, busyboxRoot, engine, engineKind, missing, runDirectory, smallVm } from "../../support/vm.ts"

const run = (guest: GuestChannel, ...argv: ReadonlyArray<string>) =>
  Effect.scoped(
    Effect.gen(function* () {
      const spec = { argv, env: [], cwd: "/", user: "", tty: null, stdin: false }
      const events = yield* Stream.runCollect((yield* guest.exec(spec)).events)
      const text = (tag: "Stdout" | "Stderr") =>
        events.flatMap((event) => (event._tag === tag ? [new TextDecoder().decode(event.data)] : [])).join("")
      return { stdout: text("Stdout"), stderr: text("Stderr"), end: events.at(-1) }
    })
  )

/** Hello, or the reason why the VM ended before. */
const greet = (vm: VmProcess) =>
  Effect.raceFirst(
    connectGuest(vm.transport),
    Effect.flatMap(vm.exited, (exit) => Effect.die(new Error(`the VM ended: ${JSON.stringify(exit)}`)))
  ).pipe(Effect.timeout(bootTimeoutMs))

const blank = (directory: string, name: string, megabytes: number): string => {
  const file = path.join(directory, name)
  fs.writeFileSync(file, Buffer.alloc(megabytes << 20))
  return file
}

/** A flat VMDK whose extents are the first 4 KiB and the rest of a file. */
const splitVmdk = (directory: string, file: string): string => {
  const bytes = fs.readFileSync(file)
  const extents = [bytes.subarray(0, 4096), bytes.subarray(4096)].map((part, index) => {
    const extent = path.join(directory, `part${index}`)
    fs.writeFileSync(extent, part)
    return { path: extent, bytes: part.length }
  })
  const vmdk = path.join(directory, "root.vmdk")
  fs.writeFileSync(vmdk, vmdkDescriptor(directory, extents))
  return vmdk
}

const bootFrom = (root: "/dev/vdb") => ({
  root: { device: root, type: "erofs" as const },
  upper: { kind: "tmpfs" as const },
  hostname: "test"
})

const timings: Array<string> = []
afterAll(() => {
  if (timings.length > 0) console.log(timings.join("\n"))
})

describe.skipIf(missing !== undefined)(`engine ${engineKind}`, () => {
  it.live(
    "boots a root disk, runs commands, and powers off",
    () =>
      Effect.gen(function* () {
        const runDir = yield* runDirectory
        const began = performance.now()
        const disks = [{ path: busyboxRoot(runDir), format: "raw" as const, readOnly: true }]
        const vm = yield* (yield* engine).spawn(smallVm(runDir, { disks }))
        const spawned = performance.now()
        expect(vm.identity).toEqual(identify(vm.identity.pid)!)
        const guest = yield* greet(vm)
        const greeted = performance.now()
        yield* guest.boot(bootFrom("/dev/vdb"))
        const booted = performance.now()
        const echo = yield* run(guest, "echo", "hello from inside")
        const first = performance.now()
        expect(echo).toEqual({ stdout: "hello from inside\n", stderr: "", end: { _tag: "Exit", code: 0 } })
        expect((yield* run(guest, "sh", "-c", "echo out; echo err >&2; exit 7")).end).toEqual({ _tag: "Exit", code: 7 })
        // Longer than the agent waits for anybody: it takes its own most.
        yield* guest.poweroff({ signal: 15, graceMs: 2 ** 31 - 1 })
        const exit = yield* vm.exited
        expect(exit.report?.event).toBe("entering")
        const at = (from: number, to: number) => `${Math.round(to - from)} ms`
        timings.push(
          `${engineKind}: spawn ${at(began, spawned)}, hello ${at(spawned, greeted)}, boot ${at(greeted, booted)}, ` +
            `echo ${at(booted, first)}, power off ${at(first, performance.now())}`
        )
      }),
    bootTimeoutMs * 2
  )

  it.live(
    "boots in the least memory, with room for several commands at once",
    () =>
      Effect.gen(function* () {
        const runDir = yield* runDirectory
        const disks = [{ path: busyboxRoot(runDir), format: "raw" as const, readOnly: true }]
        const vm = yield* (yield* engine).spawn(smallVm(runDir, { disks, memoryMb: limits.memoryMbMin }))
        const guest = yield* greet(vm)
        yield* guest.boot(bootFrom("/dev/vdb"))
        const said = yield* Effect.all(
          ["1", "2", "3", "4"].map((word) => run(guest, "sh", "-c", `echo ${word}`)),
          { concurrency: "unbounded" }
        )
        expect(said.map(({ stdout }) => stdout)).toEqual(["1\n", "2\n", "3\n", "4\n"])
        expect((yield* guest.stats).memory_available).toBeGreaterThan(4 << 20)
        yield* vm.kill
      }),
    bootTimeoutMs * 2
  )

  it.live(
    "shows disks in order, extents of a VMDK as one disk, and lets the guest write only where it may",
    () =>
      Effect.gen(function* () {
        const runDir = yield* runDirectory
        const disks = [
          { path: splitVmdk(runDir, busyboxRoot(runDir)), format: "vmdk" as const, readOnly: true },
          { path: blank(runDir, "upper", 3), format: "raw" as const, readOnly: false },
          { path: blank(runDir, "more", 2), format: "raw" as const, readOnly: true }
        ]
        const vm = yield* (yield* engine).spawn(smallVm(runDir, { disks }))
        const guest = yield* greet(vm)
        yield* guest.boot(bootFrom("/dev/vdb"))
        const sizes = yield* run(
          guest,
          "sh",
          "-c",
          "for d in vdc vdd; do cat /sys/block/$d/size /sys/block/$d/ro; done"
        )
        expect(sizes.stdout).toBe("6144\n0\n4096\n1\n")
        const written = yield* run(
          guest,
          "sh",
          "-c",
          "echo written > /dev/vdc; echo no > /dev/vdd; wc -c < /bin/busybox"
        )
        expect(Number(written.stdout)).toBeGreaterThan(100_000)
        yield* guest.poweroff({ signal: 15, graceMs: 100 })
        yield* vm.exited
        expect(fs.readFileSync(disks[1]!.path, "latin1").slice(0, 8)).toBe("written\n")
        expect(fs.readFileSync(disks[2]!.path, "latin1").slice(0, 8)).toBe("\0".repeat(8))
      }),
    bootTimeoutMs * 2
  )

  it.live(
    "gives the lock to one VM at a time and leaves the first one's sockets alone",
    () =>
      Effect.gen(function* () {
        const runDir = yield* runDirectory
        const one = yield* engine
        const vm = yield* one.spawn(smallVm(runDir))
        const second = yield* Effect.flip(Effect.scoped(one.spawn(smallVm(runDir))))
        expect(second._tag).toBe("AlreadyRunning")
        yield* Effect.flatMap(greet(vm), (guest) => guest.ping)
        yield* vm.kill
        const third = yield* one.spawn(smallVm(runDir))
        yield* third.kill
      }),
    bootTimeoutMs * 2
  )

  it.live(
    "leaves a detached VM alive when its scope closes, to be attached again",
    () =>
      Effect.gen(function* () {
        const runDir = yield* runDirectory
        const one = yield* engine
        const scope = yield* Scope.make()
        const vm = yield* one.spawn(smallVm(runDir, { dieWithParent: false })).pipe(Scope.provide(scope))
        yield* Effect.flatMap(greet(vm), (guest) => guest.ping).pipe(Scope.provide(scope))
        yield* Scope.close(scope, Exit.void)
        expect(isAlive(vm.identity)).toBe(true)
        const [pid, ticks] = fs.readFileSync(path.join(runDir, "pid"), "utf8").trim().split(" ").map(Number)
        expect({ pid, ticks }).toEqual({ pid: vm.identity.pid, ticks: vm.identity.startTicks })
        const again = yield* Effect.flatMap(one.attach({ runDir }), connectGuest).pipe(Effect.timeout("20 seconds"))
        yield* again.ping
        expect(signalProcess(vm.identity, 9)).toBe(true)
        yield* awaitEnd(vm.identity, 20)
        expect(signalProcess(vm.identity, 9)).toBe(false)
      }),
    bootTimeoutMs * 2
  )

  it.live(
    "ends a foreground VM with its scope, and says which signal ended it",
    () =>
      Effect.gen(function* () {
        const runDir = yield* runDirectory
        const scope = yield* Scope.make()
        const vm = yield* (yield* engine).spawn(smallVm(runDir)).pipe(Scope.provide(scope))
        yield* Scope.close(scope, Exit.void)
        const exit = yield* vm.exited
        expect({ code: exit.code, signal: exit.signal }).toEqual({ code: undefined, signal: "SIGKILL" })
        expect(isAlive(vm.identity)).toBe(false)
      }),
    bootTimeoutMs
  )

  it.live("gives the VM's process no descriptor, variable or session of ours", () =>
    Effect.gen(function* () {
      const runDir = yield* runDirectory
      const ours = path.join(yield* runDirectory, "ours")
      // Even one that was left inheritable by mistake.
      const fd = fs.openSync(ours, "w")
      setCloseOnExec(fd, false)
      const vm = yield* (yield* engine).spawn(smallVm(runDir))
      const open = fs.readdirSync(`/proc/${vm.identity.pid}/fd`).flatMap((each) => {
        try {
          return [fs.readlinkSync(`/proc/${vm.identity.pid}/fd/${each}`)]
        } catch {
          return []
        }
      })
      fs.closeSync(fd)
      expect(open).toContain(path.join(runDir, "lock"))
      expect(open).not.toContain(ours)
      const environment = fs.readFileSync(`/proc/${vm.identity.pid}/environ`, "utf8")
      expect(environment.split("\0").filter((line) => line !== "" && !/^(PATH|LC_ALL)=/.test(line))).toEqual([])
      const fields = fs.readFileSync(`/proc/${vm.identity.pid}/stat`, "utf8").split(") ")[1]!.split(" ")
      expect(Number(fields[3])).toBe(vm.identity.pid)
      expect(fs.readFileSync(`/proc/${vm.identity.pid}/cmdline`, "utf8")).not.toContain("BUNKER_HOME")
      yield* vm.kill
    })
  )

  it.live("refuses a disk that is missing before anything is started", () =>
    Effect.gen(function* () {
      const runDir = yield* runDirectory
      const disks = [{ path: path.join(runDir, "none"), format: "raw" as const, readOnly: true }]
      const failure = yield* Effect.flip((yield* engine).spawn(smallVm(runDir, { disks })))
      expect(failure.message).toContain("ENOENT")
      expect(fs.existsSync(path.join(runDir, "pid"))).toBe(false)
    })
  )
})
