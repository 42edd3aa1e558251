/**
 * A command that runs in a sandbox, as whoever holds it sees it: output to read, input to write, signals, its end. Runs nothing by
 * itself (see Sandbox).
 *
 * Invariant: output waits in the guest until it is read here, so that a process whose output nobody reads stands still.
 */
import type { Effect, Stream } from "effect"
import { VmSupervisor } from "../actors/sandboxes/VmSupervisor.ts"
import { GuestChannelFailed } from "../domain/errors/vm.ts"
import { type ExecEvent, exitCodeOf } from "../domain/sandbox/exec.ts"
import type { Actors } from "./remote.ts"
import { iterate, type Runtime, run } from "./runtime.ts"

/** A piece of output. */
export interface Output {
  readonly stream: "stdout" | "stderr"
  readonly data: Uint8Array
}

/** What a command reads: text as UTF-8, bytes, or bytes as they come. */
export type Input = string | Uint8Array | AsyncIterable<Uint8Array>

/** How a command ended. */
export interface Ended {
  /** 128 + n when signal n ended it, 124 when its time was up. */
  readonly exitCode: number
  /** Present and true when its time was up. */
  readonly timedOut?: boolean
}

/** How a command ended, and what it said, as text. */
export interface ExecResult extends Ended {
  readonly stdout: string
  readonly stderr: string
}

/** Bytes of one input message. */
const inputBytes = 65_536

/** Pieces of an input. */
async function* pieces(input: Input): AsyncGenerator<Uint8Array, void, void> {
  const whole = typeof input === "string" ? new TextEncoder().encode(input) : input
  if (!(whole instanceof Uint8Array)) yield* whole
  else if (whole.length > 0) yield whole
}

const endTags: ReadonlySet<unknown> = new Set(["ExecFailed", "GuestChannelFailed", "SandboxNotFound", "WrongState"])
const hasEnded = (error: unknown): boolean => endTags.has((error as { readonly _tag?: unknown } | null)?._tag)

/** A running command. Iterate it once for its output; leaving the loop ends a command, and leaves a sandbox's main command alone. */
export class Process implements AsyncIterable<Output>, AsyncDisposable {
  private ended: Ended | undefined

  private constructor(
    private readonly runtime: Runtime,
    private readonly name: string,
    private readonly events: AsyncGenerator<ExecEvent, void, void>,
    private readonly stop: AbortController,
    private readonly exec: number,
    /** Process id in the guest. */
    readonly pid: number
  ) {}

  /** @internal Starts what the stream runs; rejects with what kept it from starting. */
  static async open<E>(
    runtime: Runtime,
    name: string,
    stream: Stream.Stream<ExecEvent, E, Actors>,
    options: { readonly signal?: AbortSignal; readonly stdin?: Input }
  ): Promise<Process> {
    const stop = new AbortController()
    const signals = options.signal === undefined ? [] : [options.signal]
    const events = iterate(runtime, stream, AbortSignal.any([stop.signal, ...signals]))
    const first = await events.next()
    if (first.done === true) throw new GuestChannelFailed({ reason: "the command said nothing, not even its end" })
    const { exec, pid } = first.value._tag === "Started" ? first.value : { exec: -1, pid: 0 }
    const opened = new Process(runtime, name, events, stop, exec, pid)
    opened.take(first.value)
    if (options.stdin !== undefined) void opened.feed(options.stdin)
    return opened
  }

  /** Output as it comes, to the end of the command. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Output, void, void> {
    try {
      while (this.ended === undefined) {
        const { done, value } = await this.events.next()
        if (done === true) return
        const output = this.take(value)
        if (output !== undefined) yield output
      }
    } finally {
      await this.events.return()
    }
  }

  /** Waits for its end; output that nobody has read is passed over. */
  async wait(): Promise<Ended> {
    for await (const _ of this);
    if (this.ended !== undefined) return this.ended
    throw new GuestChannelFailed({ reason: "the command was left before its end" })
  }

  /** Sends bytes to its stdin; resolves once they are on their way to the guest. */
  async write(input: Input): Promise<void> {
    const { exec, name } = this
    for await (const piece of pieces(input)) {
      for (let at = 0; at < piece.length; at += inputBytes) {
        const data = piece.subarray(at, at + inputBytes)
        await this.ask((vms) => vms.Input({ name, exec, data }))
      }
    }
  }

  /** End of file on its stdin. */
  closeInput(): Promise<void> {
    const { exec, name } = this
    return this.ask((vms) => vms.CloseInput({ name, exec }))
  }

  /** Sends a signal, by number, to its process group; default: SIGTERM. */
  kill(signal = 15): Promise<void> {
    const { exec, name } = this
    return this.ask((vms) => vms.Signal({ name, exec, signal }))
  }

  /** Tells its terminal a new size in character cells. */
  resize(size: { readonly cols: number; readonly rows: number }): Promise<void> {
    const { exec, name } = this
    return this.ask((vms) => vms.Resize({ name, exec, size }))
  }

  /** Ends a command that runs; leaves a sandbox's main command alone. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.stop.abort()
    await this.events.return().catch(() => undefined)
  }

  /** All of an input, then its end. A source that fails ends the command, and whoever waits for it gets the failure. */
  private async feed(input: Input): Promise<void> {
    const source = pieces(input)
    while (true) {
      const next = await source.next().catch((cause: unknown) => void this.stop.abort(cause))
      if (next === undefined) return
      const failure = await (next.done === true ? this.closeInput() : this.write(next.value)).then(
        () => undefined,
        (error: unknown) => ({ error })
      )
      // Input that is not taken means that the command has ended, and its own words say how; anything else would leave it waiting.
      if (failure !== undefined && !hasEnded(failure.error)) this.stop.abort(failure.error)
      if (next.done === true || failure !== undefined) return void source.return().catch(() => undefined)
    }
  }

  private ask<E>(message: (vms: VmSupervisor["Service"]) => Effect.Effect<void, E>): Promise<void> {
    return run(this.runtime, VmSupervisor.use(message))
  }

  private take(event: ExecEvent): Output | undefined {
    if (event._tag === "Stdout") return { stream: "stdout", data: event.data }
    if (event._tag === "Stderr") return { stream: "stderr", data: event.data }
    if (event._tag === "Exit" || event._tag === "Signaled") {
      const timedOut = event._tag === "Exit" && event.timedOut === true
      this.ended = { exitCode: exitCodeOf(event), ...(timedOut ? { timedOut } : {}) }
    }
    return undefined
  }
}
