/**
 * A running sandbox as a program holds it, of this process or of a server: one class, the same values and errors. Adds nothing to what
 * the actors do.
 */

import { Effect, Stream } from "effect"
import { Sweeper, type SweepReport } from "../actors/sandboxes/Sweeper.ts"
import { VmSupervisor } from "../actors/sandboxes/VmSupervisor.ts"
import { ExecFailed, OutputTooLarge, SandboxNotFound } from "../domain/errors/vm.ts"
import type { MachineProblem } from "../domain/sandbox/definition.ts"
import { outputBytesMax } from "../domain/sandbox/exec.ts"
import type { LogLine, LogRequest } from "../domain/sandbox/logs.ts"
import { formatAddress } from "../domain/sandbox/ports.ts"
import type { SandboxInfo } from "../domain/sandbox/sandbox.ts"
import { defaultHostIp } from "../domain/sandbox/sandbox.ts"
import type { SandboxStats } from "../domain/sandbox/stats.ts"
import type { Termination } from "../domain/sandbox/termination.ts"
import { makeSandbox } from "./boot.ts"
import {
  type CollectOptions,
  type CommandInput,
  type ExecOptions,
  requestOf,
  type SpawnOptions,
  wordsOf
} from "./execOptions.ts"
import { Files } from "./files.ts"
import { CreateInput, checkInput, ExecInput } from "./inputs.ts"
import { Network } from "./network.ts"
import { type ExecResult, type Output, Process } from "./process.ts"
import { holding } from "./program/eventLoop.ts"
import { endWithProgram, forgetDisposed } from "./program/programEnd.ts"
import type { Actors, ServerOptions } from "./remote.ts"
import { askOnce, iterate, type PlaceOptions, type Runtime, run, runtimeOf } from "./runtime.ts"
import type { ListOptions, SandboxOptions } from "./sandboxOptions.ts"
import { failedCommand, lineOf, ShellLine, type ShellValue } from "./shell.ts"
import { thrown } from "./thrown.ts"
import { urlOf } from "./url.ts"
import { type WaitOptions, waitForLog, waitForPort, waitUntilReady } from "./waiting.ts"

/** What to show of the logs; default: all that the main command said so far. */
export type LogOptions = Partial<LogRequest> & { readonly signal?: AbortSignal }

const streaming = "read it as it comes with execStream() or spawn(), or allow more with outputBytesMax"

/** Time for a sandbox to end in order, in milliseconds. */
const stopMs = 10_000

/**
 * A sandbox. One that was made here and is not persistent ends when it is disposed, or with this process; any other is left alone: see
 * `stop` and `remove`.
 */
export class Sandbox implements AsyncDisposable {
  /** Its files. */
  readonly files: Files
  /** Its network: other rules while it runs, and what was denied. */
  readonly network: Network

  private constructor(
    private readonly runtime: Runtime,
    readonly name: string,
    private readonly own: boolean
  ) {
    this.files = new Files(runtime, name)
    this.network = new Network(runtime, name)
    if (own) endWithProgram(this)
  }

  /**
   * Pulls the image if it is missing, boots a sandbox from it and resolves when it takes commands, or is `ready`. What fails leaves no
   * sandbox.
   */
  static async create(options: SandboxOptions): Promise<Sandbox> {
    checkInput(CreateInput, options)
    const { ready, signal, persistent = false, start = true } = options
    const runtime = runtimeOf(options)
    try {
      const name = await run(runtime, makeSandbox(options), signal)
      const sandbox = new Sandbox(runtime, name, !persistent)
      if (ready === undefined || !start) return sandbox
      return await waitUntilReady(sandbox, ready, signal).then(
        () => sandbox,
        async (error: unknown) => {
          await sandbox.remove({ force: true }).catch(() => undefined)
          await sandbox.dispose()
          throw error
        }
      )
    } catch (error) {
      await holding(runtime.dispose())
      throw error
    }
  }

