/** What programs get wrong, with actors of their own and with a server: a typed error that names the field, and nothing left behind. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { readdirSync } from "node:fs"
import net from "node:net"
import path from "node:path"
import { Schema, SchemaAST } from "effect"
import { type Rpc, RpcSchema } from "effect/rpc"
import type { PortTaken } from "../../src/domain/errors/guestIo.ts"
import { InvalidSpec } from "../../src/domain/errors/vm.ts"
import { builtInPlugins } from "../../src/plugin/builtin.ts"
import { Images, Models, Sandbox } from "../../src/sdk/index.ts"
import { CreateInput, ExecInput } from "../../src/sdk/inputs.ts"
import type { Home } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import { mustSkip } from "../support/requirements.ts"

const image = "test/busybox:1"
const timeoutMs = 120_000

test("every message that a program can send can say that its fields are wrong", () => {
  const doors = new Set(["images", "models", "sandboxes", "sessions"])
  const deaf = builtInPlugins({} as never)
    .filter(({ name }) => doors.has(name))
    .flatMap(({ name, protocol }) =>
      [...protocol.requests].flatMap(([tag, erased]) => {
        const { errorSchema, payloadSchema, successSchema } = erased as unknown as Rpc.AnyWithProps
        const hears = Schema.is(RpcSchema.isStreamSchema(successSchema) ? successSchema.error : errorSchema)(
          new InvalidSpec({ field: "", reason: "" })
        )
        return SchemaAST.isVoid(payloadSchema.ast) || hears ? [] : [`${name}.${tag}`]
      })
    )
  expect(deaf).toEqual([])
})

/** Values of every type that plain JavaScript has. */
const anything = [
  undefined,
  null,
  7,
  1.5,
  Number.NaN,
  "",
  "text",
  true,
  [],
  [7],
  ["a"],
  {},
  { a: 7 },
  () => 1,
  Symbol("s")
]

test("every option of another type is refused with its name, and so is one that there is none of", async () => {
  // Nothing is asked: a wrong type is seen before.
  const place = { server: { url: "http://127.0.0.1:1" } }
  const failure = (promise: Promise<unknown>) =>
    promise.then(
      () => ({ _tag: "nothing", field: "" }),
      (error: { readonly _tag: string; readonly field: string }) => error
    )
  const wrong = (schema: Schema.Top) => {
    const { fields } = schema as unknown as { readonly fields: Readonly<Record<string, Schema.Top>> }
    return Object.entries(fields).flatMap(([field, type]) =>
      anything
        .filter((value) => value !== undefined && !Schema.is(type as Schema.Codec<unknown>)(value))
        .map((value) => ({ field, value }))
    )
  }
  const ofCreate = wrong(CreateInput).filter(({ field }) => field !== "server")
  expect(ofCreate.length).toBeGreaterThan(300)
  for (const { field, value } of ofCreate) {
    const error = await failure(Sandbox.create({ ...place, image: "a", [field]: value } as never))
    expect({ field, value: String(value), tag: error._tag, said: error.field.split(".")[0] }).toEqual({
      field,
      value: String(value),
      tag: "InvalidSpec",
      said: field
    })
  }
  for (const given of [undefined, null, 7, "image", []]) {
    expect((await failure(Sandbox.create(given as never)))._tag).toBe("InvalidSpec")
  }
  expect(await failure(Sandbox.create({ ...place, image: "a", memory: 5 } as never))).toMatchObject({
    _tag: "InvalidSpec",
    field: "memory"
  })
})

