import { describe, expect, test } from "bun:test"
import fs from "node:fs/promises"
import path from "node:path"
import { Effect, Redacted } from "effect"
import {
  basicCredential,
  type Credential,
  dockerCredentials,
  explicitCredential,
  firstCredential
} from "../../../src/oci/registry/credentials.ts"
import { parseChallenges } from "../../../src/oci/registry/token.ts"
import { it } from "../../support/it.ts"
import { temporaryDirectory } from "../../support/registry.ts"

const shown = (credential: Credential | undefined): unknown => {
  if (credential === undefined) return undefined
  return credential.kind === "basic"
    ? [credential.username, Redacted.value(credential.password)]
    : [credential.kind, Redacted.value(credential.token)]
}

const base64 = (text: string) => Buffer.from(text).toString("base64")

/** Asks a Docker configuration of this content; helpers are scripts by name. */
const asked = (domain: string, config: unknown, helpers: Readonly<Record<string, string>> = {}) =>
  Effect.gen(function* () {
    const directory = yield* temporaryDirectory("docker")
    yield* Effect.promise(async () => {
      if (config !== undefined)
        await fs.writeFile(
          path.join(directory, "config.json"),
          typeof config === "string" ? config : JSON.stringify(config)
        )
      for (const [name, script] of Object.entries(helpers)) {
        await fs.writeFile(path.join(directory, `docker-credential-${name}`), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
      }
    })
    return shown(yield* dockerCredentials({ directory, searchPath: directory }).get(domain))
  })

describe("Docker's config.json", () => {
  const auths = {
    "https://index.docker.io/v1/": { auth: base64("hub:p:w") },
    "ghcr.io": { auth: base64("gh:token") },
    "https://reg.example:5000/v2/": { username: "u", password: "p" },
    "id.example": { auth: base64("x:y"), identitytoken: "refresh" },
    "ready.example": { registrytoken: "ready" },
    "empty.example": {},
    "odd.example": { auth: base64("no-colon") }
  }
  const table: ReadonlyArray<readonly [domain: string, credential: unknown]> = [
    ["docker.io", ["hub", "p:w"]],
    ["ghcr.io", ["gh", "token"]],
    ["GHCR.io", ["gh", "token"]],
    ["reg.example:5000", ["u", "p"]],
    ["reg.example", undefined],
    ["id.example", ["identity", "refresh"]],
    ["ready.example", ["bearer", "ready"]],
    ["empty.example", undefined],
    ["odd.example", undefined],
    ["nobody.example", undefined]
  ]
  for (const [domain, credential] of table) {
    it.live(`is asked for ${domain}`, () =>
      Effect.map(asked(domain, { auths }), (found) => expect(found).toEqual(credential))
    )
  }
  it.live("that is missing, broken or of another shape knows nothing and stops nothing", () =>
    Effect.gen(function* () {
      for (const config of [undefined, "", "{", "[]", '{"auths":3}', `{"x":"${"y".repeat(2_000_000)}"}`]) {
        expect(yield* asked("ghcr.io", config)).toBeUndefined()
      }
    })
  )
})

describe("a credential helper", () => {
  const answers = `read url; printf '{"ServerURL":"%s","Username":"%s","Secret":"s"}' "$url" "$url"`
  it.live("is asked through its protocol: for one registry, or for all", () =>
    Effect.gen(function* () {
      const config = { credHelpers: { "ghcr.io": "one" }, credsStore: "all" }
      const helpers = { one: `printf '{"Username":"one","Secret":"1"}'`, all: answers }
      expect(yield* asked("ghcr.io", config, helpers)).toEqual(["one", "1"])
      expect(yield* asked("quay.io", config, helpers)).toEqual(["quay.io", "s"])
      expect(yield* asked("docker.io", config, helpers)).toEqual(["https://index.docker.io/v1/", "s"])
    })
  )
  it.live("may hold an identity token", () =>
    Effect.gen(function* () {
      const found = yield* asked("a.io", { credsStore: "x" }, { x: `printf '{"Username":"<token>","Secret":"r"}'` })
      expect(found).toEqual(["identity", "r"])
    })
  )
  it.live("that knows nothing, fails, floods, lies or is missing leaves the file's own entry", () =>
    Effect.gen(function* () {
      const config = { credsStore: "x", auths: { "a.io": { auth: base64("u:p") } } }
      for (const script of [
        "echo 'credentials not found in native keychain'; exit 1",
        "exit 3",
        "yes",
        "echo nonsense",
        "kill -9 $$"
      ]) {
        expect(yield* asked("a.io", config, { x: script })).toEqual(["u", "p"])
      }
      expect(yield* asked("a.io", config)).toEqual(["u", "p"])
      for (const credsStore of ["../../bin/sh", "a b", "-x", "x\u0000y"]) {
        expect(yield* asked("a.io", { ...config, credsStore })).toEqual(["u", "p"])
      }
    })
  )
})

describe("credentials", () => {
  it.live("given explicitly win, and serve their own registry only", () =>
    Effect.gen(function* () {
      const source = firstCredential([
        explicitCredential("docker.io", basicCredential("explicit", "1")),
        { get: () => Effect.succeed(basicCredential("other", "2")) }
      ])
      expect(shown(yield* source.get("docker.io"))).toEqual(["explicit", "1"])
      expect(shown(yield* source.get("ghcr.io"))).toEqual(["other", "2"])
    })
  )
  test("do not show their secret when printed", () => {
    const credential = basicCredential("me", "s3cret")
    expect(
      `${JSON.stringify(credential)} ${Bun.inspect(credential)} ${String(Object.values(credential))}`
    ).not.toContain("s3cret")
  })
})

describe("a WWW-Authenticate header", () => {
  const cases: ReadonlyArray<readonly [header: string, challenges: unknown]> = [
    [
      'Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"',
      [["bearer", { realm: "https://a/t", service: "s", scope: "repository:a/b:pull,push" }]]
    ],
    ["Basic realm=x", [["basic", { realm: "x" }]]],
    ["Basic", [["basic", {}]]],
    [
      'Negotiate, Basic realm="a, b", Bearer realm = "q\\"q" , service=z',
      [
        ["negotiate", {}],
        ["basic", { realm: "a, b" }],
        ["bearer", { realm: 'q"q', service: "z" }]
      ]
    ],
    ["", []],
    [",,,", []],
    ['realm="orphan"', []],
    ['Bearer realm="unclosed', [["bearer", {}]]],
    ["bearer __proto__=x", [["bearer", { ["__proto__"]: "x" }]]]
  ]
  for (const [header, expected] of cases) {
    test(`${header || "(empty)"} is understood`, () => {
      const found = parseChallenges(header).map(({ scheme, parameters }) => [scheme, Object.entries(parameters)])
      expect(found).toEqual(
        (expected as Array<[string, object]>).map(([scheme, parameters]) => [scheme, Object.entries(parameters)])
      )
    })
  }
  test("of any length is read in linear time", () => {
    const start = performance.now()
    for (const header of [
      'Bearer a="'.repeat(50_000),
      "a ".repeat(50_000),
      `Bearer x="${"\\".repeat(100_000)}`,
      " ".repeat(100_000)
    ])
      parseChallenges(header)
    expect(performance.now() - start).toBeLessThan(200)
  })
})
