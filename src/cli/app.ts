/**
 * Puts the commands together, runs the one that was asked for, and ends the process with the right exit code: the guest's own,
 * 125 for a failure of ours, 126 and 127 where the guest could not start the command.
 */

import os from "node:os"
import { Cause, Effect, Exit, FileSystem, Layer, Logger, Option, Path, References, Stdio, Terminal } from "effect"
import { CliConfig, type CliError, CliOutput, Command, Completions, GlobalFlag } from "effect/cli"
import { ChildProcessSpawner } from "effect/process"
import { version } from "../../package.json"
import { ExecFailed } from "../domain/errors/vm.ts"
import { readSettings } from "../domain/settings.ts"
import { harmless } from "../domain/terminalText.ts"
import type { Program } from "../plugin/bunker.ts"
import { isShell, separateGuestCommand, separateShortValues } from "./arguments.ts"
import { create } from "./commands/sandboxes/create.ts"
import { exec } from "./commands/sandboxes/exec.ts"
import { run } from "./commands/sandboxes/run.ts"
import { execValuedFlags } from "./commands/sandboxes/runCommon.ts"
import { start } from "./commands/sandboxes/start.ts"
import { valuedFlags } from "./commands/sandboxFlags.ts"
import { withValues } from "./completion/values.ts"
import { Session } from "./context.ts"
import { adviceFor, inOurWords, similarFlags } from "./habits.ts"
import { asksForHelp, obstructed, spelledOut, unknownWords } from "./help.ts"
import { pluginCommands } from "./pluginCommands.ts"
import { interruptAtSignals } from "./terminal/endingSignals.ts"
import { ExitWith, explain, lastWords, outputFailure, print, say } from "./terminal/output.ts"

/** What boots sandboxes or runs something in one: time counts most there, so nothing else is loaded with it. */
const booting = [run, create, start, exec] as const

/** The commands among which `name` is: as few as can be loaded. */
const commandsFor = async (name: string) => {
  if (booting.some((command) => command.name === name)) return booting
  const { running } = await import("./commands/running.ts")
  if (running.some((command) => command.name === name)) return [...booting, ...running] as const
  return [...booting, ...running, ...(await import("./commands/seldom.ts")).seldom] as const
}

/** Words of a command line after the command's name, by the commands whose rest belongs to the guest. */
const guestCommands: Readonly<Record<string, ReadonlySet<string>>> = {
  run: valuedFlags,
  create: valuedFlags,
  exec: execValuedFlags
}

/** Short flags with a value, of the others. */
const shortValued: Readonly<Record<string, ReadonlySet<string>>> = {
  stop: new Set(["-t"]),
  restart: new Set(["-t"]),
  kill: new Set(["-s"]),
  ps: new Set(["-f"])
}
const none: ReadonlySet<string> = new Set()

interface Prepared {
  readonly argv: ReadonlyArray<string>
  readonly debug: boolean
}

/** Takes `--debug` out of our part of the command line, and separates the guest's part from it. */
const prepareArguments = (typed: ReadonlyArray<string>): Prepared => {
  const given = inOurWords(typed)
  const [first, ...rest] = given
  if (first === "--debug") return { ...prepareArguments(rest), debug: true }
  if (first === undefined) return { argv: ["--help"], debug: false }
  if (first === "help") return { argv: [...rest, "--help"], debug: false }
  if (first === "completion" && isShell(rest[0]) && rest.length === 1) {
    return { argv: ["--completions", rest[0]!], debug: false }
  }
  const valued = guestCommands[first]
  const short = separateShortValues(rest, valued ?? shortValued[first] ?? none)
  const argv = spelledOut([first, ...(valued === undefined ? short : separateGuestCommand(short, valued))])
  const end = argv.includes("--") ? argv.indexOf("--") : argv.length
  const at = argv.indexOf("--debug")
  return at < 0 || at > end ? { argv, debug: false } : { argv: argv.toSpliced(at, 1), debug: true }
}

/** What effect/cli can ask of its surroundings and we never use: prompts, file flags, child processes. */
const surroundings = Layer.mergeAll(
  FileSystem.layerNoop({}),
  Path.layer,
  Stdio.layerTest({}),
  Layer.succeed(
    Terminal.Terminal,
    Terminal.make({
      columns: Effect.sync(() => process.stdout.columns ?? 80),
      rows: Effect.sync(() => process.stdout.rows ?? 24),
      size: Effect.die("unused"),
      readInput: Effect.die("unused"),
      readLine: Effect.die("unused"),
      display: (text: string) => print(text)
    })
  ),
  Layer.succeed(
    ChildProcessSpawner.ChildProcessSpawner,
    ChildProcessSpawner.make(() => Effect.die("unused"))
  )
)

/** The library's words in ours: one line, no capital, "did you mean" as a question. */
const sayWhatIsWrong = (error: CliError.CliError): string => {
  const words =
    error._tag === "UnknownSubcommand"
      ? thereIsNo([...(error.parent ?? []).slice(1), error.subcommand], error.suggestions)
      : error._tag === "UnrecognizedOption"
        ? `there is no flag ${error.option}${similarFlags(error.option, error.suggestions)}`
        : `${error.message.slice(0, 1).toLowerCase()}${error.message.slice(1)}`
  return harmless(words.replace(/\s+/g, " "))
}

const thereIsNo = (words: ReadonlyArray<string>, similar: ReadonlyArray<string>): string =>
  `there is no command "${words.join(" ")}"${adviceFor(words, similar)}`

