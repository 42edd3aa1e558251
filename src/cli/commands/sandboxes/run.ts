/** `bunker run`. Decides nothing: sends its messages and prints what comes back. */
import { Effect, Exit, Fiber, Option, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { ImageStore } from "../../../actors/images/ImageStore.ts"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { ImageNotFound } from "../../../domain/errors/image.ts"
import { BootFailed, InvalidSpec, SandboxCrashed } from "../../../domain/errors/vm.ts"
import { mainCommand } from "../../../domain/sandbox/exec.ts"
import { type SandboxInfo, statusAfter } from "../../../domain/sandbox/sandbox.ts"
import type { Termination } from "../../../domain/sandbox/termination.ts"
import { withBunker } from "../../context.ts"
import { readTimeout } from "../../ioFlags.ts"
import { ExitWith, print, say } from "../../terminal/output.ts"
import { attach, checkTerminal } from "../../terminal/terminal.ts"
import { explainBrokenChannel } from "../brokenChannel.ts"
import { readSecrets } from "../network/secretFlags.ts"
import { commandArgument, imageArgument, sandboxFlags, terminalFlags, timeoutFlag, toConfig } from "../sandboxFlags.ts"
import { announceEngine, type ImageChoice, named, pullFor, valuesOf } from "./runCommon.ts"

/**
 * The image when it is here and nothing else was asked for; its files are checked when it is leased. That it was used is noted
 * while the guest boots.
 */
const presentImage = Effect.fn("Cli.presentImage")(function* (choice: ImageChoice) {
  const images = yield* ImageStore
  if (choice.pull === "always" || Option.isSome(choice.platform)) {
    return yield* new ImageNotFound({ reference: choice.image })
  }
  const found = yield* images.Inspect({ reference: choice.image })
  const note = Stream.runDrain(images.Pull({ reference: choice.image, policy: "never" }))
  yield* Effect.forkChild(Effect.ignore(Effect.delay(note, "250 millis")))
  return found
})

/** One that did not boot, or crashed, stays until its console was read, or an hour (see Sweeper). */
const removeIfEphemeral = (info: SandboxInfo) => (exit: Exit.Exit<unknown, unknown>) => {
  const error = Option.getOrUndefined(Exit.findErrorOption(exit))
  return info.ephemeral && !(error instanceof BootFailed || error instanceof SandboxCrashed)
    ? VmSupervisor.use((vms) => Effect.ignore(vms.Remove({ name: info.name, force: true })))
    : Effect.void
}

/** Loaded by runs with a network alone. */
const networkLines = (name: string, tty: boolean) =>
  Effect.flatMap(
    Effect.promise(() => import("../network/networkLines.ts")),
    ({ sayNetworkEvents }) => sayNetworkEvents(name, tty)
  )

/** Exit code of a command whose sandbox a limit ended, as of timeout(1). */
const timedOut = 124

/** Time for a sandbox that a limit ends to say so, in milliseconds. */
const endMsMax = 15_000

/** The exit code of an end in order that has one. */
const orderlyCode = ({ exitCode, reason }: Termination): number | null =>
  statusAfter(reason) === "stopped" ? exitCode : null

const isLimit = ({ reason }: Termination): boolean => reason === "max_duration_exceeded" || reason === "idle_timeout"

export const run = Command.make(
  "run",
  {
    ...sandboxFlags,
    ...terminalFlags,
    detach: Flag.Boolean("detach").pipe(
      Flag.withAlias("d"),
      Flag.withDescription("Run in the background and print the sandbox's name"),
      Flag.withDefault(false)
    ),
    rm: Flag.Boolean("rm").pipe(
      Flag.withDescription("Remove the sandbox at its end; the default unless --name or -d is given"),
      Flag.withDefault(false)
    ),
    timeout: timeoutFlag,
    image: imageArgument,
    command: commandArgument
  },
  Effect.fn("Cli.run")(function* (flags) {
    if (!flags.detach) yield* checkTerminal(flags.tty)
    const time = yield* readTimeout(flags.timeout)
    if (flags.detach && time.timeoutMs !== undefined) {
      return yield* new InvalidSpec({ field: "--timeout", reason: "it is for runs in the foreground; leave -d away" })
    }
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const images = yield* ImageStore
      const given = yield* readSecrets(flags, process.env)
      const config = yield* toConfig(flags, given, true)
      if (config.restart !== undefined && config.restart.policy !== "no" && !flags.detach) {
        return yield* new InvalidSpec({
          field: "--restart",
          reason: "a run in the foreground ends with this program; add -d, or use 'bunker create' and 'bunker start'"
        })
      }
      const ephemeral = flags.rm || (Option.isNone(flags.name) && !flags.detach)
      const request = { ...named(flags.name), ephemeral, config, ...valuesOf(given), replace: flags.replace }
      const { config: defaults } = yield* presentImage(flags).pipe(
        Effect.catchTag("ImageNotFound", () =>
          Effect.andThen(pullFor(request, flags), images.Inspect({ reference: flags.image }))
        )
      )
      const [program] = mainCommand(defaults, config)
      if (program === "") {
        const reason = `the first word of what "${flags.image}" runs is empty; give another with --entrypoint`
        return yield* new InvalidSpec({ field: "command", reason })
      }
      if (program === undefined) {
        return yield* new InvalidSpec({
          field: "command",
          reason: `"${flags.image}" names no command; give one after the image`
        })
      }
      yield* announceEngine(config.engine, flags.quiet)
      const info = yield* vms.Create(request)
      if (flags.detach) {
        yield* vms
          .Start({ name: info.name, detached: true })
          .pipe(Effect.onError((cause) => removeIfEphemeral(info)(Exit.failCause(cause))))
        return yield* print(info.name)
      }
      const code = yield* Effect.gen(function* () {
        yield* vms.Start({ name: info.name, detached: false })
        const { interactive, tty } = flags
        const { rest } = config.network === undefined ? { rest: Effect.void } : yield* networkLines(info.name, tty)
        const ending = yield* Effect.forkChild(vms.Wait({ name: info.name }))
        /** The end that came without us: it takes the record of an ephemeral sandbox along. */
        const ended = Effect.timeoutOption(Fiber.join(ending), endMsMax)
        const finish = (exitCode: number) =>
          vms.Finish({ name: info.name, exitCode }).pipe(
            Effect.catchTag(["SandboxNotFound", "WrongState"], (error) =>
              Effect.flatMap(ended, (end) => Effect.fromOption(end).pipe(Effect.mapError(() => error)))
            ),
            Effect.map((end) => ({ end, exitCode }))
          )
        const { end, exitCode } = yield* attach({
          name: info.name,
          interactive,
          tty,
          events: (size) => vms.RunMain({ name: info.name, how: { tty: size, stdin: interactive, ...time } })
        }).pipe(
          Effect.flatMap((exit) => Effect.andThen(rest, finish(exit ?? 0))),
          Effect.catchTag("GuestChannelFailed", (error) =>
            Effect.gen(function* () {
              const end = yield* ended
              if (Option.isSome(end) && isLimit(end.value)) return { end: end.value, exitCode: timedOut }
              // Its guest powered off or rebooted.
              if (Option.isSome(end) && orderlyCode(end.value) !== null) return { end: end.value, exitCode: 0 }
              return yield* explainBrokenChannel(info.name, error, Option.getOrUndefined(end))
            })
          )
        )
        if (!isLimit(end)) return orderlyCode(end) ?? exitCode
        yield* say(`bunker: ${info.name} was ended: ${end.detail ?? end.reason}`)
        return timedOut
      }).pipe(Effect.onExit((exit) => removeIfEphemeral(info)(exit)))
      if (code !== 0) return yield* new ExitWith({ code })
    })
    return yield* withBunker(body, { sweep: "later" })
  })
).pipe(
  Command.withDescription(
    "Boot a sandbox from an image, run a command in it, and end with the command's exit code. The image is pulled when it is missing. Flags after the image belong to the command."
  ),
  Command.withShortDescription("Run a command in a new sandbox"),
  Command.withExamples([
    { command: "bunker run alpine uname -a", description: "Run a command and remove the sandbox" },
    { command: "bunker run -it alpine sh", description: "Work in a shell" },
    { command: "echo hi | bunker run -i alpine cat", description: "Pipe through a sandbox" }
  ])
)
