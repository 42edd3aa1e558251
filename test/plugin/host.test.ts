import { describe, expect, test } from "bun:test"
import path from "node:path"
import { Effect, Layer, Result, Stream } from "effect"
import { closure, permits, sortByDeps } from "../../src/domain/plugins.ts"
import { type Decision, PluginHost } from "../../src/plugin/PluginHost.ts"
import { loadConfig } from "../../src/plugin/userConfig.ts"
import { it } from "../support/it.ts"

const node = (name: string, ...deps: ReadonlyArray<string>) => ({ name, deps })
const names = (sorted: ReadonlyArray<{ readonly name: string }>) => sorted.map((each) => each.name)

describe("plugin order", () => {
  test("puts each plugin after what it needs", () => {
    const sorted = Result.getOrThrow(sortByDeps([node("c", "b"), node("a"), node("b", "a"), node("d")]))
    expect(names(sorted)).toEqual(["a", "b", "c", "d"])
    expect(names(closure(sorted, ["b"]))).toEqual(["a", "b"])
  })

  test("refuses missing, duplicate and cyclic plugins by name", () => {
    const failure = (...plugins: Parameters<typeof sortByDeps>[0]) =>
      Result.getOrThrow(Result.flip(sortByDeps(plugins)))
    expect(failure(node("a", "ghost"))).toMatchObject({ _tag: "PluginMissing", plugin: "ghost", neededBy: "a" })
    expect(failure(node("a"), node("a"))).toMatchObject({ _tag: "PluginDuplicate", plugin: "a" })
    expect(failure(node("z"), node("a", "b"), node("b", "c"), node("c", "a"))).toMatchObject({
      _tag: "PluginCycle",
      names: ["a", "b", "c", "a"]
    })
    expect(failure(node("self", "self"))).toMatchObject({ _tag: "PluginCycle", names: ["self", "self"] })
  })

  test("deny wins, and what nothing allows is denied", () => {
    expect(permits({ allow: ["*"], deny: [] }, "images:pull")).toBe(true)
    expect(permits({ allow: ["images:*"], deny: [] }, "images:pull")).toBe(true)
    expect(permits({ allow: ["images:*"], deny: [] }, "sandboxes:run")).toBe(false)
    expect(permits({ allow: ["images:*"], deny: ["images:pull"] }, "images:pull")).toBe(false)
    expect(permits({ allow: [], deny: [] }, "images:pull")).toBe(false)
  })
})

describe("PluginHost", () => {
  const file = path.join(import.meta.dir, "../support/greeterPlugin.ts")
  const host = (options: Parameters<typeof PluginHost.layer>[1]) =>
    Layer.unwrap(Effect.map(loadConfig(file), ({ plugins }) => PluginHost.layer(plugins, options)))

  it.live("reaches a plugin from a file by message", () =>
    Effect.gen(function* () {
      const { send } = yield* PluginHost
      expect(yield* send({ plugin: "greeter", message: "Greet", payload: { who: "Ada" } })).toEqual({
        _tag: "One",
        value: { text: "hello, Ada" }
      })
      const many = yield* send({ plugin: "greeter", message: "Count", text: { to: "3" } })
      expect(many._tag === "Many" ? yield* Stream.runCollect(many.values) : []).toEqual([1, 2, 3])
      expect(
        yield* Effect.flip(send({ plugin: "greeter", message: "Greet", payload: { who: "nobody" } }))
      ).toMatchObject({ _tag: "NobodyThere" })
      expect(
        yield* Effect.flip(send({ plugin: "greeter", message: "Greet", payload: { who: "a", extra: 1 } }))
      ).toMatchObject({
        _tag: "InvalidInput",
        issues: [{ path: "extra", message: "there is no such field" }]
      })
      expect(yield* Effect.flip(send({ plugin: "greeter", message: "Shout", payload: {} }))).toMatchObject({
        _tag: "UnknownMessage"
      })
    }).pipe(Effect.provide(host({})))
  )

  it.live("gives options, refuses unknown ones", () =>
    Effect.gen(function* () {
      const { send } = yield* PluginHost
      expect(yield* send({ plugin: "greeter", message: "Greet", payload: { who: "Ada" } })).toEqual({
        _tag: "One",
        value: { text: "moin, Ada" }
      })
      const error = yield* Effect.flip(Effect.scoped(Layer.build(host({ options: { greeter: { shout: true } } }))))
      expect(error).toMatchObject({ _tag: "PluginInvalid", plugin: "greeter" })
    }).pipe(Effect.provide(host({ options: { greeter: { greeting: "moin" } } })))
  )

  it.live("asks the policy and reports each decision", () =>
    Effect.gen(function* () {
      const audit: Array<Decision> = []
      const layer = host({
        policy: { allow: ["*"], deny: ["greeter:greet"] },
        audit: (decision) => void audit.push(decision)
      })
      yield* Effect.gen(function* () {
        const { send } = yield* PluginHost
        const error = yield* Effect.flip(send({ plugin: "greeter", message: "Greet", payload: { who: "Ada" } }))
        expect(error).toMatchObject({ _tag: "PermissionDenied", permission: "greeter:greet" })
        yield* send({ plugin: "greeter", message: "Count", text: { to: "1" } })
      }).pipe(Effect.provide(layer))
      expect(audit.map((each) => [each.permission, each.allowed])).toEqual([
        ["greeter:greet", false],
        ["greeter:count", true]
      ])
    })
  )

  it.live("names a file that is no plugin", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(loadConfig(path.join(import.meta.dir, "../support/it.ts")))
      expect(error).toMatchObject({ _tag: "PluginInvalid" })
      const missing = yield* Effect.flip(loadConfig("/nonexistent/plugin.ts"))
      expect(missing.message).toContain("/nonexistent/plugin.ts")
    })
  )
})
