/**
 * Runs the keeper process of one detached sandbox: boots (or adopts) its VM, runs its main command, serves other processes, and
 * ends when the VM has ended. Talks to nobody but through its socket and the one report line on stdout.
 */

import fs from "node:fs"
import os from "node:os"
import { Cause, Deferred, Effect, Exit, Option, Schema } from "effect"
import { hostVm, KeeperReport } from "../actors/keepers.ts"
import { keepMain } from "../actors/keepMain.ts"
import { type StartError, StartErrors } from "../domain/errors/groups.ts"
import { SandboxNotFound, SupervisorUnreachable } from "../domain/errors/vm.ts"
import { parseName } from "../domain/name.ts"
import { readSettings } from "../domain/settings.ts"
import { bunkerLayer, type Program } from "../plugin/bunker.ts"
import { Database } from "../store/Database.ts"
import { findSandbox } from "../store/sandboxes.ts"

const encodeReport = Schema.encodeSync(Schema.fromJsonString(KeeperReport))
const isStartError = Schema.is(StartErrors)

const report = (line: typeof KeeperReport.Type): void => {
  fs.writeSync(1, `${encodeReport(line)}\n`)
  fs.closeSync(1)
}

const keep = Effect.fn("Keeper.process")(function* (name: string, adopt: boolean) {
  const db = yield* Database
  const record = yield* findSandbox(db, yield* parseName(name))
  if (record === undefined) return yield* new SandboxNotFound({ name })
  const { vm, main } = yield* hostVm(record.info, { adopt, dieWithParent: false })
  // Before the report, so that whoever waits for it can attach at once.
  if (!adopt) yield* keepMain(vm, main, record.info.config)
  yield* Effect.sync(() => report({ ok: true }))
  yield* Deferred.await(vm.ended)
  // Whoever asked for the end gets the answer before the socket goes.
  yield* Effect.sleep("100 millis")
})

export const runKeeper = async (program: Program): Promise<void> => {
  const [, name = "", flag] = process.argv.slice(2)
  // Whoever started this process may close its terminal; the sandbox goes on.
  process.on("SIGHUP", () => {})
  setInterval(() => {}, 2 ** 30)
  const settings = readSettings(process.env, process.cwd(), os.homedir())
  const program_ = keep(name, flag === "--adopt").pipe(Effect.scoped, Effect.provide(bunkerLayer(settings, program)))
  const exit = await Effect.runPromiseExit(program_)
  if (Exit.isSuccess(exit)) process.exit(0)
  try {
    report({ ok: false, error: toStartError(name, exit.cause) })
  } catch {
    console.error(Cause.pretty(exit.cause))
  }
  process.exit(125)
}

const toStartError = (name: string, cause: Cause.Cause<unknown>): StartError => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  if (isStartError(error)) return error
  const reason = error instanceof Error ? error.message : Cause.pretty(cause)
  return new SupervisorUnreachable({ name, reason: reason.slice(0, 1000) })
}
