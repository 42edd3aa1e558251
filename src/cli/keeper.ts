/**
 * Enters the keeper process of one detached sandbox, which ends when the sandbox has ended for good (actors/keeper/process.ts). Talks to nobody but through its socket and the one report line on stdout.
 */

import fs from "node:fs"
import os from "node:os"
import { Cause, Effect, Exit, Layer, Logger, Option, Schema } from "effect"
import { type KeepFor, keepSandbox } from "../actors/keeper/process.ts"
import { KeeperReport } from "../actors/sandboxes/keeperClient.ts"
import { type StartError, StartErrors } from "../domain/errors/groups.ts"
import { SupervisorUnreachable } from "../domain/errors/vm.ts"
import { parseName } from "../domain/name.ts"
import { readSettings } from "../domain/settings.ts"
import { bunkerLayer, type Program } from "../plugin/bunker.ts"
import { endStdout } from "../store/processes/processes.ts"
import { lastWords } from "./terminal/output.ts"

const encodeReport = Schema.encodeSync(Schema.fromJsonString(KeeperReport))
const isStartError = Schema.is(StartErrors)

let reported = false
const report = (line: typeof KeeperReport.Type): void => {
  reported = true
  fs.writeSync(1, `${encodeReport(line)}\n`)
  endStdout()
}

/** Lines for the keeper's log, on stderr: stdout is the report's. */
const logging = Logger.layer([
  Logger.make(({ message, logLevel, date, cause }) => {
    const words = (Array.isArray(message) ? message : [message]).map(String)
    const causes = cause.reasons.length === 0 ? [] : [Cause.pretty(cause)]
    lastWords([date.toISOString(), logLevel.toLowerCase(), ...words, ...causes].join(" "))
  })
])

const flags: Readonly<Record<string, KeepFor>> = { "--adopt": "adopt", "--restart": "restart" }

export const runKeeper = async (program: Program): Promise<void> => {
  const [, name = "", flag] = process.argv.slice(2)
  // Whoever started this process may close its terminal; the sandbox goes on.
  process.on("SIGHUP", () => {})
  setInterval(() => {}, 2 ** 30)
  const settings = readSettings(process.env, process.cwd(), os.homedir())
  const say = (error?: StartError) =>
    Effect.sync(() => report(error === undefined ? { ok: true } : { ok: false, error }))
  const leave = Effect.sync((): never => process.exit(0))
  const what = flags[flag ?? ""] ?? "start"
  const program_ = Effect.flatMap(parseName(name), (safe) => keepSandbox(safe, what, say, leave)).pipe(
    Effect.provide(Layer.provideMerge(bunkerLayer(settings, program), logging))
  )
  const exit = await Effect.runPromiseExit(program_)
  if (Exit.isSuccess(exit)) process.exit(0)
  if (reported) lastWords(Cause.pretty(exit.cause))
  else report({ ok: false, error: toStartError(name, exit.cause) })
  process.exit(125)
}

const toStartError = (name: string, cause: Cause.Cause<unknown>): StartError => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  if (isStartError(error)) return error
  const reason = error instanceof Error ? error.message : Cause.pretty(cause)
  return new SupervisorUnreachable({ sandbox: name, reason: reason.slice(0, 1000) })
}
