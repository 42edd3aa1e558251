/**
 * Embeds sandboxes in a Bun program: promises and async iterables over the same actors that the CLI uses. Needs no server.
 *
 * Every failure is one of the tagged errors that are exported here, with a message that says what to do.
 */
import { Effect, ManagedRuntime, Stream } from "effect"
import { ImageStore } from "../actors/ImageStore.ts"
import { VmSupervisor } from "../actors/VmSupervisor.ts"
import { ExecFailed } from "../domain/errors/vm.ts"
import { type ExecEvent, exitCodeOf } from "../domain/exec.ts"
import type { EngineKind } from "../domain/sandbox.ts"
import { type LayerOptions, layer } from "./effect.ts"
import { Files } from "./files.ts"
import { type Runtime, run } from "./runtime.ts"

export * from "../domain/errors.ts"
export type { GuestFile } from "../domain/guestFiles.ts"
export type { FileOptions, Files, MkdirOptions, RemoveOptions, StatOptions, WriteFileOptions } from "./files.ts"
export { type FetchOptions, Images, type ImportOptions, type PullOptions } from "./images.ts"
export { type ModelPullOptions, Models, type NewModel } from "./models.ts"
export { type CreateSessionOptions, type PutBlobOptions, type SessionOptions, Sessions } from "./sessions.ts"

export interface SandboxOptions extends LayerOptions {
  /** Image reference, like `alpine:3.20`; pulled when it is missing. */
  readonly image: string
  /** Name; default: made up. */
  readonly name?: string
  /** vCPUs, 1 to 64; default 1. */
  readonly cpus?: number
  /** MiB, at least 64; default 512. */
  readonly memoryMb?: number
  /** Environment of every command, over the image's. */
  readonly env?: Readonly<Record<string, string>>
  /** Working directory; default: the image's. */
  readonly workdir?: string
  /** `name`, `uid`, `name:group` or `uid:gid`; default: the image's. */
  readonly user?: string
  /** Directories or files of this machine: absolute paths here and in the guest. `readOnly`, default false, is enforced here. */
  readonly mounts?: ReadonlyArray<{ readonly source: string; readonly target: string; readonly readOnly?: boolean }>
  /** Directories in the guest's memory, each of at most `sizeMb` MiB; default: half of its memory. */
  readonly tmpfs?: ReadonlyArray<{ readonly target: string; readonly sizeMb?: number }>
  /** Models of the cache, read-only at `target`, default `/models/NAME`; what is missing is fetched as its pull policy says. */
  readonly models?: ReadonlyArray<{ readonly name: string; readonly target?: string }>
  /** Default `auto`: KVM where it boots guests, else emulation. */
  readonly engine?: EngineKind
  /** Agent session that it works for; default: none. */
  readonly session?: string
  /** For your own use; default: none. */
  readonly labels?: Readonly<Record<string, string>>
  /** Longest life in milliseconds, kept by the guest itself should this process hang; default: no end. */
  readonly maxDurationMs?: number
  /** Longest time without a command, a file operation and a `touch`, in milliseconds; default: no end. */
  readonly idleTimeoutMs?: number
}

export interface ExecOptions {
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  readonly user?: string
  /** What the command reads; default: nothing. */
  readonly stdin?: string | Uint8Array
}

export interface ExecResult {
  /** 128 + n when signal n ended it. */
  readonly exitCode: number
  readonly stdout: string
  readonly stderr: string
}

/** A piece of output. */
export interface Output {
  readonly stream: "stdout" | "stderr"
  readonly data: Uint8Array
}

/** Bytes of one input message. */
const inputBytes = 65_536

const pairs = (env: Readonly<Record<string, string>> = {}): ReadonlyArray<string> =>
  Object.entries(env).map(([key, value]) => `${key}=${value}`)

/** A running sandbox. It ends when it is disposed, or with this process. */
export class Sandbox implements AsyncDisposable {
  /** Its files. */
  readonly files: Files

  private constructor(
    private readonly runtime: Runtime,
    readonly name: string
  ) {
    this.files = new Files(runtime, name)
  }

