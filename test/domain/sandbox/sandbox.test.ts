import { describe, expect, test } from "bun:test"
import { Effect, Exit, Schema } from "effect"
import { LibraryNotFound } from "../../../src/domain/errors/vm.ts"
import { parseName } from "../../../src/domain/name.ts"
import { exitCodeOf, mainCommand, mergeEnv } from "../../../src/domain/sandbox/exec.ts"
import { formatRestart, parseRestart } from "../../../src/domain/sandbox/restart.ts"
import {
  canTransition,
  isLive,
  isTerminal,
  predecessors,
  SandboxConfig,
  type Status
} from "../../../src/domain/sandbox/sandbox.ts"
import { commandProblem, sandboxProblem, sizeProblem } from "../../../src/domain/sandbox/validation.ts"
import { readSettings, settingsEnvironment } from "../../../src/domain/settings.ts"
import { config } from "../../support/sandboxes.ts"

describe("names", () => {
  const accepts = (name: string) => Exit.isSuccess(Effect.runSyncExit(parseName(name)))

  test("takes what is safe in a path", () => {
    for (const name of ["a", "A-1_b.c", "_x", "0", "n".repeat(128)])
      expect({ name, ok: accepts(name) }).toEqual({ name, ok: true })
  })

  test("refuses everything else, saying what is wrong", () => {
    const bad: Record<string, string> = {
      "": "empty",
      "..": '"."',
      ".hidden": '"."',
      "-flag": '"-"',
      "a/b": '"/"',
      "../x": '"."',
      "a b": '" "',
      ü: "ü",
      "a\0b": "\\u0000",
      ["n".repeat(129)]: "128 bytes"
    }
    for (const [name, word] of Object.entries(bad)) {
      const error = Effect.runSync(Effect.flip(parseName(name)))
      expect({ name, message: error.message }).toEqual({ name, message: expect.stringContaining(word) })
    }
  })
})

test("a size says what is wrong with it: memory for so many processors, processors that no kernel uses", () => {
  const cases: ReadonlyArray<readonly [cpus: number, memoryMb: number, words: string | undefined]> = [
    [1, 64, undefined],
    [4, 64, undefined],
    [8, 71, "the least is 72 MiB"],
    [8, 72, undefined],
    [16, 87, "the least is 88 MiB"],
    [16, 88, undefined],
    [17, 4096, "at most 16"]
  ]
  for (const [cpus, memoryMb, words] of cases) {
    const found = sizeProblem({ cpus, memoryMb })?.reason
    expect({ cpus, memoryMb, found }).toEqual({
      cpus,
      memoryMb,
      found: words === undefined ? undefined : (expect.stringContaining(words) as unknown as string)
    })
  }
})

test("what commands are given is checked before a guest has it", () => {
  const problem = (env: ReadonlyArray<string>, workdir?: string) =>
    sandboxProblem({ ...config, env, ...(workdir === undefined ? {} : { workdir }) }, false)
  expect(problem(["A=", "B=1=2"], "/a/b")).toBeUndefined()
  expect(problem([], "")).toBeUndefined()
  expect(problem(["A=1", "nonsense"])).toEqual({ field: "env", reason: '"nonsense" is not KEY=value' })
  expect(problem(["=x"])?.field).toBe("env")
  expect(problem([`${"x".repeat(5000)}`])?.reason.length).toBeLessThan(100)
  expect(problem([], "work")).toEqual({ field: "workdir", reason: '"work" is not an absolute path in the guest' })
})

test("a command says which of its fields the guest would refuse", () => {
  const field = (more: object) => commandProblem({ argv: ["true"], env: [], ...more })?.field
  expect(field({ cwd: "/tmp", env: ["A=1"], rlimits: [{ resource: "core", soft: 0, hard: -1 }] })).toBeUndefined()
  expect(field({ cwd: "tmp" })).toBe("cwd")
  expect(field({ env: ["A"] })).toBe("env")
  expect(field({ argv: [""] })).toBe("argv")
  expect(field({ argv: ["w".repeat(98_304), "w".repeat(98_305)] })).toBe("argv")
  expect(field({ user: "u".repeat(257) })).toBe("user")
  expect(field({ rlimits: [{ resource: "nofile", soft: 2, hard: 1 }] })).toBe("rlimits")
  expect(field({ rlimits: [{ resource: "nofile", soft: -1, hard: 1 }] })).toBe("rlimits")
})

