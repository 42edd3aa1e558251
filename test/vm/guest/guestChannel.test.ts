/** Behaviour of exec through a real agent process on this machine: everything that needs no VM. */
import { describe, expect } from "bun:test"
import { existsSync } from "node:fs"
import { Deferred, Effect, Exit, Fiber, Schedule, Scope, Stream } from "effect"
import type { ExecEvent, ExecHandle, ExecSpec, GuestChannel } from "../../../src/vm/guest/GuestChannel.ts"
import { it } from "../../support/it.ts"
import { nativeAgent } from "../../support/nativeAgent.ts"

const plain = { env: [], cwd: "/", user: "", tty: null, stdin: false } as const
const text = new TextEncoder()

interface Outcome {
  readonly end: number | string
  readonly stdout: string
  readonly stderr: string
}

const collect = (handle: ExecHandle) =>
  Effect.map(Stream.runCollect(handle.events), (events): Outcome => {
    const join = (tag: "Stdout" | "Stderr") =>
      Buffer.concat(events.flatMap((event) => (event._tag === tag ? [event.data] : []))).toString()
    const last = events.at(-1)
    const end = last?._tag === "Exit" ? last.code : last?._tag === "Signaled" ? `signal ${last.signal}` : "none"
    return { end, stdout: join("Stdout"), stderr: join("Stderr") }
  })

const run = (guest: GuestChannel, argv: ReadonlyArray<string>, more: Partial<ExecSpec> = {}) =>
  Effect.scoped(Effect.flatMap(guest.exec({ ...plain, argv, ...more }), collect))

const shell = (guest: GuestChannel, script: string, more: Partial<ExecSpec> = {}) =>
  run(guest, ["sh", "-c", script], more)

/** Completes when the condition holds; the condition is another process's doing, so nothing can signal it. */
const eventually = (condition: () => boolean) =>
  Effect.suspend(() => (condition() ? Effect.void : Effect.fail("not yet"))).pipe(
    Effect.retry({ times: 400, schedule: Schedule.spaced(10) }),
    Effect.orDie
  )

