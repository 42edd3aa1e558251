/**
 * Makes CLI commands from the plugins that the owner of the home directory added. Loads them only for a command that is not one
 * of ours, and for `--help`.
 */

import path from "node:path"
import { Effect, Stream } from "effect"
import { Argument, Command } from "effect/cli"
import { PluginInvalid } from "../domain/errors/plugin.ts"
import { readConfig } from "../plugin/bunker.ts"
import type { Plugin, PluginCommand } from "../plugin/Plugin.ts"
import { PluginHost } from "../plugin/PluginHost.ts"
import { Session, withBunker } from "./context.ts"
import { print, say } from "./terminal/output.ts"

/**
 * Commands of added plugins, by the first word of the command line; `ours` are those that no plugin can take. A broken config
 * fails a command that may be a plugin's, and is a warning under the help.
 */
export const pluginCommands = Effect.fnUntraced(function* (first: string, ours: ReadonlySet<string>) {
  const helpOnly = first === "--help" || first === "-h"
  if (!helpOnly && (first.startsWith("-") || ours.has(first))) return []
  const { settings, program } = yield* Session
  const file = path.join(path.resolve(settings.home), "bunker.config.ts")
  const load = Effect.gen(function* () {
    const { plugins } = yield* readConfig(file, program)
    const found = plugins.flatMap((plugin) => plugin.commands.map((command) => ({ plugin, command })))
    const taken = found.find(({ command }) => ours.has(command.name))
    if (taken !== undefined) {
      const reason = `its command "${taken.command.name}" is one of Bunker's own; rename it`
      return yield* new PluginInvalid({ plugin: taken.plugin.name, reason })
    }
    return found.map(({ plugin, command }) => toCommand(plugin, command))
  })
  if (!helpOnly) return yield* load
  return yield* load.pipe(Effect.catch((error) => Effect.as(say(`bunker: ${error.message}`), [])))
})

const toCommand = (plugin: Plugin, command: PluginCommand) => {
  const values = command.arguments.map(({ field, summary }) =>
    Argument.String(field).pipe(Argument.withDescription(summary))
  )
  return Command.make(
    command.name,
    { values },
    Effect.fn("Cli.plugin")(function* (given) {
      const text = Object.fromEntries(command.arguments.map(({ field }, index) => [field, given.values[index]!]))
      const body = Effect.gen(function* () {
        const host = yield* PluginHost
        const reply = yield* host.send({ plugin: plugin.name, message: command.message, text })
        if (reply._tag === "Many") return yield* Stream.runForEach(reply.values, show)
        if (reply.value !== undefined) yield* show(reply.value)
      })
      return yield* withBunker(body, { plugins: "all" })
    })
  ).pipe(Command.withDescription(command.summary))
}

const show = (value: unknown) => print(typeof value === "string" ? value : JSON.stringify(value))