/** Help to stdout when it was asked for; a wrong command line is one line on stderr that names the help. */
const presenter: CliOutput.Presenter = {
  present: (event) => {
    if (event._tag !== "InvalidInvocation") return CliOutput.defaultPresenter.present(event)
    const what = event.errors.map(sayWhatIsWrong).join("; ")
    const usage = event.helpDoc.usage
      .split(" ")
      .filter((word) => /^[a-z]/.test(word))
      .join(" ")
    return say(`bunker: ${what}; see '${usage} --help'`)
  }
}

const session = (program: Program, debug: boolean) =>
  Layer.succeed(Session, { settings: readSettings(process.env, process.cwd(), os.homedir()), program, debug })

/** Warnings go to stderr as lines; everything with --debug. */
const logging = (debug: boolean) =>
  Layer.mergeAll(
    Logger.layer([
      Logger.make(({ message, logLevel }) =>
        lastWords(
          `bunker: ${logLevel.toLowerCase()}: ${(Array.isArray(message) ? message : [message]).map(String).join(" ")}`
        )
      )
    ]),
    Layer.succeed(References.MinimumLogLevel, debug ? "Debug" : "Error")
  )

const exitCodeOf = (cause: Cause.Cause<unknown>): { readonly code: number; readonly silent: boolean } => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  if (error instanceof ExitWith) return { code: error.code, silent: true }
  if (error instanceof ExecFailed) return { code: error.exitCode, silent: false }
  // The presenter has said what is wrong with the command line.
  if ((error as { readonly _tag?: string })?._tag === "ShowHelp") return { code: 125, silent: true }
  return { code: 125, silent: false }
}

const versionWords: ReadonlySet<string> = new Set(["--version", "-V", "-v", "version"])

/** Fails, having said so, when a command line that asks for help names a command or flag that there is none of. */
const checkWordsOf = <E, R>(
  argv: ReadonlyArray<string>,
  obey: (argv: ReadonlyArray<string>) => Effect.Effect<void, E, R>
) => {
  let wrong = false
  const judge: CliOutput.Presenter = {
    present: (event) => {
      const errors = event._tag === "InvalidInvocation" ? unknownWords(event.errors) : []
      if (event._tag !== "InvalidInvocation" || errors.length === 0) return Effect.void
      wrong = true
      return presenter.present({ ...event, errors })
    }
  }
  return obey(obstructed(argv)).pipe(
    Effect.ignore,
    Effect.andThen(Effect.suspend(() => (wrong ? Effect.fail(new ExitWith({ code: 125 })) : Effect.void))),
    Effect.provide(Layer.mergeAll(CliOutput.layerPresenter(judge), CliConfig.layer({ builtIns: [] })))
  )
}

/** The library's script, with the values that only this program knows. */
const completionsFlag = GlobalFlag.Action({
  flag: GlobalFlag.Completions.flag,
  run: (shell, { command }) =>
    Option.isNone(shell)
      ? Effect.void
      : print(
          withValues(
            shell.value,
            Completions.generate(command.name, shell.value, Completions.fromCommand(command))
          ).trimEnd()
        )
})

export const runApp = async (program: Program, given: ReadonlyArray<string>): Promise<void> => {
  const { argv, debug } = prepareArguments(given)
  if (argv.length === 1 && versionWords.has(argv[0]!)) {
    console.log(version)
    process.exit(0)
  }
  const own = session(program, debug)
  const asksForCompletion = given[0] === "completion"
  const root = Effect.gen(function* () {
    const [name = ""] = argv
    const commands = yield* Effect.promise(() => commandsFor(name))
    // Names that no plugin's command can take.
    const ours = new Set(["help", "version", ...commands.map((command) => command.name)])
    const added = yield* pluginCommands(name, ours)
    const bunker = Command.make("bunker").pipe(
      Command.withDescription(
        "MicroVM sandboxes: an OCI image in, a hardware-isolated process out. 'bunker COMMAND --help' explains each command; 'bunker --debug COMMAND' shows the causes of an error; 'bunker version' prints the version."
      ),
      Command.withSubcommands([...commands, ...added])
    )
    const obey = Command.runWith(bunker, { version })
    if (asksForHelp(argv)) yield* checkWordsOf(argv, obey)
    yield* obey(argv)
  }).pipe(
    Effect.provide(
      Layer.mergeAll(
        surroundings,
        own,
        logging(debug),
        CliOutput.layerPresenter(presenter),
        CliConfig.layer({
          builtIns: [GlobalFlag.Help, ...(asksForCompletion ? [completionsFlag] : [])]
        })
      )
    )
  )
  // Waiting for another process's word is no reason to end: without this, an empty event loop exits with 0.
  setInterval(() => {}, 2 ** 30)
  const stop = new AbortController()
  const interruption = interruptAtSignals(stop)
  const exit = await Effect.runPromiseExit(root as Effect.Effect<void, unknown>, { signal: stop.signal })
  const lost = outputFailure()
  if (lost?.words !== undefined) lastWords(`bunker: ${lost.words}`)
  if (Exit.isSuccess(exit)) return process.exit(lost?.code ?? 0)
  if (debug && !(Option.getOrUndefined(Cause.findErrorOption(exit.cause)) instanceof ExitWith))
    lastWords(Cause.pretty(exit.cause))
  if (Cause.hasInterruptsOnly(exit.cause)) return process.exit(128 + interruption())
  const { code, silent } = exitCodeOf(exit.cause)
  if (!silent) lastWords(`bunker: ${explain(exit.cause)}`)
  process.exit(lost?.code ?? code)
}
