/** Logins are checked before they are kept, and kept where Docker and others find them. */
import { describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect, Redacted } from "effect"
import { readSettings } from "../../../src/domain/settings.ts"
import { anonymous, basicCredential, dockerCredentials } from "../../../src/oci/registry/credentials.ts"
import { type Keyring, osKeyring } from "../../../src/oci/registry/keyring.ts"
import { checkLogin, forgetLogin, storeLogin } from "../../../src/oci/registry/login.ts"
import { imageSources } from "../../../src/plugin/imageSources.ts"
import { startFaultProxy } from "../../support/faultProxy.ts"
import { it } from "../../support/it.ts"
import { hasRegistryTools, startRegistry, temporaryDirectory } from "../../support/registry.ts"
import { startTokenServer } from "../../support/tokenServer.ts"

const me = basicCredential("me", "s3cret:ü")
const noKeyring: Keyring = { ...anonymous, set: () => Effect.succeed(false), remove: () => Effect.succeed(false) }

/** A keyring in memory. */
const makeKeyring = () => {
  const kept = new Map<string, ReturnType<typeof basicCredential>>()
  const keyring: Keyring = {
    get: (domain) => Effect.succeed(kept.get(domain)),
    set: (domain, credential) => Effect.sync(() => kept.set(domain, credential).size > 0),
    remove: (domain) => Effect.sync(() => kept.delete(domain))
  }
  return { kept, keyring }
}

