/** Starts real runners; only the last ones get as far as a VM (qemu). */
import { describe, expect, it as plain } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Deferred, Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { StoreFailed } from "../../../src/domain/errors/store.ts"
import { locateLibkrun, locateLibkrunfw } from "../../../src/ffi/locate.ts"
import { tryLockExclusive } from "../../../src/ffi/posix.ts"
import { awaitEnd, isAlive, type ProcessIdentity, signalProcess } from "../../../src/store/processes/processes.ts"
import { isTransientStart } from "../../../src/vm/engines/krun.ts"
import { parseReportLine, parseRunnerConfig, type RunnerConfig } from "../../../src/vm/runner/protocol.ts"
import { startRunner } from "../../../src/vm/runner/start.ts"
import { it } from "../../support/it.ts"
import { engineKind, engineOptions, missing, runDirectory } from "../../support/vm.ts"

const qemu: RunnerConfig = {
  version: 1,
  parentPid: process.pid,
  dieWithParent: true,
  pidPath: "/tmp/pid",
  start: { kind: "qemu", reads: [], writes: ["/tmp"], file: "/bin/true", arguments: ["-M", "microvm"] }
}
const krun: RunnerConfig = {
  ...qemu,
  start: {
    kind: "krun",
    reads: ["/disk"],
    writes: ["/console"],
    libkrun: "/lib/libkrun.so.1",
    libkrunfw: "/lib/libkrunfw.so.5",
    cpus: 1,
    memoryMb: 64,
    disks: [{ path: "/disk", format: "raw", readOnly: true }],
    card: false,
    consolePath: "/console",
    socketPath: "/socket",
    vsockPort: 1024,
    exec: "/init",
    words: ["a=b"]
  }
}

describe("runner protocol", () => {
  plain("reads what it writes", () => {
    for (const config of [qemu, krun]) expect(parseRunnerConfig(JSON.stringify(config))).toEqual(config)
  })

  plain("names the field that is wrong", () => {
    const start = krun.start as unknown as Record<string, unknown>
    const wrong: ReadonlyArray<readonly [unknown, string]> = [
      ["", "document"],
      [[], "document"],
      [{ ...qemu, version: 2 }, "version"],
      [{ ...qemu, parentPid: -1 }, "parentPid"],
      [{ ...qemu, pidPath: "relative" }, "pidPath"],
      [{ ...qemu, start: { kind: "xen" } }, "start.kind"],
      [{ ...qemu, start: { ...qemu.start, arguments: ["a\0b"] } }, "arguments"],
      [{ ...qemu, start: { ...qemu.start, reads: ["relative"] } }, "reads"],
      [{ ...qemu, start: { ...qemu.start, writes: undefined } }, "writes"],
      [{ ...krun, start: { ...start, cpus: 65 } }, "cpus"],
      [{ ...krun, start: { ...start, memoryMb: 63 } }, "memoryMb"],
      [{ ...krun, start: { ...start, disks: [{ path: "/d", format: "qcow2", readOnly: true }] } }, "format"],
      [{ ...krun, start: { ...start, words: Array.from({ length: 32 }, () => "a") } }, "words"]
    ]
    for (const [document, field] of wrong) expect(parseRunnerConfig(JSON.stringify(document))).toBe(field)
    expect(parseRunnerConfig("{")).toBe("document")
  })

  plain("takes nothing but report lines for a report", () => {
    expect(parseReportLine('{"event":"entering","afterMs":7}')).toEqual({ event: "entering", afterMs: 7 })
    for (const line of ["", "{", "null", "[]", '{"event":"other"}', "7"]) expect(parseReportLine(line)).toBeUndefined()
  })

  plain("tells the start that may be tried again from every other failure", () => {
    const exit = (call: string, errno: string) => ({
      code: 125,
      signal: undefined,
      report: { event: "error" as const, call, argument: "", errno },
      output: ""
    })
    expect(isTransientStart(exit("krun_start_enter", "EINVAL"))).toBe(true)
    expect(isTransientStart(exit("krun_start_enter", "ENOENT"))).toBe(false)
    expect(isTransientStart(exit("krun_set_exec", "EINVAL"))).toBe(false)
  })
})