describe.skipIf(mustSkip("wrong input of programs"))("wrong input of programs", () => {
  let home: Home
  beforeAll(async () => {
    home = await busyboxHome()
    await home.serve()
    await home.must(["create", "-q", "--name", "kept", image])
  }, timeoutMs)
  afterAll(() => home.dispose(), timeoutMs)

  for (const door of ["in process", "with a server"]) {
    test(
      door,
      async () => {
        const place =
          door === "in process"
            ? { home: home.directory }
            : { server: { url: `unix:${path.join(home.directory, "bunker.sock")}` } }
        const failure = (promise: Promise<unknown>) =>
          promise.then(
            () => "nothing",
            (error: { readonly _tag?: string; readonly field?: string; readonly message: string }) => {
              expect(error.message).not.toContain("Schema validation failed")
              return error._tag === "InvalidSpec" ? `InvalidSpec ${error.field}` : error._tag
            }
          )
        const create = (options: object) => failure(Sandbox.create({ ...place, image, ...options } as never))
        expect(await create({ cpus: 0 })).toBe("InvalidSpec config.cpus")
        expect(await create({ cpus: 17 })).toBe("InvalidSpec cpus")
        expect(await create({ memoryMb: 1 })).toBe("InvalidSpec config.memory_mb")
        expect(await create({ memoryMb: "512" })).toBe("InvalidSpec memoryMb")
        expect(await create({ workdir: "work" })).toBe("InvalidSpec workdir")
        expect(await create({ env: { "": "x" } })).toBe("InvalidSpec env")
        expect(await create({ hostname: "h".repeat(65) })).toBe("InvalidSpec hostname")
        expect(await create({ ports: [{ guestPort: 80, hostIp: "localhost" }] })).toBe("InvalidSpec ports")
        expect(await create({ ports: [{ guestPort: 80, hostIp: "" }] })).toBe("InvalidSpec ports")
        expect(await create({ ports: [{ guestPort: 0 }] })).toBe("InvalidSpec config.ports.0.guest_port")
        expect(await create({ rlimits: [{ resource: "nofile", soft: 2, hard: 1 }] })).toBe("InvalidSpec rlimits")
        expect(await create({ restart: { policy: "always" } })).toBe("InvalidSpec restart")
        expect(await create({ maxDurationMs: 0 })).toBe("InvalidSpec config.max_duration_ms")
        expect(await create({ engine: "vmware" })).toBe("InvalidSpec config.engine")
        const holder = net.createServer().listen({ host: "127.0.0.1", port: 0 })
        await new Promise((resolve) => holder.once("listening", resolve))
        const { port } = holder.address() as net.AddressInfo
        for (const hostIp of ["127.0.0.1", "0.0.0.0", "::"]) {
          const ports = [{ guestPort: 80, hostPort: port, hostIp }]
          const failed = Sandbox.create({ ...place, image, persistent: true, ports })
          const taken = await failed.then(
            () => undefined,
            (error: unknown) => error as PortTaken
          )
          expect(taken?._tag).toBe("PortTaken")
          expect(taken?.owner).toStartWith(`process ${process.pid} (`)
        }
        const start = { persistent: true, start: false, name: "elsewhere" }
        const ports = [{ guestPort: 80, hostPort: port, hostIp: "127.0.0.2" }]
        const elsewhere = await Sandbox.create({ ...place, ...start, image, ports })
        expect((await elsewhere.info()).config.ports).toEqual(ports)
        await elsewhere.remove()
        holder.close()
        // Told before anything is pulled: nobody listens there.
        const absent = "127.0.0.1:1/none:1"
        expect(await create({ image: absent, name: "a/b" })).toBe("InvalidName")
        expect(await create({ image: absent, name: "kept" })).toBe("AlreadyExists")
        expect(await create({ image: absent, models: [{ name: "nothere" }] })).toBe("ModelNotFound")
        expect(await create({ image: absent, mounts: [{ source: "/nonexistent", target: "/x" }] })).toBe("MountRefused")

        const kept = await Sandbox.get("kept", place)
        const exec = (argv: ReadonlyArray<string>, options = {}) => failure(kept.exec(argv, options))
        expect(await failure(kept.stop(-1))).toBe("InvalidSpec timeout_ms")
        expect(await failure(kept.stop(2 ** 40))).toBe("InvalidSpec timeout_ms")
        expect(await exec(["true"], { timeoutMs: 0 })).toBe("InvalidSpec request.timeout_ms")
        expect(await exec(["true"], { rlimits: [{ resource: "nofile", soft: 2, hard: 1 }] })).toBe(
          "InvalidSpec rlimits"
        )
        expect(await exec(["true"], { cwd: "tmp" })).toBe("InvalidSpec cwd")
        expect(await exec(["true"], { env: { "": "x" } })).toBe("InvalidSpec env")
        const command = ExecInput.fields as unknown as Readonly<Record<string, Schema.Codec<unknown>>>
        for (const [field, type] of Object.entries(command)) {
          for (const value of anything) {
            if (value === undefined || Schema.is(type)(value)) continue
            const refused = field === "command" ? exec(value as never) : exec(["true"], { [field]: value })
            expect(`${field} ${((await refused) ?? "").split(".")[0]}`).toBe(`${field} InvalidSpec ${field}`)
          }
        }
        expect(await exec(["true"], { timeout: 5 })).toBe("InvalidSpec timeout")
        expect(await exec([""])).toBe("InvalidSpec argv")
        expect(await exec(["a\0b"])).toBe("InvalidSpec request.argv.0")
        expect(await exec(Array.from({ length: 5000 }, String))).toBe("InvalidSpec request.argv")
        expect(await failure(kept.spawn(["sh"], { tty: { cols: 0, rows: 1 } }))).toBe("InvalidSpec request.tty.cols")
        expect(await failure(kept.files.read(7 as never))).toBe("InvalidSpec path")
        await kept.dispose()

        const images = new Images(place)
        expect(await failure(images.inspect(7 as never))).toBe("InvalidSpec reference")
        await images.dispose()
        const models = new Models(place)
        expect(await failure(models.get(7 as never))).toBe("InvalidSpec name")
        await models[Symbol.asyncDispose]()
        expect(readdirSync(path.join(home.directory, "sandboxes"))).toEqual(["kept"])
      },
      timeoutMs
    )
  }
})