const docker = Effect.fnUntraced(function* (config?: unknown, helpers: Readonly<Record<string, string>> = {}) {
  const directory = path.join(yield* temporaryDirectory("docker"), "inner")
  const file = path.join(directory, "config.json")
  fs.mkdirSync(directory)
  if (config !== undefined) fs.writeFileSync(file, typeof config === "string" ? config : JSON.stringify(config))
  for (const [name, script] of Object.entries(helpers)) {
    fs.writeFileSync(path.join(directory, `docker-credential-${name}`), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  }
  // Helpers are scripts, which need cat and sleep.
  return { file, directory, searchPath: `${directory}:/usr/bin:/bin` }
})
const read = (file: string) => JSON.parse(fs.readFileSync(file, "utf8"))
const passwordOf = (credential: unknown) => {
  const { kind, password, username } = credential as ReturnType<typeof basicCredential>
  return [kind, username, Redacted.value(password)]
}

describe("a login", () => {
  it.live("goes into config.json where nothing better is there: others' entries and unknown keys stay, mode 0600", () =>
    Effect.gen(function* () {
      const other = { auth: Buffer.from("you:other").toString("base64") }
      const options = yield* docker({
        auths: { "ghcr.io": other, "https://ghcr.io/v1/": other, "x.io": other },
        psFormat: "x"
      })
      const stored = yield* storeLogin("ghcr.io", me, { ...options, keyring: noKeyring })
      expect(stored).toEqual({ place: options.file, plain: true })
      const auth = Buffer.from("me:s3cret:ü").toString("base64")
      expect(read(options.file)).toEqual({ auths: { "x.io": other, "ghcr.io": { auth } }, psFormat: "x" })
      expect(fs.statSync(options.file).mode & 0o777).toBe(0o600)
      expect(passwordOf(yield* dockerCredentials(options).get("ghcr.io"))).toEqual(["basic", "me", "s3cret:ü"])
      expect(yield* forgetLogin("ghcr.io", { ...options, keyring: noKeyring })).toBe(true)
      expect(read(options.file)).toEqual({ auths: { "x.io": other }, psFormat: "x" })
      expect(yield* forgetLogin("ghcr.io", { ...options, keyring: noKeyring })).toBe(false)
      expect(fs.readdirSync(options.directory)).toEqual(["config.json"])
    })
  )

  it.live("makes the file and its directory, uses Docker Hub's own key, and follows a link to the file", () =>
    Effect.gen(function* () {
      const options = yield* docker()
      fs.rmdirSync(options.directory)
      yield* storeLogin("docker.io", me, { ...options, keyring: noKeyring })
      expect(Object.keys(read(options.file).auths)).toEqual(["https://index.docker.io/v1/"])
      const real = path.join(options.directory, "real.json")
      fs.renameSync(options.file, real)
      fs.symlinkSync("real.json", options.file)
      yield* storeLogin("x.io", me, { ...options, keyring: noKeyring })
      expect(fs.lstatSync(options.file).isSymbolicLink()).toBe(true)
      expect(Object.keys(read(real).auths)).toHaveLength(2)
    })
  )

  it.live("goes into the keyring where there is one; the file only says that there is one", () =>
    Effect.gen(function* () {
      const options = yield* docker()
      const { kept, keyring } = makeKeyring()
      expect(yield* storeLogin("ghcr.io", me, { ...options, keyring })).toEqual({ place: "the keyring", plain: false })
      expect(read(options.file)).toEqual({ auths: { "ghcr.io": {} } })
      expect(passwordOf(kept.get("ghcr.io"))).toEqual(["basic", "me", "s3cret:ü"])
      const asked: Array<string> = []
      const watched = {
        get: (domain: string) =>
          Effect.andThen(
            Effect.sync(() => asked.push(domain)),
            keyring.get(domain)
          )
      }
      const source = dockerCredentials({ ...options, keyring: watched })
      expect(passwordOf(yield* source.get("ghcr.io"))).toEqual(["basic", "me", "s3cret:ü"])
      expect(yield* source.get("docker.io")).toBeUndefined()
      expect(asked).toEqual(["ghcr.io"])
      expect(yield* forgetLogin("ghcr.io", { ...options, keyring })).toBe(true)
      expect(kept.size).toBe(0)
      expect(read(options.file)).toEqual({ auths: {} })
    })
  )

  it.live("goes to the credential helper that Docker's configuration names, by its protocol", () =>
    Effect.gen(function* () {
      const script = 'd=$(dirname "$0"); echo "$1" >>$d/calls; cat >>$d/calls; echo >>$d/calls'
      const config = { credHelpers: { "ghcr.io": "one" }, credsStore: "all" }
      const options = { ...(yield* docker(config, { one: script, all: script })), keyring: makeKeyring().keyring }
      const stored = yield* storeLogin("ghcr.io", me, options)
      expect(stored).toEqual({ place: "the credential helper docker-credential-one", plain: false })
      yield* storeLogin("docker.io", me, options)
      expect(yield* forgetLogin("ghcr.io", options)).toBe(true)
      const calls = fs.readFileSync(path.join(options.directory, "calls"), "utf8").trim().split("\n")
      expect(calls).toEqual([
        "store",
        '{"ServerURL":"ghcr.io","Username":"me","Secret":"s3cret:ü"}',
        "store",
        '{"ServerURL":"https://index.docker.io/v1/","Username":"me","Secret":"s3cret:ü"}',
        "erase",
        "ghcr.io"
      ])
      expect(read(options.file)).toEqual(config)
    })
  )

  it.live("is not stored, and says why, when helper or file will not have it", () =>
    Effect.gen(function* () {
      const failing = yield* docker({ credsStore: "bad" }, { bad: "cat >/dev/null; exit 3" })
      const missing = yield* docker({ credsStore: "none" })
      const broken = yield* docker("{ not json")
      for (const [options, reason] of [
        [failing, "it ended with 3"],
        [missing, "not installed"],
        [broken, "not a JSON object"]
      ] as const) {
        const before = fs.readFileSync(options.file, "utf8")
        const error = yield* Effect.flip(storeLogin("x.io", me, { ...options, keyring: noKeyring }))
        expect(error).toMatchObject({ _tag: "LoginNotStored", reason: expect.stringContaining(reason) })
        expect(`${JSON.stringify(error)}${error.message}`).not.toContain("s3cret")
        expect(fs.readFileSync(options.file, "utf8")).toBe(before)
      }
    })
  )

  it.live("without a keyring of the system knows nothing and stores nothing", () =>
    Effect.gen(function* () {
      // Whether there is one depends on the machine; asking for what nobody stored must work on any.
      expect(yield* osKeyring.get("bunker.invalid")).toBeUndefined()
    })
  )
})

describe("credentials of the environment", () => {
  it.live("come after those of the request and before keyring and file, each for its own registry", () =>
    Effect.gen(function* () {
      const options = yield* docker({ auths: { "127.0.0.1:1": { auth: Buffer.from("file:1").toString("base64") } } })
      const seen: Array<string> = []
      const proxy = yield* startFaultProxy(undefined, (request) => {
        const given = request.headers["authorization"]
        if (given !== undefined) seen.push(Buffer.from(given.slice(6), "base64").toString())
        return { status: 401, headers: { "www-authenticate": "Basic realm=x" } }
      })
      const auth = (text: string) =>
        JSON.stringify({ auths: { [proxy.host]: { auth: Buffer.from(text).toString("base64") } } })
      fs.writeFileSync(options.file, auth("file:1"))
      const { keyring } = makeKeyring()
      const names = { BUNKER_REGISTRY: proxy.host, BUNKER_REGISTRY_USERNAME: "env", BUNKER_REGISTRY_PASSWORD: "2" }
      const docked = { DOCKER_AUTH_CONFIG: auth("text:3") }
      const pull = (
        env: Record<string, string>,
        login?: { readonly username: string; readonly password: Redacted.Redacted<string> }
      ) => {
        const settings = readSettings({ ...env, DOCKER_CONFIG: options.directory }, "/", "/")
        const request = { insecure: false, insecureHosts: [], mirrors: [], ...(login === undefined ? {} : { login }) }
        const reference = { domain: proxy.host, path: "a/b", tag: "1", digest: undefined }
        const source = imageSources(settings, keyring).registry(reference, request)
        return Effect.flip(source.resolve({ os: "linux", architecture: "amd64" }))
      }
      yield* pull({ ...names, ...docked }, { username: "own", password: Redacted.make("0") })
      yield* pull({ ...names, ...docked })
      yield* pull(docked)
      yield* keyring.set(proxy.host, basicCredential("ring", "4"))
      fs.writeFileSync(options.file, JSON.stringify({ auths: { [proxy.host]: {} } }))
      yield* pull({ ...names, BUNKER_REGISTRY: "elsewhere:1" })
      fs.writeFileSync(options.file, auth("file:1"))
      const error = yield* pull({ DOCKER_AUTH_CONFIG: "{ broken" })
      expect(seen).toEqual(["own:0", "env:2", "text:3", "ring:4", "file:1"])
      expect(error.message).toContain(`bunker login ${proxy.host}`)
    })
  )
})

describe.skipIf(!hasRegistryTools)("a login at a real registry", () => {
  it.live("is right or wrong by password, by token server, and at no registry at all", () =>
    Effect.gen(function* () {
      const basic = yield* startRegistry({ kind: "basic", username: "me", password: "s3cret" })
      const tokens = yield* startTokenServer({ username: "me", password: "s3cret" })
      const bearer = yield* startRegistry(tokens.registry)
      for (const { host } of [basic, bearer]) {
        yield* checkLogin(host, basicCredential("me", "s3cret"), false)
        const wrong = yield* Effect.flip(checkLogin(host, basicCredential("me", "wr0ng"), false))
        expect(wrong).toMatchObject({ _tag: "RegistryAuth", status: 401, repository: "" })
        expect(wrong.message).toContain("does not accept this user name and password")
        expect(`${JSON.stringify(wrong)}${wrong.message}`).not.toContain("wr0ng")
      }
      const page = yield* startFaultProxy(undefined, () => undefined)
      expect(yield* Effect.flip(checkLogin(page.host, me, false))).toMatchObject({
        _tag: "RegistryUnavailable",
        reason: expect.stringContaining("it is no registry")
      })
    })
  )
})
