/** Makes CLI commands from the plugins that the owner of the home directory added. Loads them only when the command is not one of ours. */

import fs from "node:fs"
import { Effect, Stream } from "effect"
import { Argument, Command } from "effect/cli"
import type { Plugin, PluginCommand } from "../plugin/Plugin.ts"
import { loadPlugins, PluginHost } from "../plugin/PluginHost.ts"
import { print } from "./output.ts"
import { Session, withBunker } from "./session.ts"

const ours = new Set(
  "run create start exec stop kill rm ps inspect logs wait pull load images image df doctor serve sweep --version --completions".split(
    " "
  )
)

/** Commands of added plugins; none when the command line names one of ours, so that those start fast. */
export const pluginCommands = Effect.fnUntraced(function* (argv: ReadonlyArray<string>) {
  const { settings } = yield* Session
  const config = `${settings.home}/bunker.config.ts`
  if (ours.has(argv[0] ?? "") || !fs.existsSync(config)) return []
  const plugins = yield* loadPlugins(config)
  return plugins.flatMap((plugin) => plugin.commands.map((command) => toCommand(plugin, command)))
})

const toCommand = (plugin: Plugin, command: PluginCommand) =>
  Command.make(
    command.name,
    {
      values: Argument.String("value").pipe(
        Argument.withDescription(command.arguments.map((each) => each.summary).join(", ")),
        Argument.between(command.arguments.length, command.arguments.length)
      )
    },
    Effect.fn("Cli.plugin")(function* ({ values }) {
      const payload = Object.fromEntries(command.arguments.map((each, index) => [each.field, values[index]]))
      const body = Effect.gen(function* () {
        const reply = yield* PluginHost.use((host) => host.send(plugin.name, command.message, payload))
        if (reply._tag === "Many") return yield* Stream.runForEach(reply.values, show)
        if (reply.value !== undefined) yield* show(reply.value)
      })
      return yield* withBunker(body)
    })
  ).pipe(Command.withDescription(command.summary))

const show = (value: unknown) => print(typeof value === "string" ? value : JSON.stringify(value))
