/** Installs from directories, looks at what is there, drops it: over HTTP and on the disk. */
import { Database as Sqlite } from "bun:sqlite"
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect, Exit, Scope } from "effect"
import { fileLock } from "../../src/store/files/lock.ts"
import { entry, type Models, scratch, sha256, startModels } from "../support/models.ts"

describe("the cache of models", () => {
  const place = scratch()
  let it: Models
  let name: string
  let count = 0
  beforeAll(async () => {
    it = await startModels(place.home)
  })
  afterAll(async () => {
    await it.dispose()
    expect(it.reported).toEqual([])
    place.dispose()
  })
  beforeEach(async () => {
    count += 1
    name = `m${count}`
    await ask("POST", "/ai/models", entry(name))
  })
  const ask: Models["ask"] = (...request) => it.ask(...request)
  const pull = (fixture: string) => ask("POST", `/ai/models/${name}/pull`, { fixture_dir: fixture })
  const status = async (verify = "quick") => (await ask("GET", `/ai/models/${name}/cache?verify=${verify}`)).body
  const cacheDir = () => path.join(place.home, "models", name)
  const payload = (file: string) => path.join(cacheDir(), "payload", file)
  const leftovers = () =>
    [".staging", ".purge"].flatMap((each) => fs.readdirSync(path.join(place.home, "models", each)))

  test("is missing before a pull", async () => {
    expect(await status()).toEqual({ ok: true, name, status: "missing", cache_dir: cacheDir(), footprint_bytes: 0 })
  })

  test("installs two files with the right sha256s, and records it", async () => {
    const fixture = place.tree(name, { "hello.txt": "hello world", "sub/b.bin": new Uint8Array([0, 1, 2]) })
    const pulled = await pull(fixture)
    expect(pulled).toMatchObject({
      status: 200,
      body: { ok: true, name, status: "installed", cache_dir: cacheDir(), manifest: { source: `dir:${fixture}` } }
    })
    expect(Object.keys(pulled.body).toSorted()).toEqual(["cache_dir", "manifest", "name", "ok", "status"])
    expect(pulled.body.manifest).toMatchObject({
      name,
      revision: "main",
      task: "any",
      engine: "candle",
      dimensions: null,
      total_size_bytes: 14,
      files: [
        {
          path: "hello.txt",
          sha256: "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9",
          size_bytes: 11
        },
        { path: "sub/b.bin", sha256: sha256(new Uint8Array([0, 1, 2])), size_bytes: 3 }
      ]
    })
    const onDisk = JSON.parse(fs.readFileSync(path.join(cacheDir(), "manifest.json"), "utf8"))
    expect(onDisk).toEqual(pulled.body.manifest)
    expect(fs.readFileSync(payload("hello.txt"), "utf8")).toBe("hello world")
    const { body } = await ask("GET", `/ai/models/${name}`)
    expect(body).toMatchObject({ status: "installed", cache_dir: cacheDir(), cache_size_bytes: 14 })
    expect(body.installed_at_unix_ms).toBe(onDisk.installed_at_unix_ms)
    const report = await status("full")
    expect(report).toMatchObject({ ok: true, status: "installed", manifest: onDisk })
    expect(report.footprint_bytes).toBeGreaterThan(14)
    expect(leftovers()).toEqual([])
  })

  test("takes source_dir as another name, an empty body as none, and streams events when asked", async () => {
    const fixture = place.tree(name, { a: "a" })
    const url = `/ai/models/${name}/pull`
    const events = await ask("POST", url, { source_dir: fixture }, { accept: "text/event-stream" })
    const seen = events.text.split("\n").filter((line) => line.startsWith('data: {"_tag"'))
    expect(seen.map((line) => JSON.parse(line.slice(6))._tag)).toEqual(["Resolved", "Progress", "Done"])
    expect(events.text).toContain("event: end")
    const failed = await ask("POST", url, { fixture_dir: "/none" }, { accept: "text/event-stream" })
    expect(failed).toMatchObject({ status: 400, body: { code: "ModelDirectoryInvalid" } })
    await ask("PUT", `/ai/models/${name}`, { ...entry(name), source: `dir:${fixture}` })
    expect(await ask("POST", url)).toMatchObject({ status: 200, body: { manifest: { files: [{ path: "a" }] } } })
  })

  test("a directory that is not there is 400, and nothing is installed", async () => {
    for (const directory of [place.at("nowhere"), "relative", place.tree(`${name}f`, { f: "x" }) + "/f"]) {
      expect(await pull(directory)).toMatchObject({ status: 400, body: { code: "ModelDirectoryInvalid" } })
    }
    expect(await status()).toMatchObject({ status: "missing" })
    expect(await ask("POST", `/ai/models/${name}/pull`, { fixture_dir: 7 })).toMatchObject({ status: 400 })
    expect(await ask("POST", `/ai/models/${name}/pull`, { fixture: "/x" })).toMatchObject({ status: 400 })
  })

  test("a second pull from another directory leaves nothing of the first", async () => {
    await pull(place.tree(`${name}a`, { both: "1", first: "1" }))
    await pull(place.tree(`${name}b`, { both: "2", second: "2" }))
    expect(fs.readdirSync(path.join(cacheDir(), "payload")).toSorted()).toEqual(["both", "second"])
    expect(fs.readFileSync(payload("both"), "utf8")).toBe("2")
    expect(leftovers()).toEqual([])
  })

  test("an edit of the source later does not reach the cache", async () => {
    const fixture = place.tree(name, { a: "before" })
    await pull(fixture)
    fs.writeFileSync(path.join(fixture, "a"), "after!")
    expect(await status("full")).toMatchObject({ status: "installed" })
    expect(fs.readFileSync(payload("a"), "utf8")).toBe("before")
  })

  test("leaves dotfiles, keeps a manifest.json of the source apart from its own", async () => {
    const fixture = place.tree(name, {
      "a.txt": "a",
      ".hidden": "x",
      ".git/config": "x",
      "sub/b.txt": "b",
      "sub/.c": "x",
      "manifest.json": "mine"
    })
    const { body } = await pull(fixture)
    expect(body.manifest.files.map((file: { path: string }) => file.path)).toEqual([
      "a.txt",
      "manifest.json",
      "sub/b.txt"
    ])
    expect(fs.readFileSync(payload("manifest.json"), "utf8")).toBe("mine")
    expect(await status("full")).toMatchObject({ status: "installed" })
  })

  test("follows links inside the directory and refuses those that leave it", async () => {
    const outside = place.tree(`${name}out`, { secret: "x" })
    const fixture = place.tree(name, { "blobs/abc": "content" })
    fs.symlinkSync("../blobs/abc", path.join(fixture, "blobs", "..", "link"))
    fs.rmSync(path.join(fixture, "link"))
    fs.mkdirSync(path.join(fixture, "snapshot"))
    fs.symlinkSync("../blobs/abc", path.join(fixture, "snapshot", "model"))
    const { body } = await pull(fixture)
    expect(body.manifest.files.map((file: { path: string }) => file.path)).toEqual(["blobs/abc", "snapshot/model"])
    expect(fs.lstatSync(payload("snapshot/model")).isFile()).toBe(true)
    for (const target of [path.join(outside, "secret"), "../..", "nowhere", "/etc/passwd"]) {
      fs.symlinkSync(target, path.join(fixture, "snapshot", "bad"))
      const refused = await pull(fixture)
      expect(refused).toMatchObject({ status: 500, body: { code: "ModelInstallFailed" } })
      expect(refused.body.error).toContain("snapshot/bad")
      fs.rmSync(path.join(fixture, "snapshot", "bad"))
    }
    expect(await status("full")).toMatchObject({ status: "installed" })
    expect(leftovers()).toEqual([])
  })

  test("an empty directory has no files to install", async () => {
    const refused = await pull(place.tree(name, { ".only": "hidden" }))
    expect(refused).toMatchObject({ status: 500, body: { code: "ModelInstallFailed" } })
    expect(refused.body.error).toContain("contains no files to install")
  })

  test("takes what the patterns say", async () => {
    const patterns = { allow_patterns: ["*.txt", "sub/"], ignore_patterns: ["sub/[x-z]*", "b?.txt"] }
    await ask("PUT", `/ai/models/${name}`, entry(name, patterns))
    const files = {
      "a.txt": "",
      "b1.txt": "",
      "b12.txt": "",
      "c.bin": "",
      "sub/a": "",
      "sub/x1": "",
      "deep/er/d.txt": ""
    }
    const { body } = await pull(place.tree(name, files))
    const taken = body.manifest.files.map((file: { path: string }) => file.path)
    expect(taken).toEqual(["a.txt", "b12.txt", "deep/er/d.txt", "sub/a"])
  })

  test("says what is wrong: garbage, schema, a missing file, a length, a flipped bit", async () => {
    const fixture = place.tree(name, { a: "aaaa", b: "bbbb" })
    const manifest = path.join(cacheDir(), "manifest.json")
    await pull(fixture)
    const good = fs.readFileSync(manifest, "utf8")
    const spoilt: ReadonlyArray<readonly [string, string]> = [
      ["{{{", "JSON"],
      ["[]", "JSON object"],
      [good.replace('"total_size_bytes": 8', '"total_size_bytes": -1'), "total_size_bytes"],
      [good.replace('"path": "b"', '"path": "../b"'), "files[1].path"],
      [good.replace('"path": "b"', '"path": "/b"'), "files[1].path"],
      [good.replace('"path": "a"', '"path": "x/../a"'), "files[0].path"],
      [good.replace(/"sha256": "[0-9a-f]{64}"/, '"sha256": "short"'), "files[0].sha256"],
      [good.replace('"size_bytes": 4', '"size_bytes": "4"'), "files[0].size_bytes"],
      [good.replace(`"name": "${name}"`, '"name": "other"'), "other"]
    ]
    for (const [text, words] of spoilt) {
      fs.writeFileSync(manifest, text)
      const report = await status()
      expect({ words, status: report.status }).toEqual({ words, status: "unhealthy" })
      expect(report.detail).toContain(words)
    }
    fs.rmSync(manifest)
    expect(await status()).toMatchObject({ status: "unhealthy", detail: expect.stringContaining("manifest.json") })
    fs.writeFileSync(manifest, good)
    expect(await status("full")).toMatchObject({ status: "installed" })
    fs.chmodSync(payload("b"), 0o644)
    fs.writeFileSync(payload("b"), "bbbbb")
    expect(await status()).toMatchObject({ status: "unhealthy", detail: 'file "b" has 5 bytes, expected 4' })
    fs.writeFileSync(payload("b"), "bBbb")
    expect(await status()).toMatchObject({ status: "installed" })
    const hashed = await status("full")
    expect(hashed).toMatchObject({ status: "unhealthy" })
    expect(hashed.detail).toContain(sha256("bbbb"))
    expect(hashed.detail).toContain(sha256("bBbb"))
    fs.rmSync(payload("b"))
    expect(await status()).toMatchObject({ status: "unhealthy", detail: 'file "b" is missing' })
    fs.symlinkSync("a", payload("b"))
    expect(await status()).toMatchObject({ status: "unhealthy" })
    await pull(fixture)
    expect(await status("full")).toMatchObject({ status: "installed" })
    expect((await ask("GET", `/ai/models/${name}/cache?verify=half`)).status).toBe(400)
  })

  test("drops once, keeps the entry", async () => {
    await pull(place.tree(name, { a: "a" }))
    const url = `/ai/models/${name}/cache`
    const answer = { ok: true, name, removed: true, status: "registered" }
    expect(await ask("DELETE", url)).toMatchObject({ status: 200, body: answer })
    expect(await ask("DELETE", url)).toMatchObject({ status: 200, body: { ...answer, removed: false } })
    expect(await status()).toMatchObject({ status: "missing" })
    expect((await ask("GET", `/ai/models/${name}`)).body).toMatchObject({
      status: "registered",
      cache_dir: null,
      installed_at_unix_ms: null,
      cache_size_bytes: null,
      resolved_revision: null
    })
    expect(fs.existsSync(cacheDir())).toBe(false)
    expect(leftovers()).toEqual([])
  })

  test("a removal takes entry and files", async () => {
    await pull(place.tree(name, { a: "a" }))
    expect(await ask("DELETE", `/ai/models/${name}`)).toMatchObject({ status: 200, body: { ok: true, removed: true } })
    expect((await ask("GET", `/ai/models/${name}`)).status).toBe(404)
    expect(fs.existsSync(cacheDir())).toBe(false)
  })

  test("stays installed only while source, revision and patterns are the same", async () => {
    await pull(place.tree(name, { a: "a" }))
    const put = async (fields: Readonly<Record<string, unknown>>) =>
      (await ask("PUT", `/ai/models/${name}`, entry(name, fields))).body.status
    expect(await put({ engine: "onnx", credential_alias: "x" })).toBe("installed")
    expect(await put({ revision: "v2" })).toBe("registered")
    expect(await status()).toMatchObject({ status: "installed" })
    expect(await put({})).toBe("registered")
    await pull(place.at(name))
    expect(await put({ allow_patterns: ["*"] })).toBe("registered")
  })

  test("less room than needed is 507 before the first byte", async () => {
    const fixture = place.tree(name, { small: "x" })
    fs.truncateSync(path.join(fixture, "small"), 8 * 1024 ** 4)
    const refused = await pull(fixture)
    expect(refused).toMatchObject({ status: 507, body: { code: "DiskFull", details: { needed_bytes: 8 * 1024 ** 4 } } })
    expect(leftovers()).toEqual([])
    fs.rmSync(fixture, { recursive: true })
  })

  test("a drop finds the files below the root that was recorded", async () => {
    const fixture = place.tree(name, { a: "a" })
    await pull(fixture)
    const moved = await startModels(place.home, undefined, place.at("elsewhere"))
    expect((await moved.ask("GET", `/ai/models/${name}/cache`)).body).toMatchObject({ status: "installed" })
    expect((await moved.ask("DELETE", `/ai/models/${name}/cache`)).body).toMatchObject({ removed: true })
    expect(fs.existsSync(cacheDir())).toBe(false)
    await pull(fixture)
    const again = await moved.ask("POST", `/ai/models/${name}/pull`, { fixture_dir: fixture })
    expect(again.body.cache_dir).toBe(place.at("elsewhere", name))
    expect(fs.existsSync(cacheDir())).toBe(false)
    await moved.dispose()
  })

  test("a change, a drop and a removal wait for the model's lock; other models do not", async () => {
    const scope = await Effect.runPromise(Scope.make())
    const lock = path.join(place.home, "cache", "locks", `model-${name}.lock`)
    await Effect.runPromise(Scope.provide(fileLock(lock), scope))
    let done = 0
    const waiting = [
      ask("PUT", `/ai/models/${name}`, entry(name)),
      ask("DELETE", `/ai/models/${name}/cache`),
      pull(place.tree(name, { a: "a" }))
    ].map((each) => each.then(() => void (done += 1)))
    await ask("POST", "/ai/models", entry(`${name}other`))
    expect((await ask("POST", `/ai/models/${name}other/pull`, { fixture_dir: place.at(name) })).status).toBe(200)
    expect(await status()).toMatchObject({ status: "missing" })
    expect(done).toBe(0)
    await Effect.runPromise(Scope.close(scope, Exit.void))
    await Promise.all(waiting)
  })

  test("what a crash left of an install goes, and one that was moved aside comes back", async () => {
    await pull(place.tree(name, { a: "a" }))
    const root = path.join(place.home, "models")
    const id = fs.readFileSync(path.join(cacheDir(), "install-id"), "utf8").trim()
    fs.mkdirSync(path.join(root, ".staging", `${name}-0123456789abcdef`, "payload"), { recursive: true })
    fs.renameSync(cacheDir(), path.join(root, ".purge", `${name}-${id}`))
    fs.mkdirSync(path.join(root, ".purge", `${name}-00000000000000ff.dropped`))
    const next = await startModels(place.home)
    expect((await next.ask("GET", `/ai/models/${name}/cache?verify=full`)).body).toMatchObject({ status: "installed" })
    expect(leftovers()).toEqual([])
    // Also without a start.
    fs.renameSync(cacheDir(), path.join(root, ".purge", `${name}-${id}`))
    expect(await status()).toMatchObject({ status: "installed" })
    await next.dispose()
  })

  test("a mounted install keeps its files when a new one comes and when it is dropped; its model can not be removed", async () => {
    await pull(place.tree(`${name}a`, { a: "old" }))
    const id = fs.readFileSync(path.join(cacheDir(), "install-id"), "utf8").trim()
    const held = path.join(place.home, "models", ".purge", `${name}-${id}.dropped`, "payload", "a")
    const sqlite = new Sqlite(path.join(place.home, "bunker.db"))
    sqlite.run(
      "INSERT INTO sandbox (name, config, status, ephemeral, created_at, updated_at) VALUES (?, '{}', 'running', 0, 0, 0)",
      [`box-${name}`]
    )
    const { id: sandbox } = sqlite.query("SELECT id FROM sandbox WHERE name = ?").get(`box-${name}`) as { id: number }
    sqlite.run("INSERT INTO model_mount VALUES (?, ?, ?, 0)", [sandbox, name, id])
    await pull(place.tree(`${name}b`, { a: "new" }))
    expect(fs.readFileSync(held, "utf8")).toBe("old")
    expect(fs.readFileSync(payload("a"), "utf8")).toBe("new")
    await pull(place.at(`${name}b`))
    expect(fs.readFileSync(held, "utf8")).toBe("old")
    expect(await ask("DELETE", `/ai/models/${name}`)).toMatchObject({
      status: 409,
      body: { code: "ModelInUse", details: { sandboxes: [`box-${name}`] } }
    })
    await ask("DELETE", `/ai/models/${name}/cache`)
    expect(fs.readFileSync(held, "utf8")).toBe("old")
    expect(await status()).toMatchObject({ status: "missing" })
    sqlite.run("UPDATE sandbox SET status = 'stopped'")
    sqlite.close()
    // The next process that asks the cache anything puts it in order first.
    const next = await startModels(place.home)
    await next.ask("GET", "/ai/models")
    await next.dispose()
    expect(fs.existsSync(held)).toBe(false)
    expect(await ask("DELETE", `/ai/models/${name}`)).toMatchObject({ status: 200 })
  })
})
