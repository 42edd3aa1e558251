/**
 * A running sandbox as a program holds it, of this process or of a server: one class, the same values and errors. Adds nothing to what
 * the actors do.
 */
import { Deferred, Effect, Stream } from "effect"
import type { Unreachable } from "../actors/Actor.ts"
import { ImageStore } from "../actors/ImageStore.ts"
import { VmSupervisor } from "../actors/VmSupervisor.ts"
import type { ReachError } from "../domain/errors/groups.ts"
import { ExecFailed } from "../domain/errors/vm.ts"
import type { LogLine, LogRequest } from "../domain/logs.ts"
import type { MachineProblem } from "../domain/machine.ts"
import type { SandboxInfo } from "../domain/sandbox.ts"
import type { SandboxStats } from "../domain/stats.ts"
import { Files } from "./files.ts"
import { type Ended, type Input, type Output, Process } from "./process.ts"
import type { Actors, ServerOptions } from "./remote.ts"
import { iterate, type PlaceOptions, type Runtime, run, runtimeOf } from "./runtime.ts"
import { configOf, pairs, type SandboxOptions } from "./sandboxOptions.ts"

export interface ExecOptions {
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  readonly user?: string
  /** What the command reads; default: nothing. A source that fails ends the command, and the call rejects with its failure. */
  readonly stdin?: Input
  /** Milliseconds until it is killed and ends with 124; default: no end. */
  readonly timeoutMs?: number
  /** Ends the command; the call rejects with the signal's reason. */
  readonly signal?: AbortSignal
}

export interface SpawnOptions extends ExecOptions {
  /** Gives it a terminal of this size: all its output is stdout. */
  readonly tty?: { readonly cols: number; readonly rows: number }
  /** Keeps stdin open for `write`; default false. */
  readonly openStdin?: boolean
}

export interface ExecResult extends Ended {
  readonly stdout: string
  readonly stderr: string
}

/** What to show of the logs; default: all that the main command said so far. */
export type LogOptions = Partial<LogRequest> & { readonly signal?: AbortSignal }

/** Size of a main command's terminal until somebody resizes it. */
const firstSize = { cols: 80, rows: 24 }

/** Time for a sandbox to end in order, in milliseconds. */
const stopMs = 10_000

/** A running sandbox. One that was made here ends when it is disposed, or with this process; see `Sandbox.get` for others. */
export class Sandbox implements AsyncDisposable {
  /** Its files. */
  readonly files: Files

  private constructor(
    private readonly runtime: Runtime,
    readonly name: string,
    private readonly own: boolean
  ) {
    this.files = new Files(runtime, name)
  }

  /** Pulls the image if it is missing, boots a sandbox from it and answers when it takes commands. */
  static async create(options: SandboxOptions): Promise<Sandbox> {
    const runtime = runtimeOf(options)
    // One of a server has a keeper there, and lives on when this process just ends.
    const detached = options.server !== undefined
    const config = configOf(options)
    const start = Effect.gen(function* () {
      const images = yield* ImageStore
      const vms = yield* VmSupervisor
      yield* Stream.runDrain(images.Pull({ reference: options.image, policy: "if-missing" }))
      const { name } = yield* vms.Create({
        ...(options.name === undefined ? {} : { name: options.name }),
        ephemeral: true,
        config
      })
      const up = detached
        ? vms.Start({ name, detached })
        : Effect.andThen(vms.Start({ name, detached }), runMain(vms, name, options))
      yield* Effect.onError(up, () => Effect.ignore(vms.Remove({ name, force: true })))
      return name
    })
    try {
      return new Sandbox(runtime, await run(runtime, start), true)
    } catch (error) {
      await runtime.dispose()
      throw error
    }
  }

  /** A sandbox that runs already; disposing of it leaves it alone. Rejects with `SandboxNotFound`. */
  static async get(name: string, options: PlaceOptions = {}): Promise<Sandbox> {
    const runtime = runtimeOf(options)
    try {
      await run(
        runtime,
        VmSupervisor.use((vms) => vms.Inspect({ name }))
      )
      return new Sandbox(runtime, name, false)
    } catch (error) {
      await runtime.dispose()
      throw error
    }
  }

  /** Every sandbox whose definition can be understood, as `bunker ps -a` lists them. */
  static list(options: PlaceOptions = {}): Promise<ReadonlyArray<SandboxInfo>> {
    return askOnce(options, (vms) => vms.List())
  }

  /** What is wrong with definitions: `broken` ones are in no `list`, and `Sandbox.get` rejects with `MachineConfigInvalid`. */
  static problems(options: PlaceOptions = {}): Promise<ReadonlyArray<MachineProblem>> {
    return askOnce(options, (vms) => vms.Problems())
  }

  /** The sandboxes of a `bunker serve`; it is asked with the first call. */
  static connect(server: ServerOptions): Server {
    return {
      create: (options) => Sandbox.create({ ...options, server }),
      get: (name) => Sandbox.get(name, { server }),
      list: () => Sandbox.list({ server }),
      problems: () => Sandbox.problems({ server })
    }
  }

  /** Runs a command to its end and answers what it said. Rejects with `ExecFailed` when the guest can not start it. */
  async exec(argv: ReadonlyArray<string>, options: ExecOptions = {}): Promise<ExecResult> {
    const text = { stdout: new TextDecoder(), stderr: new TextDecoder() }
    const said = { stdout: "", stderr: "" }
    const process = await this.spawn(argv, options)
    for await (const { stream, data } of process) said[stream] += text[stream].decode(data, { stream: true })
    const ended = await process.wait()
    return { ...ended, stdout: said.stdout + text.stdout.decode(), stderr: said.stderr + text.stderr.decode() }
  }