const start = (
  runDir: string,
  config: RunnerConfig,
  command: ReadonlyArray<string>,
  onProcess: (process: ProcessIdentity) => Effect.Effect<void, StoreFailed> = () => Effect.void
) =>
  Effect.acquireUseRelease(
    Effect.sync(() => fs.openSync(path.join(runDir, "lock"), "w")),
    (lockFd) =>
      startRunner({
        command,
        runDir,
        lockFd,
        name: "box",
        config: { ...config, pidPath: path.join(runDir, "pid") },
        onProcess
      }),
    (lockFd) => Effect.sync(() => fs.closeSync(lockFd))
  )

const places = { reads: [], writes: ["/tmp"] }

/** Both do the same. */
const runners: Array<[string, ...Array<string>]> = [["TypeScript", ...engineOptions.runnerCommand]]
const launcher = engineOptions.launcherPath!
if (!fs.existsSync(launcher)) Bun.spawnSync(["sh", path.join(import.meta.dirname, "../../../native/launcher/build.sh")])
if ((fs.statSync(launcher, { throwIfNoEntry: false })?.size ?? 0) > 0) runners.push(["C", launcher])
else console.warn("skipped: the runner in C; missing: a C compiler for glibc")

describe.each(runners)("runner in %s", (_language, ...runner) => {
  it.live("reports the call, the argument and the errno that kept it from starting", () =>
    Effect.gen(function* () {
      const runDir = yield* runDirectory
      const none = { ...qemu, start: { ...places, kind: "qemu" as const, file: "/nonexistent", arguments: [] } }
      const failure = yield* Effect.flip(start(runDir, none, runner))
      expect(failure.message).toContain("execve(/nonexistent) failed with ENOENT")
      const other = yield* Effect.flip(start(runDir, { ...qemu, parentPid: 1 }, runner))
      expect(other.message).toContain("getppid(parent 1) failed with ESRCH")
    })
  )

  it.live("runs nothing before its process is recorded, and nothing at all where that fails", () =>
    Effect.gen(function* () {
      const runDir = yield* runDirectory
      const marker = path.join(runDir, "ran")
      const touch = {
        ...qemu,
        start: { ...places, kind: "qemu" as const, file: "/bin/sh", arguments: ["-c", `: > ${marker}`] }
      }
      let alive = false
      // Long enough for a runner that does not wait.
      const look = (process: ProcessIdentity) =>
        Effect.delay(
          Effect.sync(() => void (alive = isAlive(process) && !fs.existsSync(marker))),
          "300 millis"
        )
      const full = new StoreFailed({ operation: "record", path: "box", reason: "ENOSPC" })
      const refused = start(runDir, touch, runner, (process) => Effect.andThen(look(process), Effect.fail(full)))
      expect((yield* Effect.flip(refused))._tag).toBe("StoreFailed")
      expect({ alive, ran: fs.existsSync(marker) }).toEqual({ alive: true, ran: false })
      alive = false
      const { exited } = yield* start(runDir, touch, runner, look)
      yield* exited
      expect({ alive, ran: fs.existsSync(marker) }).toEqual({ alive: true, ran: true })
    })
  )

  it.live("may open as many files as the machine lets it, and leaves no core", () =>
    Effect.gen(function* () {
      const runDir = yield* runDirectory
      const said = path.join(runDir, "limits")
      const words = ["-c", `{ ulimit -Sn; ulimit -Hn; ulimit -c; } > ${said}`]
      const limits = { ...qemu, start: { ...places, kind: "qemu" as const, file: "/bin/sh", arguments: words } }
      const low = ["/bin/sh", "-c", 'ulimit -Sn 64; ulimit -Sc $(ulimit -Hc); exec "$0" "$@"', ...runner]
      const { exited } = yield* start(runDir, limits, low)
      yield* exited
      const [soft, hard, core] = fs.readFileSync(said, "utf8").trim().split("\n")
      expect(Number(hard) > 64 || hard === "unlimited").toBe(true)
      expect({ soft, core }).toEqual({ soft: hard!, core: "0" })
    })
  )

  it.live("reports a configuration that it does not understand", () =>
    Effect.gen(function* () {
      const runDir = yield* runDirectory
      const failure = yield* Effect.flip(start(runDir, { ...qemu, version: 2 as 1 }, runner))
      expect(failure.message).toContain("configuration field version")
    })
  )

  it.live("says what a program that is no runner printed", () =>
    Effect.gen(function* () {
      const runDir = yield* runDirectory
      const failure = yield* Effect.flip(start(runDir, qemu, ["/bin/sh", "-c", "echo no runner here >&2; exit 3"]))
      expect(failure._tag).toBe("EngineUnavailable")
      expect(failure.message).toContain("no runner here")
      expect((yield* Effect.flip(start(runDir, qemu, ["/nonexistent"])))._tag).toBe("StoreFailed")
    })
  )

  it.live("does not start under a lock that another process holds", () =>
    Effect.gen(function* () {
      const runDir = yield* runDirectory
      const held = fs.openSync(path.join(runDir, "lock"), "w")
      expect(tryLockExclusive(held)).toBe(true)
      expect((yield* Effect.flip(start(runDir, qemu, runner)))._tag).toBe("AlreadyRunning")
      fs.closeSync(held)
    })
  )

  it.live("ends with the replaced program, whose output and exit code it passes on", () =>
    Effect.gen(function* () {
      const runDir = yield* runDirectory
      const program = {
        ...places,
        kind: "qemu" as const,
        file: "/bin/sh",
        arguments: ["-c", "echo; ulimit -c; umask; echo last; exit 9"]
      }
      const process = yield* start(runDir, { ...qemu, start: program }, runner)
      const exit = yield* process.exited
      expect(exit).toMatchObject({ code: 9, signal: undefined, report: { event: "entering" } })
      expect(exit.output.trim().split("\n")).toEqual(["0", "0077", "last"])
    })
  )

  it.live("passes the lock on to the replaced program, as long as that lives", () =>
    Effect.gen(function* () {
      const runDir = yield* runDirectory
      const program = { ...places, kind: "qemu" as const, file: "/bin/sleep", arguments: ["60"] }
      const process = yield* start(runDir, { ...qemu, start: program }, runner)
      const other = fs.openSync(path.join(runDir, "lock"), "r")
      expect(tryLockExclusive(other)).toBe(false)
      yield* process.kill
      expect(tryLockExclusive(other)).toBe(true)
      fs.closeSync(other)
    })
  )
})

