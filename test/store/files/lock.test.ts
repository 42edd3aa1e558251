import { describe, expect } from "bun:test"
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import path from "node:path"
import { Effect, Exit, Scope } from "effect"
import { fileLock, isLocked, tryFileLock, unlinkHeldLock, withAnyLock } from "../../../src/store/files/lock.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"

const source = (name: string) => JSON.stringify(path.join(import.meta.dir, "../../../src/store/files", name))

describe("file locks", () => {
  it.live("one holder at a time, free again when its scope ends", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryDirectory, "lock")
      expect(isLocked(file)).toBe(false)
      yield* Effect.gen(function* () {
        expect(yield* tryFileLock(file)).toBe(true)
        expect(isLocked(file)).toBe(true)
        expect(yield* Effect.scoped(tryFileLock(file))).toBe(false)
      }).pipe(Effect.scoped)
      expect(isLocked(file)).toBe(false)
      expect(existsSync(file)).toBe(true)
      yield* Effect.scoped(fileLock(file))
    }).pipe(Effect.scoped)
  )

  it.live("whoever waits can be interrupted, and then holds nothing", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryDirectory, "lock")
      yield* Effect.gen(function* () {
        yield* fileLock(file)
        const waited = yield* Effect.scoped(fileLock(file)).pipe(Effect.timeoutOption("120 millis"))
        expect(waited._tag).toBe("None")
      }).pipe(Effect.scoped)
      expect(isLocked(file)).toBe(false)
    }).pipe(Effect.scoped)
  )

  it.live("a lock ends with its process", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryDirectory, "lock")
      const script = `
        import { Effect } from "effect"
        import { fileLock } from ${source("lock.ts")}
        await Effect.runPromise(Effect.scoped(Effect.gen(function* () {
          yield* fileLock(${JSON.stringify(file)})
          process.stdout.write("held")
          yield* Effect.sleep(60_000)
        })))`
      const child = Bun.spawn([process.execPath, "-e", script], { cwd: import.meta.dir, stdout: "pipe" })
      yield* Effect.promise(() => child.stdout.getReader().read())
      expect(isLocked(file)).toBe(true)
      child.kill("SIGKILL")
      yield* Effect.promise(() => child.exited)
      yield* Effect.scoped(fileLock(file)).pipe(Effect.timeout("5 seconds"))
    }).pipe(Effect.scoped)
  )

  it.live(
    "of several that will do, as many processes go on at once as there are, and a killed one gives its place back",
    () =>
      Effect.gen(function* () {
        const directory = yield* temporaryDirectory
        const files = ["a", "b"].map((name) => path.join(directory, name))
        const inside = path.join(directory, "inside")
        mkdirSync(inside)
        const go = path.join(directory, "go")
        const script = (forEver: boolean) => `
        import fs from "node:fs"
        import { Effect } from "effect"
        import { withAnyLock } from ${source("lock.ts")}
        const [files, inside] = ${JSON.stringify([files, inside])}
        const own = inside + "/" + process.pid
        let most = 0
        const work = Effect.gen(function* () {
          fs.writeFileSync(own, "")
          most = Math.max(most, fs.readdirSync(inside).length)
          ${forEver ? 'process.stdout.write("held")' : ""}
          while (!fs.existsSync(${JSON.stringify(go)})) yield* Effect.sleep(5)
          yield* Effect.sleep(${forEver ? 600_000 : 20})
          fs.rmSync(own)
        })
        const turns = Effect.repeat(withAnyLock(files, 60_000, work), { times: 2 })
        await Effect.runPromise(turns)
        process.stdout.write(String(most))`
        const start = (forEver: boolean) =>
          Bun.spawn([process.execPath, "-e", script(forEver)], { cwd: import.meta.dir, stdout: "pipe" })
        const stuck = start(true)
        yield* Effect.promise(() => stuck.stdout.getReader().read())
        const others = Array.from({ length: 4 }, () => start(false))
        // Nobody leaves before the word.
        yield* Effect.sleep("20 millis").pipe(Effect.repeat({ until: () => readdirSync(inside).length > 1 }))
        // First its mark: whoever has its place is there before we know of its end.
        rmSync(path.join(inside, String(stuck.pid)))
        stuck.kill("SIGKILL")
        writeFileSync(go, "")
        const most = yield* Effect.promise(() => Promise.all(others.map((child) => new Response(child.stdout).text())))
        for (const count of most) expect(["1", "2"]).toContain(count)
      })
  )

  it.live("who waited long enough for any of several goes on without, and one that is interrupted holds nothing", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryDirectory, "lock")
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* fileLock(file)
          expect(yield* withAnyLock([file], 50, Effect.succeed(7))).toBe(7)
          const waited = yield* withAnyLock([file], 60_000, Effect.void).pipe(Effect.timeoutOption("20 millis"))
          expect(waited._tag).toBe("None")
        })
      )
      const held = yield* withAnyLock(
        [file],
        50,
        Effect.sync(() => isLocked(file))
      )
      expect([held, isLocked(file)]).toEqual([true, false])
    })
  )

  it.live(
    "a holder may unlink its file: who waited for it then holds the new one, and never two at once",
    () =>
      Effect.gen(function* () {
        const directory = yield* temporaryDirectory
        const file = path.join(directory, "lock")
        const inside = path.join(directory, "inside")
        const scope = yield* Scope.make()
        yield* Scope.provide(fileLock(file), scope)
        yield* unlinkHeldLock(file)
        yield* Scope.close(scope, Exit.void)
        expect(existsSync(file)).toBe(false)

        // Each holder writes its name, rests, and finds its own name still there; half of them unlink.
        writeFileSync(inside, "0")
        const script = (name: number) => `
        import fs from "node:fs"
        import { Effect } from "effect"
        import { fileLock, tryFileLock, unlinkHeldLock } from ${source("lock.ts")}
        let wins = 0
        await Effect.runPromise(Effect.gen(function* () {
          const end = Date.now() + 2500
          while (Date.now() < end) yield* Effect.scoped(Effect.gen(function* () {
            if (!(yield* tryFileLock(${JSON.stringify(file)}))) return yield* Effect.sleep(0)
            wins += 1
            fs.writeFileSync(${JSON.stringify(inside)}, "${name}")
            yield* Effect.sleep(1)
            if (fs.readFileSync(${JSON.stringify(inside)}, "utf8") !== "${name}") throw new Error("two holders")
            if (wins % 2 === 0) yield* unlinkHeldLock(${JSON.stringify(file)})
          }))
        }))
        process.stdout.write(String(wins))`
        const run = async (name: number) => {
          const child = Bun.spawn([process.execPath, "-e", script(name)], {
            cwd: import.meta.dir,
            stdout: "pipe",
            stderr: "pipe"
          })
          const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
          return (await child.exited) === 0 ? Number(out) : err
        }
        const wins = yield* Effect.promise(() => Promise.all([1, 2, 3].map(run)))
        for (const count of wins) expect(count).toBeGreaterThan(0)
        expect(["1", "2", "3"]).toContain(readFileSync(inside, "utf8"))
      }).pipe(Effect.scoped),
    20_000
  )
})