  /** Runs a command and yields its output as it comes; leaving the loop ends the command. Its exit code is the return value. */
  async *execStream(argv: ReadonlyArray<string>, options: ExecOptions = {}): AsyncGenerator<Output, number, void> {
    const process = await this.spawn(argv, options)
    yield* process
    return (await process.wait()).exitCode
  }

  /** Starts a command and answers when it runs. Its output waits in the guest until it is read. */
  spawn(argv: ReadonlyArray<string>, options: SpawnOptions = {}): Promise<Process> {
    const { cwd, env, openStdin = false, stdin, timeoutMs, tty = null, user } = options
    const { name } = this
    const [program, ...rest] = argv
    const command = Stream.unwrap(
      Effect.gen(function* () {
        const vms = yield* VmSupervisor
        if (program === undefined) return yield* new ExecFailed({ reason: "not_found", detail: "" })
        const request = {
          argv: [program, ...rest] as const,
          env: pairs(env),
          tty,
          stdin: openStdin || stdin !== undefined,
          ...(cwd === undefined ? {} : { cwd }),
          ...(user === undefined ? {} : { user }),
          ...(timeoutMs === undefined ? {} : { timeoutMs })
        }
        return vms.Exec({ name, request })
      })
    )
    return Process.open(this.runtime, name, command, options)
  }

  /** Joins its main command: what it says from now on, and how it ends. Leaving it leaves the command alone. */
  attach(options: { readonly signal?: AbortSignal } = {}): Promise<Process> {
    const { name } = this
    const stream = Stream.unwrap(Effect.map(VmSupervisor, (vms) => vms.Attach({ name })))
    return Process.open(this.runtime, name, stream, options)
  }

  /** Its logs, with `follow` until it has ended. */
  async *logs(options: LogOptions = {}): AsyncGenerator<LogLine, void, void> {
    const { signal, ...query } = options
    const { name } = this
    const lines = Stream.unwrap(
      Effect.map(VmSupervisor, (vms) => vms.Logs({ source: "main", follow: false, ...query, name }))
    )
    yield* iterate(this.runtime, lines, signal)
  }

  /** All that is recorded of it. */
  info(): Promise<SandboxInfo> {
    return this.ask((vms) => vms.Inspect({ name: this.name }))
  }

  /** What it uses now. */
  async stats(): Promise<SandboxStats> {
    const sample = await this.ask((vms) => Stream.runHead(vms.Stats({ name: this.name, watch: false })))
    if (sample._tag === "Some") return sample.value
    throw new Error(`${this.name} has no numbers`)
  }

  /** Makes it stand still, with all that it holds; commands are refused with `WrongState` until it is unpaused. */
  pause(): Promise<void> {
    return this.ask((vms) => vms.Pause({ name: this.name }))
  }

  /** Lets it run on, with the right time. */
  unpause(): Promise<void> {
    return this.ask((vms) => vms.Unpause({ name: this.name }))
  }

  /** Says that the sandbox is used: its idle time begins anew. */
  touch(): Promise<void> {
    return this.ask((vms) => vms.Touch({ name: this.name }))
  }

  /** Ends it in order: everything is written out. Milliseconds until it is killed; default ten seconds. */
  async stop(timeoutMs: number = stopMs): Promise<void> {
    await this.ask((vms) => vms.Stop({ name: this.name, timeoutMs }))
  }

  /** Ends a sandbox that was made here at once, and removes all that it wrote; leaves another alone. A second call does nothing. */
  async dispose(): Promise<void> {
    if (this.own) {
      await this.runtime
        .runPromise(VmSupervisor.use((vms) => Effect.ignore(vms.Remove({ name: this.name, force: true }))))
        .catch(() => undefined)
    }
    await this.runtime.dispose()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }

  private ask<A, E>(message: (vms: VmSupervisor["Service"]) => Effect.Effect<A, E, Actors>): Promise<A> {
    return run(this.runtime, VmSupervisor.use(message))
  }
}

/** The sandboxes of a server; see `Sandbox`. */
export interface Server {
  readonly create: (options: Omit<SandboxOptions, "home" | "server">) => Promise<Sandbox>
  readonly get: (name: string) => Promise<Sandbox>
  readonly list: () => Promise<ReadonlyArray<SandboxInfo>>
  readonly problems: () => Promise<ReadonlyArray<MachineProblem>>
}

/** Asks actors that live for this one question. */
const askOnce = async <A, E>(
  options: PlaceOptions,
  message: (vms: VmSupervisor["Service"]) => Effect.Effect<A, E, Actors>
): Promise<A> => {
  const runtime = runtimeOf(options)
  try {
    return await run(runtime, VmSupervisor.use(message))
  } finally {
    await runtime.dispose()
  }
}

/** Runs the main command in the background of this process, and answers when it runs; nothing when there is none. */
export const runMain = Effect.fnUntraced(function* (
  vms: Pick<VmSupervisor["Service"], "RunMain">,
  name: string,
  options: Pick<SandboxOptions, "command" | "openStdin" | "tty">
) {
  if ((options.command ?? []).length === 0) return
  const started = yield* Deferred.make<void, ReachError | Unreachable>()
  const how = { tty: options.tty === true ? firstSize : null, stdin: options.openStdin === true }
  const main = Stream.runForEach(vms.RunMain({ name, how }), () => Deferred.succeed(started, undefined)).pipe(
    // However it ends: nobody waits for ever.
    Effect.onExit((exit) => Deferred.done(started, exit)),
    Effect.ignore
  )
  yield* Effect.forkDetach(main)
  yield* Deferred.await(started)
})