test("a sandbox says which of its fields would fail only once it boots", () => {
  const field = (more: object, ephemeral = false) => sandboxProblem({ ...config, ...more }, ephemeral)?.field
  const port = (hostIp: string) => ({ ports: [{ hostIp, hostPort: 80, guestPort: 80 }] })
  for (const fine of [{}, { hostname: "a".repeat(64) }, { hostname: "db_1.x-y" }, port("::1"), port("10.0.0.1")]) {
    expect({ fine, field: field(fine) }).toEqual({ fine, field: undefined })
  }
  for (const hostname of ["", "a".repeat(65), "a b", "-a", "a\nb", "ü"]) {
    expect({ hostname, field: field({ hostname }) }).toEqual({ hostname, field: "hostname" })
  }
  for (const hostIp of ["", "localhost", "cafe", "127.0.0.1.1", "1.2.3", "127.0.0.256", "example.org"]) {
    expect({ hostIp, field: field(port(hostIp)) }).toEqual({ hostIp, field: "ports" })
  }
  expect(field({ rlimits: [{ resource: "nofile", soft: 2048, hard: 1024 }] })).toBe("rlimits")
  expect(field({ tmpfs: [{ target: "/proc/x" }] })).toBe("mounts")
  const half = "w".repeat(98_304)
  expect(field({ command: [half], env: [`A=${half.slice(2)}`] })).toBeUndefined()
  expect(field({ command: [half], env: [`A=${half}`] })).toBe("command")
  expect(field({ entrypoint: [half], command: [half, "x"] })).toBe("command")
  expect(field({ labels: { a: half.repeat(6) } })).toBe("labels")
  expect(field({ user: "u".repeat(257) })).toBe("user")
  expect(field({ labels: { a: "😀" } })).toBeUndefined()
  expect(field({ labels: { "\ud800": "x" } })).toBe("labels")
  expect(field({ labels: { constructor: "x" } })).toBe("labels")
  expect(field({ labels: JSON.parse('{"__proto__":"x"}') })).toBe("labels")
  expect(field({ command: ["sh", "\ude00"] })).toBe("command")
  expect(field({ workdir: `/${"w".repeat(4095)}` })).toBe("workdir")
  expect(field({ restart: { policy: "always" } })).toBeUndefined()
  expect(field({ restart: { policy: "always" } }, true)).toBe("restart")
  expect(field({ restart: { policy: "no", attemptsMax: 3 } })).toBe("restart")
  expect(parseRestart(formatRestart({ policy: "always", attemptsMax: 1_000_000 }))?.attemptsMax).toBe(1_000_000)
})

test("a port that says no address is this machine's alone", () => {
  const found = Schema.decodeUnknownSync(SandboxConfig)({ ...config, ports: [{ hostPort: 80, guestPort: 80 }] })
  expect(found.ports).toEqual([{ hostIp: "127.0.0.1", hostPort: 80, guestPort: 80 }])
})

test("targets in the guest take no step up, not even the first", () => {
  const takes = (target: string) =>
    Exit.isSuccess(Effect.runSyncExit(Schema.decodeUnknownEffect(SandboxConfig)({ ...config, tmpfs: [{ target }] })))
  for (const target of ["/a", "/a/..b/c.", "/.a", "/a/...", "/"])
    expect({ target, ok: takes(target) }).toEqual({ target, ok: true })
  for (const target of ["/..", "/../x", "/.", "/a/../b", "/a/.", "a", "", "/./a"]) {
    expect({ target, ok: takes(target) }).toEqual({ target, ok: false })
  }
})