describe.skipIf(!runners.some(([language]) => language === "C"))("the runner in C", () => {
  const told = (words: ReadonlyArray<string>) =>
    JSON.parse(String(Bun.spawnSync([...words, launcher, "--check"], { stderr: "inherit" }).stdout))

  plain("tells what this machine takes from a VM's process, to root and to others alike", () => {
    const names = ["calls", "capabilities", "files", "network", "no_new_privileges"]
    expect(Object.keys(told([])).sort()).toEqual(names)
    if (process.getuid?.() !== 0 || Bun.which("setpriv") === null || Bun.which("unshare") === null) return
    const other = told(["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"])
    expect(other).toMatchObject({ no_new_privileges: null, capabilities: null, calls: null })
    // One step that the machine refuses is told, and keeps none of the others.
    const poor = told(["unshare", "-r", "setpriv", "--bounding-set=-all", "--inh-caps=-all"])
    expect(poor).toMatchObject({ no_new_privileges: null, capabilities: null, calls: null })
  })

  it.live("leaves the program no right, no network and no file but what it needs", () =>
    Effect.gen(function* () {
      const runDir = yield* runDirectory
      const can = told([])
      const [readable, writable, secret] = ["readable", "writable", "secret"].map((name) =>
        path.join(runDir, name)
      ) as [string, string, string]
      for (const file of [readable, writable, secret]) fs.writeFileSync(file, "kept\n")
      const script = [
        "grep -E '^(NoNewPrivs|CapEff|CapPrm|CapBnd|CapAmb|Seccomp):' /proc/self/status | tr -d '\\t' | tr '\\n' ' '; echo",
        "grep -c : /proc/self/net/dev",
        `cat ${readable}; cat ${secret} || echo closed; echo changed > ${writable}; (echo changed > ${readable}) || echo fixed`,
        "ls /root /home > /dev/null || echo closed",
        "unshare -U true || echo no namespace"
      ]
      const program = {
        ...{ kind: "qemu" as const, reads: [readable], writes: [writable] },
        ...{ file: "/bin/sh", arguments: ["-c", `exec 2> /dev/null; ${script.join("; ")}`] }
      }
      const { exited } = yield* start(runDir, { ...qemu, start: program }, [launcher])
      const [status, devices, ...files] = (yield* exited).output.trim().split("\n")
      expect(status).toStartWith("CapPrm:0000000000000000 CapEff:0000000000000000 ")
      expect(status).toContain("NoNewPrivs:1 Seccomp:2")
      if (can.network === null) expect(devices).toBe("1")
      expect(files.at(-1)).toBe("no namespace")
      if (can.files !== null) return
      expect(files.slice(0, 4)).toEqual(["kept", "closed", "fixed", "closed"])
      expect(fs.readFileSync(writable, "utf8")).toBe("changed\n")
    })
  )
})