  /**
   * The sandbox of this name; where there is none, one that is made so, persistent unless said otherwise, and given to `onCreate` before
   * anybody here has it. One that has ended is started.
   */
  static async getOrCreate(
    options: SandboxOptions & { readonly name: string; readonly onCreate?: (sandbox: Sandbox) => Promise<void> | void }
  ): Promise<Sandbox> {
    const { onCreate, ...asked } = options
    const found = await Sandbox.get(asked.name, asked).catch((error: unknown) => {
      if (error instanceof SandboxNotFound) return undefined
      throw error
    })
    if (found !== undefined) {
      if (["running", "paused", "starting"].includes((await found.info()).status)) return found
      await found.start()
      return found
    }
    const made = await Sandbox.create({ persistent: true, ...asked })
    try {
      await onCreate?.(made)
      return made
    } catch (error) {
      await made.remove({ force: true }).catch(() => undefined)
      await made.dispose()
      throw error
    }
  }

  /** A sandbox that is there, running or not; disposing of it leaves it alone. Rejects with `SandboxNotFound`. */
  static async get(name: string, options: PlaceOptions = {}): Promise<Sandbox> {
    const runtime = runtimeOf(options)
    try {
      await run(
        runtime,
        VmSupervisor.use((vms) => vms.Inspect({ name }))
      )
      return new Sandbox(runtime, name, false)
    } catch (error) {
      await holding(runtime.dispose())
      throw error
    }
  }

  /**
   * Every sandbox whose definition can be understood, as `bunker ps -a` lists them; with `labels` those that have all of them, of these
   * `limit` (default: all) after the first `offset` (default 0).
   */
  static async list(options: ListOptions = {}): Promise<ReadonlyArray<SandboxInfo>> {
    const { labels = {}, limit, offset = 0, ...where } = options
    const all = await askOnce(
      where,
      VmSupervisor.use((vms) => vms.List())
    )
    const asked = Object.entries(labels)
    return all
      .filter(({ config }) => asked.every(([key, value]) => config.labels[key] === value))
      .slice(offset, limit === undefined ? undefined : offset + limit)
  }

  /** Removes a sandbox that has ended, with everything that it wrote; `force` also one that runs, or whose definition is broken. */
  static remove(name: string, options: PlaceOptions & { readonly force?: boolean } = {}): Promise<void> {
    return askOnce(
      options,
      VmSupervisor.use((vms) => vms.Remove({ name, force: options.force === true }))
    )
  }

  /** What is wrong with definitions: `broken` ones are in no `list`, and `Sandbox.get` rejects with `MachineConfigInvalid`. */
  static problems(options: PlaceOptions = {}): Promise<ReadonlyArray<MachineProblem>> {
    return askOnce(
      options,
      VmSupervisor.use((vms) => vms.Problems())
    )
  }

  /**
   * Puts records of dead sandboxes right and removes what they left, as commands of `bunker` do beside their work; null when somebody
   * else is at it. `dryRun`, default false, only counts.
   */
  static sweep(options: PlaceOptions & { readonly dryRun?: boolean } = {}): Promise<SweepReport | null> {
    const { dryRun = false } = options
    return askOnce(
      options,
      Sweeper.use((sweeper) => sweeper.Sweep({ force: true, dryRun }))
    )
  }

  /** The sandboxes of a `bunker serve`; it is asked with the first call. */
  static connect(server: ServerOptions): Server {
    return {
      create: (options) => Sandbox.create({ ...options, server }),
      get: (name) => Sandbox.get(name, { server }),
      getOrCreate: (options) => Sandbox.getOrCreate({ ...options, server }),
      list: (options) => Sandbox.list({ ...options, server }),
      remove: (name, options) => Sandbox.remove(name, { ...options, server }),
      problems: () => Sandbox.problems({ server }),
      sweep: (options) => Sandbox.sweep({ ...options, server })
    }
  }

