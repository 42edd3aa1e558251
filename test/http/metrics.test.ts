/** What a scrape shows; the actors are played by the test. */
import { expect } from "bun:test"
import { Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import { RequestCounter, renderMetrics } from "../../src/http/metrics.ts"
import type { PluginHost } from "../../src/plugin/PluginHost.ts"
import { it } from "../support/it.ts"

it.effect("a hundred sandboxes that do not answer hide none that does, and cost a scrape two seconds together", () =>
  Effect.gen(function* () {
    const names = Array.from({ length: 110 }, (_, index) => `box${String(index).padStart(3, "0")}`)
    const answers = (name: string) => Number(name.slice(3)) % 11 === 10
    const send = ({ plugin, message, payload }: { plugin: string; message: string; payload?: { name: string } }) => {
      if (message === "List") {
        const value = plugin === "sandboxes" ? names.map((name) => ({ name, status: "running" })) : []
        return Effect.succeed({ _tag: "One", value })
      }
      const { name } = payload!
      if (!answers(name)) return Effect.never
      return Effect.succeed({ _tag: "Many", values: Stream.succeed({ name, commands: 3 }) })
    }
    const host = { send } as unknown as PluginHost["Service"]
    const scrape = yield* Effect.forkChild(renderMetrics(host, new RequestCounter()), { startImmediately: true })
    yield* TestClock.adjust(1999)
    expect(scrape.pollUnsafe()).toBeUndefined()
    yield* TestClock.adjust(1)
    const text = yield* Fiber.join(scrape)
    expect(text).toContain('bunker_sandboxes{status="running"} 110')
    const shown: ReadonlyArray<string> = text.match(/^bunker_sandbox_commands\{.*/gm) ?? []
    expect(shown).toEqual(names.filter(answers).map((name) => `bunker_sandbox_commands{name="${name}"} 3`))
  })
)