  /** Pulls the image if it is missing, boots a sandbox from it and answers when it takes commands. */
  static async create(options: SandboxOptions): Promise<Sandbox> {
    const runtime: Runtime = ManagedRuntime.make(layer(options))
    const start = Effect.gen(function* () {
      const images = yield* ImageStore
      const vms = yield* VmSupervisor
      yield* Stream.runDrain(images.Pull({ reference: options.image, policy: "if-missing" }))
      const { name } = yield* vms.Create({
        ...(options.name === undefined ? {} : { name: options.name }),
        ephemeral: true,
        config: {
          image: options.image,
          env: pairs(options.env),
          ...(options.workdir === undefined ? {} : { workdir: options.workdir }),
          ...(options.user === undefined ? {} : { user: options.user }),
          ...(options.session === undefined ? {} : { session: options.session }),
          ...(options.mounts === undefined
            ? {}
            : { mounts: options.mounts.map((mount) => ({ ...mount, readOnly: mount.readOnly ?? false })) }),
          ...(options.tmpfs === undefined ? {} : { tmpfs: options.tmpfs }),
          ...(options.models === undefined
            ? {}
            : { models: options.models.map(({ name, target = `/models/${name}` }) => ({ name, target })) }),
          cpus: options.cpus ?? 1,
          memoryMb: options.memoryMb ?? 512,
          diskMb: 4096,
          engine: options.engine ?? "auto",
          endsWithCommand: false,
          labels: options.labels ?? {},
          ...(options.maxDurationMs === undefined ? {} : { maxDurationMs: options.maxDurationMs }),
          ...(options.idleTimeoutMs === undefined ? {} : { idleTimeoutMs: options.idleTimeoutMs })
        }
      })
      yield* vms
        .Start({ name, detached: false })
        .pipe(Effect.onError(() => Effect.ignore(vms.Remove({ name, force: true }))))
      return name
    })
    try {
      return new Sandbox(runtime, await run(runtime, start))
    } catch (error) {
      await runtime.dispose()
      throw error
    }
  }

  /** Runs a command to its end and answers what it said. Rejects with `ExecFailed` when the guest can not start it. */
  async exec(argv: ReadonlyArray<string>, options: ExecOptions = {}): Promise<ExecResult> {
    const text = { stdout: new TextDecoder(), stderr: new TextDecoder() }
    const said = { stdout: "", stderr: "" }
    let exitCode = 0
    const collect = Stream.runForEach(this.events(argv, options), (event) =>
      Effect.sync(() => {
        if (event._tag === "Stdout") said.stdout += text.stdout.decode(event.data, { stream: true })
        else if (event._tag === "Stderr") said.stderr += text.stderr.decode(event.data, { stream: true })
        else if (event._tag !== "Started") exitCode = exitCodeOf(event)
      })
    )
    await run(this.runtime, collect)
    return { exitCode, stdout: said.stdout + text.stdout.decode(), stderr: said.stderr + text.stderr.decode() }
  }

  /** Runs a command and yields its output as it comes; leaving the loop ends the command. Its exit code is the return value. */
  async *execStream(argv: ReadonlyArray<string>, options: ExecOptions = {}): AsyncGenerator<Output, number, void> {
    const context = await this.runtime.context()
    for await (const event of Stream.toAsyncIterableWith(this.events(argv, options), context)) {
      if (event._tag === "Stdout") yield { stream: "stdout", data: event.data }
      else if (event._tag === "Stderr") yield { stream: "stderr", data: event.data }
      else if (event._tag !== "Started") return exitCodeOf(event)
    }
    return 125
  }

  /** Makes it stand still, with all that it holds; commands are refused with `WrongState` until it is unpaused. */
  async pause(): Promise<void> {
    await run(
      this.runtime,
      VmSupervisor.use((vms) => vms.Pause({ name: this.name }))
    )
  }

  /** Lets it run on, with the right time. */
  async unpause(): Promise<void> {
    await run(
      this.runtime,
      VmSupervisor.use((vms) => vms.Unpause({ name: this.name }))
    )
  }

  /** Says that the sandbox is used: its idle time begins anew. */
  async touch(): Promise<void> {
    await run(
      this.runtime,
      VmSupervisor.use((vms) => vms.Touch({ name: this.name }))
    )
  }

  /** Ends the sandbox at once and removes all that it wrote. A second call does nothing. */
  async dispose(): Promise<void> {
    await this.runtime
      .runPromise(Effect.flatMap(VmSupervisor, (vms) => Effect.ignore(vms.Remove({ name: this.name, force: true }))))
      .catch(() => undefined)
    await this.runtime.dispose()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }

  private events(argv: ReadonlyArray<string>, options: ExecOptions) {
    const { name } = this
    const [program, ...rest] = argv
    const input = typeof options.stdin === "string" ? new TextEncoder().encode(options.stdin) : options.stdin
    return Stream.unwrap(
      Effect.gen(function* () {
        const vms = yield* VmSupervisor
        if (program === undefined) return yield* new ExecFailed({ reason: "not_found", detail: "" })
        const feed = (exec: number) =>
          Effect.gen(function* () {
            if (input === undefined) return
            for (let at = 0; at < input.length; at += inputBytes) {
              yield* vms.Input({ name, exec, data: input.subarray(at, at + inputBytes) })
            }
            yield* vms.CloseInput({ name, exec })
          }).pipe(Effect.ignore)
        return vms
          .Exec({
            name,
            request: {
              argv: [program, ...rest],
              env: pairs(options.env),
              ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
              ...(options.user === undefined ? {} : { user: options.user }),
              tty: null,
              stdin: input !== undefined
            }
          })
          .pipe(
            Stream.tap((event: ExecEvent) =>
              event._tag === "Started" ? Effect.forkDetach(feed(event.exec)) : Effect.void
            )
          )
      })
    )
  }
}
