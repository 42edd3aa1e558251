/** How a program and a server understand each other: errors come back as what they were, and a server that fails is an error, too. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { Arbitrary, Effect, type Schema, Stream } from "effect"
import * as Errors from "../../src/domain/errors.ts"
import { makeApp } from "../../src/http/app.ts"
import { builtInPlugins } from "../../src/plugin/builtin.ts"
import { Images, Sandbox, type ServerOptions } from "../../src/sdk/index.ts"
import { errorOf } from "../../src/sdk/serverErrors.ts"
import { serverEvents } from "../../src/sdk/serverEvents.ts"
import { program } from "../support/bunker.ts"
import { busyboxArchive } from "../support/busyboxImage.ts"
import { busybox } from "../support/requirements.ts"
import { startServer, type TestServer } from "../support/server.ts"

const plugin = builtInPlugins({} as never).find(({ name }) => name === "images")!

test("events are read however they were cut", async () => {
  const text = ':\n\nevent: message\ndata: {"a":1}\n\n:\n\n:\n\ndata: grüße\n\nevent: end\ndata: {}\n\n'
  const bytes = new TextEncoder().encode(text)
  for (let size = 1; size <= bytes.length; size += 1) {
    const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, at) =>
      bytes.slice(at * size, (at + 1) * size)
    )
    const events = await Array.fromAsync(
      serverEvents(new Response(Stream.toReadableStream(Stream.fromIterable(pieces))).body!)
    )
    expect(events).toEqual([
      { event: "message", data: '{"a":1}' },
      { event: "message", data: "grüße" },
      { event: "end", data: "{}" }
    ])
  }
})

const tags = Object.keys(Errors).filter((name) => "fields" in Object((Errors as Record<string, unknown>)[name]))

test("every error of ours comes back as what it was", async () => {
  expect(tags.length).toBeGreaterThan(60)
  for (const tag of tags) {
    const schema = (Errors as unknown as Record<string, Schema.Codec<Error & { readonly _tag: string }>>)[tag]!
    const result = await Effect.runPromise(
      Arbitrary.checkEffect(
        Arbitrary.schema(schema),
        (error) =>
          Effect.promise(async () => {
            const back = await overHttp(error)
            // JSON has no -0.
            return back.constructor === error.constructor && JSON.stringify(back) === JSON.stringify(error)
          }),
        { runs: 5 }
      )
    )
    expect({ tag, failure: Arbitrary.formatCheckFailure(result) }).toEqual({ tag, failure: undefined })
  }
})

/** The error that a client gets when a message fails with this one. */
const overHttp = async (error: Error & { readonly _tag: string }) => {
  const app = makeApp({
    version: "test",
    host: { plugins: [plugin], send: () => Effect.fail(error) },
    run: (effect) => Effect.runPromiseExit(effect),
    spool: () => Effect.die("unused"),
    ready: () => true,
    report: () => {}
  })
  const answer = await app.request("/v1/images")
  return errorOf(answer.status, await answer.json())
}

test("an answer that is no error of ours is one, too", () => {
  for (const document of [undefined, null, 7, "text", {}, { code: "toString" }, { code: "SandboxNotFound" }]) {
    expect(errorOf(418, document)).toBeInstanceOf(Errors.ServerRefused)
  }
  const refused = errorOf(401, { ok: false, code: "Unauthorized", error: "no token", details: {} })
  expect(refused).toMatchObject({ _tag: "ServerRefused", status: 401, code: "Unauthorized", reason: "no token" })
})

test("a name is sent to its own route or nowhere", async () => {
  const asked: Array<string> = []
  using server = Bun.serve({
    port: 0,
    fetch: (request) => {
      asked.push(`${request.method} ${new URL(request.url).pathname}`)
      return new Response(null, { status: 204 })
    }
  })
  const options = { url: `http://127.0.0.1:${server.port}` }
  await using images = new Images({ server: options })
  for (const reference of ["../sandboxes/box", "a/../../sandboxes/box", "..", ".", "a/./b"]) {
    await expect(images.remove(reference)).rejects.toMatchObject({ _tag: "InvalidSpec" })
  }
  await expect(Sandbox.get("..", { server: options })).rejects.toMatchObject({ _tag: "InvalidSpec" })
  expect(asked).toEqual([])
  await images.remove("test/a..b:1.2")
  await images.remove("%2e%2e/x?y#z").catch(() => undefined)
  expect(asked).toEqual(["DELETE /v1/images/test/a..b%3A1.2", "DELETE /v1/images/%252e%252e/x%3Fy%23z"])
})