  /**
   * Runs a command to its end, its words or a line for the `sh` of the image; resolves with what it said. Rejects with `ExecFailed` when the guest cannot start it, and with
   * `OutputTooLarge` when it says more than is collected.
   */
  async exec(command: CommandInput, options: CollectOptions = {}): Promise<ExecResult> {
    checkInput(ExecInput, { ...options, command })
    const { check = false, outputBytesMax: bytesMax = outputBytesMax, ...rest } = options
    await using process = await this.spawn(command, rest)
    const said = { stdout: [] as Array<Uint8Array>, stderr: [] as Array<Uint8Array> }
    let bytes = 0
    for await (const { stream, data } of process) {
      bytes += data.length
      if (bytes > bytesMax) throw thrown(new OutputTooLarge({ bytesMax, advice: streaming }))
      said[stream].push(data)
    }
    const text = (pieces: ReadonlyArray<Uint8Array>) => new TextDecoder().decode(Buffer.concat(pieces))
    const result = { ...(await process.wait()), stdout: text(said.stdout), stderr: text(said.stderr) }
    if (check && result.exitCode !== 0) throw failedCommand(result)
    return result
  }

  /** Runs a line with the `sh` of the image: pipes, globs, variables. */
  sh(line: string, options: CollectOptions = {}): Promise<ExecResult> {
    return this.exec(line, options)
  }

  /**
   * A line for the `sh` of the image, as in Bun Shell: what is put into it is one word, whatever it holds, a list several.
   * `await box.$`wc -l < ${file}`.text()` rejects with `CommandFailed` unless the line ends with 0; see `nothrow`.
   */
  readonly $ = (pieces: TemplateStringsArray, ...values: ReadonlyArray<ShellValue>): ShellLine =>
    new ShellLine((line, options) => this.exec(line, options), lineOf(pieces, values))

  /** Runs a command and yields its output as it comes; leaving the loop ends the command. Its exit code is the return value. */
  async *execStream(command: CommandInput, options: ExecOptions = {}): AsyncGenerator<Output, number, void> {
    const process = await this.spawn(command, options)
    yield* process
    return (await process.wait()).exitCode
  }

  /** Starts a command and answers when it runs. Its output waits in the guest until it is read. */
  async spawn(command: CommandInput, options: SpawnOptions = {}): Promise<Process> {
    checkInput(ExecInput, { ...options, command })
    const { name } = this
    const [program, ...rest] = wordsOf(command)
    const events = Stream.unwrap(
      Effect.gen(function* () {
        const vms = yield* VmSupervisor
        if (program === undefined) return yield* new ExecFailed({ reason: "not_found", detail: "" })
        return vms.Exec({ name, request: requestOf([program, ...rest], options) })
      })
    )
    return Process.open(this.runtime, name, events, options)
  }

  /** Waits until a process of the guest listens on a TCP port; no program in the image is needed. */
  waitForPort(port: number, options: WaitOptions = {}): Promise<void> {
    return waitForPort(this, port, options)
  }

  /** Waits for a line that its main command says, or has said: resolves with it. */
  waitForLog(pattern: RegExp | string, options: WaitOptions = {}): Promise<string> {
    return waitForLog(this, pattern, options)
  }