describe("exec in the guest", () => {
  it.live("answers the exit code or the signal", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      for (const code of [0, 1, 7, 126, 127, 137]) {
        expect((yield* shell(guest, `exit ${code}`)).end).toBe(code)
      }
      expect((yield* shell(guest, "kill -9 $$")).end).toBe("signal 9")
      expect((yield* shell(guest, "kill -TERM $$")).end).toBe("signal 15")
    })
  )

  it.live("keeps stdout and stderr apart and whole", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const script = "for i in 1 2 3; do echo out$i; echo err$i >&2; done"
      const outcome = yield* shell(guest, script)
      expect(outcome).toEqual({ end: 0, stdout: "out1\nout2\nout3\n", stderr: "err1\nerr2\nerr3\n" })
    })
  )

  it.live("carries 5 MB through stdin and back unchanged", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const input = new Uint8Array(5_000_000)
      for (let at = 0; at < input.length; at += 65_536) crypto.getRandomValues(input.subarray(at, at + 65_536))
      const handle = yield* guest.exec({ ...plain, argv: ["cat"], stdin: true })
      yield* Effect.forkScoped(Effect.andThen(handle.write(input), handle.closeStdin))
      const hash = new Bun.CryptoHasher("sha256")
      yield* Stream.runForEach(handle.events, (event) =>
        Effect.sync(() => event._tag === "Stdout" && hash.update(event.data))
      )
      expect(hash.digest("hex")).toBe(new Bun.CryptoHasher("sha256").update(input).digest("hex"))
    })
  )

  it.live("drops input that the process does not take, and ends", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const handle = yield* guest.exec({ ...plain, argv: ["sh", "-c", "exec <&-; sleep 0.1; echo done"], stdin: true })
      const writing = yield* Effect.forkScoped(handle.write(new Uint8Array(1_000_000)))
      expect((yield* collect(handle)).stdout).toBe("done\n")
      yield* Fiber.join(writing)
    })
  )

  it.live("gives /dev/null when there is no stdin", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      expect(yield* run(guest, ["cat"])).toEqual({ end: 0, stdout: "", stderr: "" })
    })
  )

  it.live("passes the environment byte for byte", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const value = `'"\\ $x = a=b\n\tline äöü 😀`
      const outcome = yield* run(guest, ["printenv", "ODD"], { env: [`ODD=${value}`, "EMPTY="] })
      expect(outcome.stdout).toBe(`${value}\n`)
      const names = (yield* run(guest, ["env"], { env: ["EMPTY=", "HOME=/x"] })).stdout.trim().split("\n").sort()
      expect(names).toEqual(["EMPTY=", "HOME=/x", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
    })
  )

  it.live("says why a command can not start", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const reason = (argv: ReadonlyArray<string>, more: Partial<ExecSpec> = {}) =>
        Effect.map(Effect.flip(run(guest, argv, more)), (error) => (error._tag === "ExecFailed" ? error.reason : error))
      expect(yield* reason(["no-such-command"])).toBe("not_found")
      expect(yield* reason(["/no/such/command"])).toBe("not_found")
      expect(yield* reason(["/etc/passwd"])).toBe("not_executable")
      expect(yield* reason(["/etc"])).toBe("not_executable")
      expect(yield* reason(["true"], { cwd: "/no/such/directory" })).toBe("bad_cwd")
      expect(yield* reason(["true"], { cwd: "/etc/passwd" })).toBe("bad_cwd")
      expect(yield* reason(["true"], { user: "no-such-user" })).toBe("bad_user")
      expect(yield* reason(["true"], { cwd: "relative" })).toBe("bad_cwd")
      expect(yield* reason(["true", "x".repeat(300_000)])).toBe("limit")
      expect(yield* reason(["true"], { env: [`A=${"\n".repeat(131_000)}`] })).toBe("limit")
      expect(yield* reason([])).toBe("failed")
      expect((yield* run(guest, ["true"])).end).toBe(0)
    })
  )

  it.live("tells a missing interpreter from a missing command", () =>
    Effect.gen(function* () {
      const { guest, socketPath } = yield* nativeAgent
      const script = `${socketPath}.script`
      yield* Effect.promise(() => Bun.write(script, "#!/no/such/interpreter\n"))
      yield* run(guest, ["chmod", "755", script])
      const error = yield* Effect.flip(run(guest, [script]))
      expect(error).toMatchObject({ _tag: "ExecFailed", reason: "not_found" })
      expect(error.message).toContain("interpreter")
    })
  )

  it.live("runs as a user by name and by number", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      if (process.getuid?.() !== 0) return
      const ids = (user: string) => Effect.map(shell(guest, "id -u; id -g; echo $HOME", { user }), (o) => o.stdout)
      expect(yield* ids("")).toBe("0\n0\n/root\n")
      expect(yield* ids("daemon")).toBe("1\n1\n/usr/sbin\n")
      expect(yield* ids("1")).toBe("1\n1\n/usr/sbin\n")
      expect(yield* ids("4242:4343")).toBe("4242\n4343\n/\n")
      expect(yield* ids("daemon:0")).toBe("1\n0\n/usr/sbin\n")
    })
  )

  it.live("hands over nothing of its own", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      // Not by a shell: it blocks signals for a moment itself. ls holds its own directory as 3.
      expect((yield* run(guest, ["ls", "/proc/self/fd"])).stdout.trim().split("\n")).toEqual(["0", "1", "2", "3"])
      expect((yield* run(guest, ["cat", "/proc/self/status"])).stdout).toMatch(/SigBlk:\s0{16}\nSigIgn:\s0{16}\n/)
      expect((yield* shell(guest, "umask")).stdout).toBe("0022\n")
      const [pid, ...rest] = (yield* run(guest, ["cat", "/proc/self/stat"])).stdout.split(" ")
      expect([rest[3], rest[4]]).toEqual([pid!, pid!])
    })
  )

  it.live("gives a terminal with a size, resizes it, and delivers Ctrl-C", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const script = 'stty size; trap "stty size; exit 5" WINCH; echo ready; while :; do sleep 0.05; done'
      const handle = yield* guest.exec({
        ...plain,
        argv: ["sh", "-c", script],
        tty: { cols: 100, rows: 40 },
        stdin: true
      })
      const ready = yield* Deferred.make<void>()
      let seen = ""
      const reading = yield* Effect.forkScoped(
        Stream.runForEach(handle.events, (event: ExecEvent) =>
          Effect.suspend(() => {
            if (event._tag === "Exit") seen += `exit ${event.code}`
            if (event._tag === "Stdout") seen += Buffer.from(event.data).toString()
            return seen.includes("ready") ? Deferred.succeed(ready, undefined) : Effect.void
          })
        )
      )
      yield* Deferred.await(ready)
      yield* handle.resize(132, 50)
      yield* Fiber.join(reading)
      expect(seen).toBe("40 100\r\nready\r\n50 132\r\nexit 5")

      const cat = yield* guest.exec({ ...plain, argv: ["cat"], tty: { cols: 80, rows: 24 }, stdin: true })
      yield* cat.write(text.encode("\x03"))
      expect(yield* collect(cat)).toMatchObject({ end: "signal 2" })
    })
  )

  it.live("lets a process that closes its terminal end by itself", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      // cat closes its standard streams before it exits; ten rounds, for it is a race.
      for (let round = 0; round < 10; round++) {
        const cat = yield* guest.exec({ ...plain, argv: ["cat"], tty: { cols: 80, rows: 24 }, stdin: true })
        yield* cat.write(text.encode("hi\n"))
        yield* cat.closeStdin
        expect(yield* collect(cat)).toMatchObject({ end: 0, stdout: "hi\r\nhi\r\n" })
      }
      const script = "exec <&- >&- 2>&-; sleep 0.1; exec >/dev/tty; echo back; exit 4"
      expect(yield* shell(guest, script, { tty: { cols: 80, rows: 24 } })).toMatchObject({ end: 4, stdout: "back\r\n" })
    })
  )

  it.live("sends signals to the whole group", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const handle = yield* guest.exec({ ...plain, argv: ["sh", "-c", "sleep 1000 & sleep 1000"] })
      yield* handle.signal(15)
      expect((yield* collect(handle)).end).toBe("signal 15")
      const again = yield* Effect.flip(handle.signal(15))
      expect(again._tag).toBe("GuestChannelFailed")
    })
  )

  it.live("runs twelve at once with twelve right codes", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const codes = Array.from({ length: 12 }, (_, code) => code)
      const ends = yield* Effect.forEach(codes, (code) => shell(guest, `echo ${code}; exit ${code}`), {
        concurrency: "unbounded"
      })
      expect(ends.map((outcome) => outcome.end)).toEqual(codes)
      expect(ends.map((outcome) => outcome.stdout)).toEqual(codes.map((code) => `${code}\n`))
    })
  )

  it.live("lets a stalled reader stall only itself", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const stalled = yield* guest.exec({ ...plain, argv: ["sh", "-c", "head -c 20000000 /dev/zero"] })
      expect((yield* shell(guest, "head -c 3000000 /dev/zero | wc -c")).stdout.trim()).toBe("3000000")
      const bytes = yield* Stream.runFold(
        stalled.events,
        () => 0,
        (sum, event) => sum + (event._tag === "Stdout" ? event.data.length : 0)
      )
      expect(bytes).toBe(20_000_000)
    })
  )

  it.live("waits 200 ms for output of what a process leaves behind, no longer", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const started = performance.now()
      const outcome = yield* shell(guest, "sleep 5 & (sleep 0.05; echo late) & echo now")
      expect(outcome).toEqual({ end: 0, stdout: "now\nlate\n", stderr: "" })
      expect(performance.now() - started).toBeLessThan(3000)
    })
  )

  it.live("kills the process group when the exec's scope closes", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const scope = yield* Scope.make()
      const script = "sleep 1000 & echo $!; exec sleep 1000"
      const handle = yield* guest.exec({ ...plain, argv: ["sh", "-c", script] }).pipe(Scope.provide(scope))
      const first = yield* Stream.runHead(handle.events)
      const child =
        first._tag === "Some" && first.value._tag === "Stdout" ? Buffer.from(first.value.data).toString() : ""
      expect(existsSync(`/proc/${child.trim()}`)).toBe(true)
      yield* Scope.close(scope, Exit.void)
      yield* eventually(() => !existsSync(`/proc/${handle.pid}`) && !existsSync(`/proc/${child.trim()}`))
    })
  )
})

describe("the guest as a whole", () => {
  it.live("answers pings, numbers, a second boot, and powers off", () =>
    Effect.gen(function* () {
      const { guest, process } = yield* nativeAgent
      const request = {
        root: { device: "/dev/vdb", type: "erofs" },
        upper: { kind: "tmpfs" },
        hostname: "box"
      } as const
      expect(guest.hello.booted).toBe(false)
      yield* guest.ping
      expect((yield* guest.boot(request)).already).toBe(false)
      expect((yield* guest.boot(request)).already).toBe(true)
      expect((yield* guest.stats).memory_total).toBeGreaterThan(0)
      yield* guest.syncClock
      const handle = yield* guest.exec({
        ...plain,
        argv: ["sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.02; done"]
      })
      yield* Stream.runHead(handle.events)
      yield* guest.poweroff({ signal: 15, graceMs: 5000 })
      yield* guest.closed
      expect(yield* Effect.promise(() => process.exited)).toBe(0)
    })
  )
})