test("an answer without an end is given up", async () => {
  const piece = new Uint8Array(1024 * 1024).fill(0x20)
  for (const status of [200, 500]) {
    using server = Bun.serve({
      port: 0,
      fetch: () => new Response(new ReadableStream({ pull: (to) => to.enqueue(piece) }), { status })
    })
    await expect(Sandbox.list({ server: { url: `http://127.0.0.1:${server.port}` } })).rejects.toMatchObject({
      _tag: "ServerUnreachable",
      reason: expect.stringContaining("more than")
    })
  }
})

test("a password in a URL is in no error", async () => {
  for (const url of ["http://user:hunter2@127.0.0.1:1", "ftp://user:hunter2@host"]) {
    const error = await Sandbox.list({ server: { url } }).catch((cause: unknown) => cause as Error)
    expect(error).toBeInstanceOf(Error)
    expect(JSON.stringify([error, (error as Error).message])).not.toContain("hunter2")
  }
})

describe.skipIf(!existsSync(program) || busybox === undefined)("a server", () => {
  const home = mkdtempSync(path.join(tmpdir(), "bk-"))
  let server: TestServer
  let options: ServerOptions

  beforeAll(async () => {
    server = await startServer(home, "tcp")
    options = server.options
  }, 60_000)
  afterAll(async () => {
    await server.stop("SIGKILL")
    rmSync(home, { recursive: true, force: true })
  })

  test("answers with the errors that the embedded actors fail with", async () => {
    await expect(Sandbox.get("no/name", { server: options })).rejects.toMatchObject({
      _tag: "InvalidName",
      message: expect.stringContaining("no/name")
    })
    await expect(Sandbox.get("nobody", { server: options })).rejects.toBeInstanceOf(Errors.SandboxNotFound)
    await expect(Sandbox.create({ image: "Not An Image", server: options })).rejects.toBeInstanceOf(
      Errors.InvalidReference
    )
    const files = Sandbox.connect(options)
    expect(await files.list()).toEqual([])
  })

  test("takes an archive of images, tells of the steps, and gives it back", async () => {
    const archive = path.join(home, "image.tar")
    writeFileSync(archive, busyboxArchive(busybox!))
    await using images = new Images({ server: options })
    const steps: Array<string> = []
    const [image] = await images.load(archive, { onEvent: ({ _tag }) => void steps.push(_tag) })
    expect(image!.reference).toContain("test/busybox:1")
    expect(steps.at(-1)).toBe("Done")
    expect((await images.list()).map(({ reference }) => reference)).toEqual([image!.reference])
    expect((await images.inspect(image!.reference)).config.cmd).toContain("echo greetings from the guest")
    let bytes = 0
    for await (const piece of images.save(image!.reference)) bytes += piece.length
    expect(bytes).toBeGreaterThan(100_000)
    expect((await images.usage()).images.count).toBe(1)
    await images.remove(image!.reference)
    await expect(images.inspect(image!.reference)).rejects.toBeInstanceOf(Errors.ImageNotFound)
  }, 60_000)

  test("is refused, unreachable or none, by name, without the token in the words", async () => {
    const failed = (given: ServerOptions) =>
      Sandbox.list({ server: given }).then(
        () => undefined,
        (error) => error
      )
    expect(await failed({ ...options, token: "wrong-token" })).toMatchObject({ _tag: "ServerRefused", status: 401 })
    expect(await failed({ url: options.url })).toMatchObject({ _tag: "ServerRefused", code: "Unauthorized" })
    const nobody = await failed({ url: "http://127.0.0.1:1", token: "wrong-token" })
    expect(nobody).toBeInstanceOf(Errors.ServerUnreachable)
    expect(JSON.stringify([nobody, nobody.message])).not.toContain("wrong-token")
    expect(await failed({ url: `unix:${home}/nothing.sock` })).toBeInstanceOf(Errors.ServerUnreachable)
    for (const url of ["", "host:1", "ftp://host", "unix:"])
      expect(await failed({ url })).toMatchObject({ _tag: "InvalidSpec", field: "url" })
  })
})
