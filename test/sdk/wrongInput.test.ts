/** What programs get wrong, with actors of their own and with a server: a typed error that names the field, and nothing left behind. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { readdirSync } from "node:fs"
import net from "node:net"
import path from "node:path"
import { Effect, Schema, SchemaAST } from "effect"
import { type Rpc, RpcSchema } from "effect/rpc"
import { InvalidSpec } from "../../src/domain/errors/vm.ts"
import { builtInPlugins } from "../../src/plugin/builtin.ts"
import { layer, VmSupervisor } from "../../src/sdk/effect.ts"
import { Images, Models, Sandbox } from "../../src/sdk/index.ts"
import type { Home } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import { mustSkip } from "../support/requirements.ts"
import { config } from "../support/sandboxes.ts"

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

describe.skipIf(mustSkip("wrong input of programs"))("wrong input of programs", () => {
  let home: Home
  beforeAll(async () => {
    home = await busyboxHome()
    await home.serve()
    await home.must(["create", "-q", "--name", "kept", image])
  }, timeoutMs)
  afterAll(() => home.dispose(), timeoutMs)

  test(
    "a port that is taken: its owner is named, and nothing is left",
    async () => {
      const holder = net.createServer().listen({ host: "127.0.0.1", port: 0 })
      await new Promise((resolve) => holder.once("listening", resolve))
      const { port } = holder.address() as net.AddressInfo
      const create = (hostIp: string) =>
        VmSupervisor.use((vms) =>
          vms.Create({
            name: "web",
            ephemeral: false,
            config: { ...config, image, ports: [{ hostIp, hostPort: port, guestPort: 80 }] }
          })
        ).pipe(Effect.flip, Effect.provide(layer({ home: home.directory })), Effect.runPromise)
      expect((await create("127.0.0.1")).message).toMatch(new RegExp(`:${port} .* process ${process.pid} `))
      expect(await create("localhost")).toMatchObject({ _tag: "InvalidSpec", field: "ports" })
      expect(await create("")).toMatchObject({ _tag: "InvalidSpec", field: "ports" })
      holder.close()
      expect(readdirSync(path.join(home.directory, "sandboxes"))).toEqual(["kept"])
    },
    timeoutMs
  )

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
        expect(await create({ memoryMb: "512" })).toBe("InvalidSpec config.memory_mb")
        expect(await create({ workdir: "work" })).toBe("InvalidSpec workdir")
        expect(await create({ env: { "": "x" } })).toBe("InvalidSpec env")
        expect(await create({ maxDurationMs: 0 })).toBe("InvalidSpec config.max_duration_ms")
        expect(await create({ engine: "vmware" })).toBe("InvalidSpec config.engine")
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
        expect(await exec(["true"], { cwd: "tmp" })).toBe("InvalidSpec cwd")
        expect(await exec(["true"], { env: { "": "x" } })).toBe("InvalidSpec env")
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
