import { expect, test } from "bun:test"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { Effect, Redacted } from "effect"
import { listSecrets, readSecrets, removeSecret, setSecrets } from "../../../src/store/secrets/secretFile.ts"
import { SecretKeyring } from "../../../src/store/secrets/secretKey.ts"

const noKeyring = {
  get: () => Promise.reject(new Error("no keyring")),
  set: () => Promise.reject(new Error("no keyring"))
}

const keyringOf = (kept: Map<string, string>) => ({
  get: async (name: string) => kept.get(name) ?? null,
  set: async (name: string, value: string) => void kept.set(name, value)
})

const placeIn = (directory: string) => ({
  file: path.join(directory, "secrets.json"),
  lock: path.join(directory, "secrets.lock"),
  key: { file: path.join(directory, "key"), lock: path.join(directory, "key.lock") }
})

const inDirectory = async (keyring: SecretKeyring, body: (directory: string) => Effect.Effect<void, unknown>) => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "bunker-secrets-"))
  try {
    await Effect.runPromise(Effect.provideService(body(directory), SecretKeyring, keyring))
  } finally {
    fs.rmSync(directory, { recursive: true, force: true })
  }
}

const values = (entries: Record<string, string>) =>
  new Map(Object.entries(entries).map(([name, value]) => [name, Redacted.make(value)] as const))

const plain = (found: ReadonlyMap<string, Redacted.Redacted<string>>) =>
  Object.fromEntries([...found].map(([name, value]) => [name, Redacted.value(value)]))

test("a value comes back, and is in no file in plain text or base64", () =>
  inDirectory(noKeyring, (directory) =>
    Effect.gen(function* () {
      const place = placeIn(directory)
      const value = "sk-the-value-ü-4711"
      yield* setSecrets(place, values({ KEY: value, OTHER: "x" }))
      expect(plain(yield* readSecrets(place, ["KEY", "NONE"]))).toEqual({ KEY: value })
      expect((yield* listSecrets(place)).map(({ name }) => name)).toEqual(["KEY", "OTHER"])
      for (const file of fs.readdirSync(directory)) {
        const text = fs.readFileSync(path.join(directory, file), "latin1")
        expect(text).not.toContain("sk-the-value")
        expect(text).not.toContain(Buffer.from(value).toString("base64").slice(0, 12))
        if (!file.endsWith(".lock")) expect(fs.statSync(path.join(directory, file)).mode & 0o777).toBe(0o600)
      }
    })
  ))

test("without a keyring the key is in a file; with one it is in none", async () => {
  await inDirectory(noKeyring, (directory) =>
    Effect.gen(function* () {
      yield* setSecrets(placeIn(directory), values({ KEY: "v" }))
      expect(fs.readFileSync(path.join(directory, "key"), "utf8")).toMatch(/^[A-Za-z0-9_-]{43}\n$/)
    })
  )
  const kept = new Map<string, string>()
  await inDirectory(keyringOf(kept), (directory) =>
    Effect.gen(function* () {
      yield* setSecrets(placeIn(directory), values({ KEY: "v" }))
      expect(fs.readFileSync(path.join(directory, "key"), "utf8")).toBe("keyring\n")
      expect(kept.size).toBe(1)
      expect(plain(yield* readSecrets(placeIn(directory), ["KEY"]))).toEqual({ KEY: "v" })
      kept.clear()
      const error = yield* Effect.flip(readSecrets(placeIn(directory), ["KEY"]))
      expect(error).toMatchObject({ _tag: "SecretsUnreadable", reason: expect.stringContaining("keyring") })
    })
  )
})

test("a sealed value is of its name alone, and of its key", () =>
  inDirectory(noKeyring, (directory) =>
    Effect.gen(function* () {
      const place = placeIn(directory)
      yield* setSecrets(place, values({ A: "first", B: "second" }))
      const stored = JSON.parse(fs.readFileSync(place.file, "utf8"))
      const swapped = { ...stored, secrets: { A: stored.secrets.B, B: stored.secrets.A } }
      fs.writeFileSync(place.file, JSON.stringify(swapped))
      expect(yield* Effect.flip(readSecrets(place, ["A"]))).toMatchObject({ _tag: "SecretsUnreadable" })
      fs.writeFileSync(place.file, JSON.stringify(stored))
      fs.writeFileSync(place.key.file, Buffer.alloc(32).toString("base64url"))
      expect(yield* Effect.flip(readSecrets(place, ["A"]))).toMatchObject({ _tag: "SecretsUnreadable" })
    })
  ))

test("a secret that is removed is gone; one that is not there is said so", () =>
  inDirectory(noKeyring, (directory) =>
    Effect.gen(function* () {
      const place = placeIn(directory)
      yield* setSecrets(place, values({ A: "first", B: "second" }))
      yield* removeSecret(place, "A")
      expect(plain(yield* readSecrets(place, ["A", "B"]))).toEqual({ B: "second" })
      expect(yield* Effect.flip(removeSecret(place, "A"))).toMatchObject({ _tag: "SecretNotFound", secret: "A" })
    })
  ))

test("many that are set at once are all there", () =>
  inDirectory(noKeyring, (directory) =>
    Effect.gen(function* () {
      const names = Array.from({ length: 12 }, (_, index) => `KEY_${index}`)
      yield* Effect.forEach(names, (name) => setSecrets(placeIn(directory), values({ [name]: name })), {
        concurrency: "unbounded"
      })
      expect(Object.keys(plain(yield* readSecrets(placeIn(directory), names))).length).toBe(12)
    })
  ))

test("a file that is no file of secrets is named, and not replaced", () =>
  inDirectory(noKeyring, (directory) =>
    Effect.gen(function* () {
      const place = placeIn(directory)
      fs.writeFileSync(place.file, "{")
      expect(yield* Effect.flip(setSecrets(place, values({ A: "x" })))).toMatchObject({
        _tag: "SecretsUnreadable",
        path: place.file
      })
      expect(fs.readFileSync(place.file, "utf8")).toBe("{")
    })
  ))