const libraries = { libkrun: locateLibkrun().path, libkrunfw: locateLibkrunfw().path }

it.effect("a runner that says nothing for a minute is ended, and that is said", () =>
  Effect.gen(function* () {
    const runDir = yield* runDirectory
    const begun = yield* Deferred.make<ProcessIdentity>()
    const mute = ["/bin/sh", "-c", "echo 'stuck here' >&2; exec sleep 1000"]
    const starting = yield* start(runDir, qemu, mute, (process) =>
      Effect.asVoid(Deferred.succeed(begun, process))
    ).pipe(Effect.flip, Effect.forkChild({ startImmediately: true }))
    const identity = yield* Deferred.await(begun)
    const log = path.join(runDir, "runner.log")
    while (fs.readFileSync(log, "utf8") === "") yield* Effect.promise(() => Bun.sleep(5))
    yield* TestClock.adjust(59_999)
    expect(isAlive(identity)).toBe(true)
    yield* TestClock.adjust(1)
    const failure = yield* Fiber.join(starting)
    expect(failure._tag).toBe("EngineUnavailable")
    expect(failure.message).toContain("said nothing for 60 s: stuck here")
    expect(isAlive(identity)).toBe(false)
  }).pipe(Effect.scoped)
)

describe.skipIf(libraries.libkrun === undefined || libraries.libkrunfw === undefined).each(runners)(
  "krun runner in %s",
  (_language, ...runner) => {
    it.live("names the libkrun call that failed", () =>
      Effect.gen(function* () {
        const runDir = yield* runDirectory
        const config = { ...krun, start: { ...krun.start, ...libraries, words: ["not plain"] } } as RunnerConfig
        const failure = yield* Effect.flip(start(runDir, config, runner))
        expect(failure).toMatchObject({ _tag: "KrunCallFailed", call: "krun_set_exec", errno: "EINVAL" })
      })
    )
  }
)

describe.skipIf(missing !== undefined)(`${engineKind} VM and its parent's death`, () => {
  const orphan = Effect.fnUntraced(function* (mode: "with" | "without") {
    const script = path.join(import.meta.dirname, "../../support/vmParent.ts")
    const parent = Bun.spawn([process.execPath, script, mode], { stdio: ["ignore", "pipe", "inherit"] })
    const line = yield* Effect.promise(async () => {
      for await (const chunk of parent.stdout) return new TextDecoder().decode(chunk)
      return "{}"
    })
    const vm = JSON.parse(line) as ProcessIdentity & { readonly runDir: string }
    expect(isAlive(vm)).toBe(true)
    parent.kill("SIGKILL")
    yield* Effect.promise(() => parent.exited)
    yield* Effect.addFinalizer(() => Effect.sync(() => fs.rmSync(vm.runDir, { recursive: true, force: true })))
    return vm
  })

  it.live("ends a foreground VM when its parent is killed", () =>
    Effect.gen(function* () {
      const vm = yield* orphan("with")
      yield* awaitEnd(vm, 10).pipe(Effect.timeout("4 seconds"))
    })
  )

  it.live("leaves a detached VM alone when its parent is killed", () =>
    Effect.gen(function* () {
      const vm = yield* orphan("without")
      yield* Effect.sleep("300 millis")
      expect(isAlive(vm)).toBe(true)
      expect(signalProcess(vm, 9)).toBe(true)
      yield* awaitEnd(vm, 10)
    })
  )
})
