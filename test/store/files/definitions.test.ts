/** Definitions of machines as files: what they hold, who may write them, what a crash leaves. */
import { describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect, Exit } from "effect"
import type { SafeName } from "../../../src/domain/name.ts"
import { parseName } from "../../../src/domain/name.ts"
import type { SandboxConfig } from "../../../src/domain/sandbox/sandbox.ts"
import {
  listMachines,
  loadMachine,
  loadMachines,
  removeMachine,
  saveMachine,
  updateMachine,
  updateMachineIp,
  updateMachineState
} from "../../../src/store/files/definitions.ts"
import { Paths } from "../../../src/store/files/Paths.ts"
import { isTomlIssue, parseToml } from "../../../src/store/files/tomlEdit.ts"
import { startChild } from "../../support/children.ts"
import { temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { machine } from "../../support/machines.ts"
import { config } from "../../support/sandboxes.ts"

const web = "web" as SafeName
const withHome = <E>(body: (home: Paths["Service"]) => Effect.Effect<void, E>) =>
  Effect.gen(function* () {
    const directory = yield* temporaryDirectory
    yield* Effect.flatMap(Paths, body).pipe(Effect.provide(Paths.layer(directory)))
  })

const everything: SandboxConfig = {
  ...config,
  cpus: 3,
  memoryMb: 1000,
  diskMb: 1536,
  engine: "qemu",
  endsWithCommand: true,
  command: ["sh", "-c", 'echo "ü"\n'],
  entrypoint: [],
  env: ["A=1", "B=x=y"],
  workdir: "/work",
  user: "1000:1000",
  hostname: "h",
  labels: { "team/a": "b", plain: "" },
  mounts: [{ source: "/srv", target: "/mnt", readOnly: true }],
  tmpfs: [{ target: "/scratch", sizeMb: 64 }, { target: "/other" }],
  ports: [{ hostIp: "127.0.0.1", hostPort: 8080, guestPort: 80 }],
  models: [{ name: "m", target: "/models/m" }],
  restart: { policy: "on-failure", attemptsMax: 3 },
  rlimits: [{ resource: "nofile", soft: 10, hard: -1 }],
  maxDurationMs: 5_400_500,
  idleTimeoutMs: 300_000,
  tty: true,
  openStdin: true,
  session: "s"
}

/** What a person writes at the least. */
const least = (name: string, state = "stopped") =>
  `name = "${name}"\ncpus = 2\nmemory_mb = 512\ndisk_gb = 4\nstate = "${state}"\nvm_id = "0b6bd3a2-6e4b-4c39-9d8a-6f1f0a4f4c11"\n`

const place = (home: Paths["Service"], name: string, text: string): string => {
  const file = home.sandbox(name as SafeName).machineFile
  fs.mkdirSync(path.dirname(file), { recursive: true })
  fs.writeFileSync(file, text)
  return file
}

describe("a machine's definition", () => {
  it.live("loads as it was saved, for its owner only", () =>
    withHome((home) =>
      Effect.gen(function* () {
        const saved = machine("web", {
          config: everything,
          createdAt: Date.now(),
          imageDigest: `sha256:${"b".repeat(64)}`
        })
        yield* saveMachine(home, saved)
        const loaded = yield* loadMachine(home, web)
        expect(loaded.machine).toEqual(saved)
        expect(loaded).toMatchObject({ unknownKeys: [], otherName: undefined, status: "created", needsRecovery: false })
        expect(fs.statSync(home.sandbox(web).machineFile).mode & 0o777).toBe(0o600)
        yield* saveMachine(home, { ...saved, config })
        expect((yield* loadMachine(home, web)).machine).toEqual({ ...saved, config })
      })
    )
  )

  it.live("lists what was saved, sorted, and forgets what was removed", () =>
    withHome((home) =>
      Effect.gen(function* () {
        for (const name of ["c", "a", "b"]) yield* saveMachine(home, machine(name))
        fs.mkdirSync(path.join(home.sandboxes, "not-a-machine"))
        expect(yield* listMachines(home)).toEqual(["a", "b", "c"] as Array<SafeName>)
        yield* removeMachine(home, "b" as SafeName, Effect.void)
        expect(yield* listMachines(home)).toEqual(["a", "c"] as Array<SafeName>)
        expect(yield* Effect.flip(loadMachine(home, "b" as SafeName))).toMatchObject({ _tag: "SandboxNotFound" })
        expect(fs.readdirSync(home.locks)).not.toContain("machine-b.lock")
      })
    )
  )

  it.live("only a running one needs recovery, and the corrected state stays", () =>
    withHome((home) =>
      Effect.gen(function* () {
        for (const state of ["created", "running", "stopped"] as const)
          yield* saveMachine(home, machine(state, { state }))
        const { machines } = yield* loadMachines(home)
        expect(machines.map((each) => [each.machine.name as string, each.status, each.needsRecovery])).toEqual([
          ["created", "created", false],
          ["running", "stopped", true],
          ["stopped", "stopped", false]
        ])
        yield* updateMachineState(home, "running" as SafeName, "stopped")
        expect(yield* loadMachine(home, "running" as SafeName)).toMatchObject({ needsRecovery: false })
      })
    )
  )

  it.live("state and address change in one write, and an address alone", () =>
    withHome((home) =>
      Effect.gen(function* () {
        const saved = machine("web")
        yield* saveMachine(home, saved)
        yield* updateMachineState(home, web, "running", "10.0.0.2")
        expect((yield* loadMachine(home, web)).machine).toEqual({ ...saved, state: "running", ipAddress: "10.0.0.2" })
        yield* updateMachineIp(home, web, "10.0.0.3")
        expect((yield* loadMachine(home, web)).machine.ipAddress).toBe("10.0.0.3")
        yield* updateMachineState(home, web, "stopped")
        expect((yield* loadMachine(home, web)).machine).toEqual({ ...saved, state: "stopped" })
      })
    )
  )

  it.live("the least that a person writes is enough, and its age stays", () =>
    withHome((home) =>
      Effect.gen(function* () {
        const file = place(home, "web", least("web"))
        const first = yield* loadMachine(home, web)
        expect(first.machine.config).toEqual({ ...config, image: "", cpus: 2, memoryMb: 512, diskMb: 4096 })
        expect(Math.abs(first.machine.createdAt - Date.now())).toBeLessThan(60_000)
        expect((yield* loadMachine(home, web)).machine.createdAt).toBe(first.machine.createdAt)
        yield* updateMachineState(home, web, "running")
        expect((yield* loadMachine(home, web)).machine.createdAt).toBe(first.machine.createdAt)
        expect(fs.readFileSync(file, "utf8")).toContain("created_at = 2")
      })
    )
  )

  it.live("what a person wrote around the values stays, unknown keys too", () =>
    withHome((home) =>
      Effect.gen(function* () {
        const text = `# ours\n${least("web")}created_at = 2024-01-02T03:04:05Z\nimage = "x" # the image\ncolour = "red"\n[hooks]\npre = "make" # first\n`
        const file = place(home, "web", text)
        expect(yield* loadMachine(home, web)).toMatchObject({
          unknownKeys: ["colour", "hooks"],
          machine: { createdAt: Date.UTC(2024, 0, 2, 3, 4, 5) }
        })
        yield* updateMachine(home, web, (old) => ({
          ...old,
          state: "running",
          config: { ...old.config, memoryMb: 768, env: ["A=1"] }
        }))
        expect(fs.readFileSync(file, "utf8")).toBe(
          text.replace('"stopped"', '"running"').replace("512", "768").replace('"red"\n', '"red"\nenv = ["A=1"]\n')
        )
      })
    )
  )

  it.live("mounts, ports and limits are typed as on the command line, or as tables", () =>
    withHome((home) =>
      Effect.gen(function* () {
        const lists = `mounts = ["/a:/b:ro", { source = "/c:d", target = "/e", read_only = false }]
tmpfs = ["/t", "/u:size=1g"]
ports = ["8080:80", "[::1]:0:443", { host_ip = "0.0.0.0", host_port = 1, guest_port = 2 }]
rlimits = ["nofile=10:20"]
`
        const file = place(home, "web", `${least("web")}${lists}`)
        const { machine: loaded } = yield* loadMachine(home, web)
        expect(loaded.config).toMatchObject({
          mounts: [
            { source: "/a", target: "/b", readOnly: true },
            { source: "/c:d", target: "/e", readOnly: false }
          ],
          tmpfs: [{ target: "/t" }, { target: "/u", sizeMb: 1024 }],
          ports: [
            { hostIp: "127.0.0.1", hostPort: 8080, guestPort: 80 },
            { hostIp: "::1", hostPort: 0, guestPort: 443 },
            { hostIp: "0.0.0.0", hostPort: 1, guestPort: 2 }
          ],
          rlimits: [{ resource: "nofile", soft: 10, hard: 20 }]
        })
        yield* updateMachineState(home, web, "running")
        expect(fs.readFileSync(file, "utf8")).toContain(lists)
        const copy = { ...loaded, name: "copy" as SafeName }
        yield* saveMachine(home, copy)
        expect((yield* loadMachine(home, copy.name)).machine).toEqual(copy)
        const written = fs.readFileSync(home.sandbox(copy.name).machineFile, "utf8")
        expect(written).toContain('ports = ["127.0.0.1:8080:80", "[::1]:0:443", "0.0.0.0:1:2"]')
        expect(written).toContain('tmpfs = ["/t", "/u:size=1024m"]')
        place(home, "relative", `${least("relative")}mounts = ["./a:/b"]\n`)
        place(home, "port", `${least("port")}ports = ["80:http"]\n`)
        const { broken } = yield* loadMachines(home)
        expect(broken.map(({ sandbox, lineNumber, reason }) => `${sandbox} ${lineNumber} ${reason}`)).toEqual([
          'port 7 ports.0: "http" in "80:http" is not a port',
          expect.stringMatching(/^relative 7 mounts.0.source/)
        ])
      })
    )
  )

  it.live("a broken file is reported with place and reason, and never written", () =>
    withHome((home) =>
      Effect.gen(function* () {
        yield* saveMachine(home, machine("good"))
        const cases: ReadonlyArray<readonly [name: string, text: string, line: number | null, reason: string]> = [
          ["cut", `${least("cut")}env = ["A`, 7, "string"],
          ["twice", `${least("twice")}name = "other"\n`, 7, "redefine"],
          ["type", least("type").replace("memory_mb = 512", 'memory_mb = "lots"'), 3, "memory_mb"],
          ["small", least("small").replace("512", "1"), 3, "64"],
          ["less", least("less").replace("cpus = 2\n", ""), null, "cpus is missing"],
          ["policy", `${least("policy")}restart = "sometimes"\n`, 7, "on-failure"],
          ["time", `${least("time")}max_duration = "soon"\n`, 7, "30s"],
          [
            "deep",
            `${least("deep")}[[mounts]]\nsource = "/a"\ntarget = "../x"\nread_only = true\n`,
            7,
            "mounts.0.target"
          ],
          ["uuid", least("uuid").replace("0b6b", "xxxx"), 6, "vm_id"],
          [
            "key",
            `${least("key")}[[mounts]]\nsource = "/a"\ntarget = "/x"\nread_only = true\nodd = 1\n`,
            7,
            "mounts.0.odd"
          ]
        ]
        for (const [name, text] of cases) place(home, name, text)
        fs.mkdirSync(home.sandbox("directory" as SafeName).machineFile, { recursive: true })
        fs.writeFileSync(place(home, "bytes", ""), new Uint8Array([0xff, 0xfe, 0x00]))
        const { machines, broken } = yield* loadMachines(home)
        expect(machines.map((each) => each.machine.name as string)).toEqual(["good"])
        expect(broken).toHaveLength(cases.length + 2)
        for (const [name, text, line, reason] of cases) {
          const file = home.sandbox(name as SafeName).machineFile
          const error = broken.find((each) => each.sandbox === name)
          expect({ ...error }).toMatchObject({
            sandbox: name,
            path: file,
            lineNumber: line,
            reason: expect.stringContaining(reason)
          })
          expect(error?.message).toContain(line === null ? `${file}: ` : `${file}:${line}: `)
          for (const write of [saveMachine(home, machine(name)), updateMachineState(home, name as SafeName, "running")])
            expect(yield* Effect.flip(write)).toMatchObject({ _tag: "MachineConfigInvalid", lineNumber: line })
          expect(fs.readFileSync(file, "utf8")).toBe(text)
        }
      })
    )
  )

  it.live("a pipe, a link and a name that is no name", () =>
    withHome((home) =>
      Effect.gen(function* () {
        fs.mkdirSync(home.sandbox(web).directory)
        Bun.spawnSync(["mkfifo", home.sandbox(web).machineFile])
        expect(yield* Effect.flip(loadMachine(home, web))).toMatchObject({ reason: "it is no file" })
        fs.mkdirSync(home.sandbox("round" as SafeName).directory)
        fs.symlinkSync("config.toml", home.sandbox("round" as SafeName).machineFile)
        expect(yield* Effect.flip(loadMachine(home, "round" as SafeName))).toMatchObject({
          _tag: "MachineConfigInvalid",
          reason: "it can not be read: ELOOP"
        })
        const versioned = path.join(home.home, "versioned.toml")
        fs.writeFileSync(versioned, least("linked"))
        fs.mkdirSync(home.sandbox("linked" as SafeName).directory)
        fs.symlinkSync(versioned, home.sandbox("linked" as SafeName).machineFile)
        yield* updateMachineState(home, "linked" as SafeName, "running")
        expect(fs.readFileSync(versioned, "utf8")).toContain('state = "running"')
        expect(fs.lstatSync(home.sandbox("linked" as SafeName).machineFile).isSymbolicLink()).toBe(true)
        for (const name of ["../x", "a/b", "", "x".repeat(129), "."])
          expect(yield* Effect.flip(parseName(name))).toMatchObject({ _tag: "InvalidName" })
        fs.mkdirSync(path.join(home.sandboxes, "-odd name"))
        fs.writeFileSync(path.join(home.sandboxes, "-odd name", "config.toml"), least("x"))
        expect(yield* listMachines(home)).toEqual(["linked", "web"] as Array<SafeName>)
      })
    )
  )
})

const imports = `
  import { Paths } from ${JSON.stringify(path.join(import.meta.dir, "../../../src/store/files/Paths.ts"))}
  import * as machines from ${JSON.stringify(path.join(import.meta.dir, "../../../src/store/files/definitions.ts"))}
  const body = (use) => Effect.runPromise(Effect.flatMap(Paths, use).pipe(Effect.provide(Paths.layer(home))))
`

const strace = Bun.which("strace")
if (strace === null) console.warn("skipped: what a save syncs; strace is not installed (apt-get install strace)")
describe.skipIf(strace === null)("a save", () => {
  it.live("syncs the file before it gets its name, and the directory after that", () =>
    withHome((home) =>
      Effect.gen(function* () {
        const trace = path.join(home.home, "trace")
        const calls = ["-f", "-y", "-qq", "-e", "trace=fsync,fdatasync,rename,renameat,renameat2", "-o", trace]
        const save = `${imports}
          await body((home) => machines.saveMachine(home, ${JSON.stringify(machine("web"))}))`
        const child = startChild(home.home, save, [strace!, ...calls])
        expect(yield* Effect.promise(() => child.exited)).toBe(0)
        const { directory } = home.sandbox(web)
        const steps = fs
          .readFileSync(trace, "utf8")
          .split("\n")
          .filter((line) => line.includes(directory))
          .map((line) =>
            line
              .replace(/^\d+ +/, "")
              .replaceAll(`${directory}/`, "")
              .replaceAll(directory, "DIRECTORY")
          )
          .map((line) =>
            line
              .replace(/config\.toml\.[^">]*\.tmp/g, "TEMPORARY")
              .replace(/\d+</, "<")
              .replace(/ += 0.*/, "")
          )
        expect(steps).toEqual(["fsync(<TEMPORARY>)", 'rename("TEMPORARY", "config.toml")', "fsync(<DIRECTORY>)"])
      })
    )
  )
})

describe("several processes", () => {
  const updates = Number(process.env["BUNKER_TEST_UPDATES"] ?? 100)
  it.live(
    `lose none of 8 × ${updates} updates of different keys`,
    () =>
      withHome((home) =>
        Effect.gen(function* () {
          yield* saveMachine(home, machine("web"))
          const children = Array.from({ length: 8 }, (_, writer) =>
            startChild(
              home.home,
              `${imports}
            await body((home) => Effect.forEach(Array.from({ length: ${updates} }), (_, index) =>
              machines.updateMachine(home, "web", (old) =>
                ({ ...old, config: { ...old.config, labels: { ...old.config.labels, ["w${writer}-" + index]: "x" } } }))))`
            )
          )
          yield* Effect.promise(() => Promise.all(children.map((child) => child.exited)))
          const { labels } = (yield* loadMachine(home, web)).machine.config
          expect(Object.keys(labels)).toHaveLength(8 * updates)
        })
      ),
    180_000
  )

  const kills = Number(process.env["BUNKER_TEST_KILLS"] ?? 200)
  it.live(
    `leave a whole file when killed in the middle of a save, ${kills} times`,
    () =>
      withHome((home) =>
        Effect.gen(function* () {
          yield* saveMachine(home, machine("web", { config: everything }))
          const { machineFile, directory } = home.sandbox(web)
          let changes = 0
          for (let kill = 0; kill < kills; kill += 1) {
            const before = fs.readFileSync(machineFile, "utf8")
            const child = startChild(
              home.home,
              `${imports}
            const grow = (home) => machines.updateMachine(home, "web", (old) =>
              ({ ...old, config: { ...old.config, memoryMb: 64 + (old.config.memoryMb + 1) % 10000 } }))
            await body((home) => Effect.andThen(grow(home), Effect.sync(() => say("on\\n"))))
            await body((home) => Effect.forever(grow(home)))`
            )
            yield* Effect.promise(() => child.stdout.getReader().read())
            yield* Effect.sleep(Math.random() * 40)
            child.kill("SIGKILL")
            yield* Effect.promise(() => child.exited)
            const text = fs.readFileSync(machineFile, "utf8")
            expect(isTomlIssue(parseToml(text))).toBe(false)
            expect((yield* loadMachine(home, web)).machine.config).toMatchObject({ env: everything.env })
            changes += Number(text !== before)
          }
          expect(changes).toBe(kills)
          // Whoever was killed held the lock; it went with the process.
          expect(Exit.isSuccess(yield* Effect.exit(updateMachineState(home, web, "stopped")))).toBe(true)
          expect(fs.readdirSync(directory)).toEqual(["config.toml"])
        })
      ),
    600_000
  )
})