  /** Where a published port of the guest is reached over HTTP. Rejects with `InvalidSpec` for one that is not published. */
  async url(port: number): Promise<string> {
    return urlOf(await this.info(), port)
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

  /** What it uses, once a second until it ends; leaving the loop ends the watching. */
  async *watchStats(options: { readonly signal?: AbortSignal } = {}): AsyncGenerator<SandboxStats, void, void> {
    const { name } = this
    const samples = Stream.unwrap(Effect.map(VmSupervisor, (vms) => vms.Stats({ name, watch: true })))
    yield* iterate(this.runtime, samples, options.signal)
  }

  /** Makes it stand still, with all that it holds; commands are refused with `WrongState` until it is unpaused. */
  pause(): Promise<void> {
    return this.ask((vms) => vms.Pause({ name: this.name }))
  }

  /** Lets it run on, with the right time. */
  unpause(): Promise<void> {
    return this.ask((vms) => vms.Unpause({ name: this.name }))
  }

  /**
   * Publishes a port of the guest, also while it runs, and answers where it is reached: `http://127.0.0.1:49152`. Of one that does not run
   * a free port has the number 0. Default: a free port of 127.0.0.1.
   */
  async expose(guestPort: number, on: { readonly hostPort?: number; readonly hostIp?: string } = {}): Promise<string> {
    const { hostPort = 0, hostIp = defaultHostIp } = on
    const port = await this.ask((vms) => vms.PortAdd({ name: this.name, guestPort, hostPort, hostIp }))
    return `http://${formatAddress(port.hostIp, port.hostPort)}`
  }

  /** Publishes a port of the guest no more; connections that are open go on. */
  unexpose(guestPort: number): Promise<void> {
    return this.ask((vms) => vms.PortRemove({ name: this.name, guestPort }))
  }

  /** Says that the sandbox is used: its idle time begins anew. */
  touch(): Promise<void> {
    return this.ask((vms) => vms.Touch({ name: this.name }))
  }

  /** Boots a persistent one that was defined only, or has ended. Rejects with `AlreadyRunning`. */
  async start(): Promise<void> {
    await this.ask((vms) => vms.Start({ name: this.name, detached: true }))
  }

  /** Ends it in order: everything is written out. Milliseconds until it is killed; default ten seconds. Answers how it ended. */
  stop(timeoutMs: number = stopMs): Promise<Termination> {
    return this.ask((vms) => vms.Stop({ name: this.name, timeoutMs }))
  }

  /** Takes no new commands, and stops as `stop` does when the last one has ended; answers then. */
  drain(timeoutMs: number = stopMs): Promise<Termination> {
    return this.ask((vms) => vms.Drain({ name: this.name, timeoutMs }))
  }

  /** Ends it at once; what was not written out is lost. */
  kill(): Promise<Termination> {
    return this.ask((vms) => vms.Kill({ name: this.name }))
  }

  /** Stops a persistent one in order where it runs, and boots it. Milliseconds until it is killed; default ten seconds. */
  async restart(timeoutMs: number = stopMs): Promise<void> {
    await this.ask((vms) => vms.Restart({ name: this.name, timeoutMs }))
  }

  /** Waits for its end and answers how it was; of one that is persistent and has ended, the last. The signal gives up the waiting alone. */
  wait(options: { readonly signal?: AbortSignal } = {}): Promise<Termination> {
    return this.ask((vms) => vms.Wait({ name: this.name }), options.signal)
  }

  /** Removes it with everything that it wrote; `force` also while it runs. */
  remove(options: { readonly force?: boolean } = {}): Promise<void> {
    return this.ask((vms) => vms.Remove({ name: this.name, force: options.force === true }))
  }

  /** Ends a sandbox that was made here and is not persistent, and removes all that it wrote; leaves another alone. A second call does nothing. */
  async dispose(): Promise<void> {
    forgetDisposed(this)
    if (this.own) {
      await this.ask((vms) => vms.Remove({ name: this.name, force: true })).catch(() => undefined)
    }
    await holding(this.runtime.dispose())
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }

  private ask<A, E>(
    message: (vms: VmSupervisor["Service"]) => Effect.Effect<A, E, Actors>,
    signal?: AbortSignal
  ): Promise<A> {
    return run(this.runtime, VmSupervisor.use(message), signal)
  }
}

/** The sandboxes of a server; see `Sandbox`. */
export interface Server {
  readonly create: (options: Omit<SandboxOptions, "home" | "server">) => Promise<Sandbox>
  readonly get: (name: string) => Promise<Sandbox>
  readonly getOrCreate: (
    options: Omit<Parameters<typeof Sandbox.getOrCreate>[0], "home" | "server">
  ) => Promise<Sandbox>
  readonly list: (options?: Omit<ListOptions, "home" | "server">) => Promise<ReadonlyArray<SandboxInfo>>
  readonly remove: (name: string, options?: { readonly force?: boolean }) => Promise<void>
  readonly problems: () => Promise<ReadonlyArray<MachineProblem>>
  readonly sweep: (options?: { readonly dryRun?: boolean }) => Promise<SweepReport | null>
}