describe("states", () => {
  const all: ReadonlyArray<Status> = ["created", "starting", "running", "draining", "paused", "stopped", "crashed"]
  const allowed: Record<Status, ReadonlyArray<Status>> = {
    created: ["starting", "crashed"],
    starting: ["running", "stopped", "crashed"],
    running: ["draining", "paused", "stopped", "crashed"],
    draining: ["stopped", "crashed"],
    paused: ["running", "draining", "stopped", "crashed"],
    stopped: ["starting"],
    crashed: ["starting"]
  }

  test("change along the table only", () => {
    for (const from of all) {
      for (const to of all) {
        expect({ from, to, can: canTransition(from, to) }).toEqual({ from, to, can: allowed[from].includes(to) })
        expect(predecessors(to).includes(from)).toBe(allowed[from].includes(to))
      }
    }
  })

  test("are terminal, live or neither", () => {
    expect(all.filter(isTerminal)).toEqual(["stopped", "crashed"])
    expect(all.filter(isLive)).toEqual(["starting", "running", "draining", "paused"])
  })
})

describe("the command of a sandbox", () => {
  const image = { entrypoint: ["/entry"], cmd: ["default", "words"] }

  test("is the image's unless something else is asked for", () => {
    expect(mainCommand(image, {})).toEqual(["/entry", "default", "words"])
    expect(mainCommand(image, { command: ["mine"] })).toEqual(["/entry", "mine"])
    expect(mainCommand(image, { entrypoint: ["/other"] })).toEqual(["/other"])
    expect(mainCommand(image, { entrypoint: ["/other"], command: ["mine"] })).toEqual(["/other", "mine"])
    expect(mainCommand(image, { entrypoint: [], command: ["mine"] })).toEqual(["mine"])
    expect(mainCommand({ entrypoint: [], cmd: [] }, {})).toEqual([])
  })

  test("has the environment of image, sandbox and caller, the last one winning", () => {
    expect(mergeEnv(["A=1", "B=2"], ["B=3=4", "C="], ["A=9"])).toEqual(["A=9", "B=3=4", "C="])
    // Of an image: the guest's agent would refuse every command.
    expect(mergeEnv(["A", "=x", "", "B=1"])).toEqual(["B=1"])
  })

  test("ends with its code, or 128 and its signal", () => {
    expect(exitCodeOf({ code: 7 })).toBe(7)
    expect(exitCodeOf({ code: 256 })).toBe(0)
    expect(exitCodeOf({ signal: 9 })).toBe(137)
  })
})

describe("settings", () => {
  test("come from the environment, with defaults below the user's home", () => {
    const read = (env: Record<string, string>) => readSettings(env, "/cwd", "/home/u")
    expect(read({}).home).toBe("/home/u/.bunker")
    expect(read({ HOME: "/h" })).toMatchObject({ home: "/h/.bunker", dockerConfig: "/h/.docker" })
    expect(read({ BUNKER_HOME: "relative" }).home).toBe("/cwd/relative")
    expect(read({ BUNKER_HOME: "/abs", BUNKER_QEMU: "" })).toMatchObject({ home: "/abs", qemu: undefined })
  })

  test("reach a keeper process, and nothing else does", () => {
    const env = settingsEnvironment(
      readSettings(
        {
          ...{ BUNKER_HOME: "/b", BUNKER_QEMU: "/q", SECRET: "x", BUNKER_REGISTRY_PASSWORD: "y", PATH: "/p" },
          BUN_JSC_useJIT: "0"
        },
        "/",
        "/r"
      )
    )
    expect(env).toEqual({
      BUN_JSC_useJIT: "0",
      BUNKER_HOME: "/b",
      BUNKER_QEMU: "/q",
      DOCKER_CONFIG: "/r/.docker",
      PATH: "/p",
      HOME: "/",
      LC_ALL: "C.UTF-8"
    })
  })
})

test("a library that was not found names a few places, however many there were", () => {
  const say = (looked: ReadonlyArray<string>) =>
    new LibraryNotFound({ library: "libkrun.so.1", looked, advice: "install it" }).message
  expect(say(["/a", "/b"])).toBe("libkrun.so.1 was not found; looked at /a, /b; install it")
  expect(say([..."abcdefghijk"])).toBe("libkrun.so.1 was not found; looked at a, b, c, d and 7 more; install it")
})
