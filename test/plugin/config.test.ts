import { describe, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { Effect, Layer } from "effect"
import { type Decision, PluginHost } from "../../src/plugin/PluginHost.ts"
import { loadConfig, openAudit } from "../../src/plugin/userConfig.ts"
import greeter from "../support/greeterPlugin.ts"
import { temporaryDirectory } from "../support/home.ts"
import { it } from "../support/it.ts"

const greeterFile = path.join(import.meta.dir, "../support/greeterPlugin.ts")
/** Writes a config file that imports the greeter; every file has a name of its own, since modules are imported once. */
const configOf = (expression: string): string => {
  const file = path.join(mkdtempSync(path.join(tmpdir(), "bk-")), "bunker.config.ts")
  writeFileSync(file, `import greeter from ${JSON.stringify(greeterFile)}\nexport default ${expression}\n`)
  return file
}

describe("config file", () => {
  it.live("a plugin, a list and a config object are all taken", () =>
    Effect.gen(function* () {
      for (const expression of ["greeter", "[greeter]", "{ plugins: [greeter] }"]) {
        const config = yield* loadConfig(configOf(expression))
        expect(config.plugins.map((plugin) => plugin.name)).toEqual(["greeter"])
        expect(config.policy).toEqual({ allow: ["*"], deny: [] })
      }
      const whole = yield* loadConfig(
        configOf(`{
          plugins: [greeter],
          options: { greeter: { greeting: "moin" } },
          permissions: { deny: ["greeter:greet"] },
          auditFile: "audit.jsonl"
        }`)
      )
      expect(whole).toMatchObject({
        options: { greeter: { greeting: "moin" } },
        policy: { allow: ["*"], deny: ["greeter:greet"] },
        auditFile: "audit.jsonl"
      })
    })
  )

  it.live("a wrong one is one line that names the file and what is wrong", () =>
    Effect.gen(function* () {
      const wrong: ReadonlyArray<readonly [string, string]> = [
        ["1", "default export"],
        ["undefined", "default export"],
        ["{ plugin: [greeter] }", "plugin"],
        ["{ permissions: { allow: ['nonsense'] } }", "images:*"],
        ["[greeter, {}]", "plugin 2"],
        ["{ ...greeter, name: 'No Name' }", "No Name"],
        ["{ ...greeter, permissions: {} }", "permission for message"],
        ["{ ...greeter, routes: [{ method: 'GET', path: '/x', message: 'Nothing' }] }", "Nothing"],
        ["{ ...greeter, commands: [{ ...greeter.commands[0], name: 'B A D' }] }", "B A D"],
        ["{", "bunker.config.ts"],
        ["missing", "missing"]
      ]
      for (const [expression, words] of wrong) {
        const file = configOf(expression)
        const error = yield* Effect.flip(loadConfig(file))
        expect(error._tag).toBe("PluginInvalid")
        expect(error.message).toContain(file)
        expect(error.message).toContain(words)
        expect(error.message).not.toContain("\n")
      }
    })
  )

  it.live("writes each decision to the audit file", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryDirectory, "audit.jsonl")
      const audit = yield* openAudit(file)
      const layer = PluginHost.layer([greeter], { policy: { allow: ["greeter:greet"], deny: [] }, audit })
      yield* Effect.gen(function* () {
        const { send } = yield* PluginHost
        yield* send({ plugin: "greeter", message: "Greet", payload: { who: "Ada" } })
        yield* Effect.flip(send({ plugin: "greeter", message: "Count", payload: { to: "1" } }))
      }).pipe(Effect.provide(layer))
      const lines = readFileSync(file, "utf8").trim().split("\n")
      expect(lines.map((line) => JSON.parse(line) as Decision)).toMatchObject([
        { plugin: "greeter", message: "Greet", permission: "greeter:greet", allowed: true },
        { plugin: "greeter", message: "Count", permission: "greeter:count", allowed: false }
      ])
    })
  )

  it.live("two plugins can not have the same route or command", () =>
    Effect.gen(function* () {
      const other = { ...greeter, name: "other" }
      const error = yield* Effect.flip(Effect.scoped(Layer.build(PluginHost.layer([greeter, other]))))
      expect(error.message).toContain('taken by plugin "greeter"')
    })
  )
})

test("what plugins import is what the package exports", () => {
  const manifest = JSON.parse(readFileSync(path.join(import.meta.dir, "../../package.json"), "utf8"))
  expect(manifest.exports["./plugin"]).toBe("./src/plugin/api.ts")
})
