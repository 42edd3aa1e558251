/**
 * Keeps the stored bytes of a slow download beside the conversion, so that another process can go on where the network was cut:
 * what is kept is read again, and only the rest is asked for. Checks nothing: whoever converts the bytes checks all of them.
 *
 * A quick download keeps nothing, since asking again costs less than writing everything twice: the first bytes are held in
 * memory until it is known how long the whole will take.
 */
import { Buffer } from "node:buffer"
import fs from "node:fs"
import { Effect, Stream } from "effect"
import { QueuedOutput } from "../erofs/output.ts"

/** What is worth keeping. */
export interface SpoolPolicy {
  /** Bytes held in memory before it is decided; default 4 MiB. Blobs that are not longer are never kept. */
  readonly heldBytes: number
  /** How long the whole download must be expected to take, in milliseconds; default 10,000. */
  readonly worthMs: number
  /** A download that has taken this long without a decision is kept, in milliseconds; default 2,000. */
  readonly patienceMs: number
}

const defaultPolicy: SpoolPolicy = { heldBytes: 4 * 2 ** 20, worthMs: 10_000, patienceMs: 2_000 }

const chunkBytes = 256 * 1024

/** Bytes of an earlier download that can be gone on from. */
const keptBytes = (file: string, sizeBytes: number): number => {
  const stat = fs.lstatSync(file, { throwIfNoEntry: false })
  if (stat === undefined) return 0
  if (stat.isFile() && stat.size <= sizeBytes) return stat.size
  fs.rmSync(file, { recursive: true, force: true })
  return 0
}

async function* replay(file: string, length: number) {
  const handle = await fs.promises.open(file, "r")
  try {
    for (let at = 0; at < length; ) {
      const buffer = Buffer.allocUnsafeSlow(Math.min(chunkBytes, length - at))
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, at)
      if (bytesRead === 0) throw new Error("it became shorter")
      at += bytesRead
      yield buffer.subarray(0, bytesRead)
    }
  } finally {
    await handle.close()
  }
}

/** Takes the bytes that come from the network. A disk that is full or fails ends the keeping, never the download. */
class Part {
  #held: Array<Uint8Array> | undefined = []
  #heldBytes = 0
  #out: QueuedOutput | undefined
  #began = 0

  constructor(
    readonly file: string,
    readonly kept: number,
    readonly sizeBytes: number,
    readonly policy: SpoolPolicy
  ) {}

  /** The clock runs from the first request, not from when the stream was described. */
  begin(): void {
    this.#began = performance.now()
    if (this.kept > 0) this.#open()
    else if (this.sizeBytes <= this.policy.heldBytes) this.#held = undefined
  }

  take(chunk: Uint8Array): Promise<void> | undefined {
    if (this.#out !== undefined) {
      this.#out.write(chunk)
      return this.#out.room()?.catch(() => this.#giveUp())
    }
    if (this.#held === undefined) return undefined
    this.#held.push(chunk)
    this.#heldBytes += chunk.length
    const elapsed = performance.now() - this.#began
    if (elapsed > this.policy.patienceMs) this.#open()
    else if (this.#heldBytes >= this.policy.heldBytes) {
      if ((elapsed * this.sizeBytes) / this.#heldBytes >= this.policy.worthMs) this.#open()
      else this.#held = undefined
    }
    return undefined
  }

  /** Everything taken is in the file afterwards. */
  async close(): Promise<void> {
    const out = this.#out
    if (out === undefined) return
    this.#out = undefined
    out.finish(new Uint8Array(0))
    await out.settled().catch(() => fs.rmSync(this.file, { force: true }))
    fs.closeSync(out.fd)
  }

  #open(): void {
    const held = this.#held ?? []
    this.#held = undefined
    try {
      const flags = fs.constants.O_WRONLY | fs.constants.O_CREAT | fs.constants.O_NOFOLLOW
      this.#out = new QueuedOutput(fs.openSync(this.file, flags, 0o600), this.kept)
      for (const chunk of held) this.#out.write(chunk)
    } catch {
      this.#out = undefined
    }
  }

  async #giveUp(): Promise<void> {
    await this.close()
    fs.rmSync(this.file, { force: true })
  }
}

/**
 * All bytes of a blob: those kept in `file`, then what `rest` brings from there on. What is kept stays in `file` when the scope
 * closes; the caller removes it unless the network was cut, and holds a lock that keeps others from the file.
 */
export const spooled = Effect.fnUntraced(function* <E>(
  file: string,
  sizeBytes: number,
  rest: (from: number) => Stream.Stream<Uint8Array, E>,
  policy: Partial<SpoolPolicy> = {}
) {
  const kept = keptBytes(file, sizeBytes)
  const part = new Part(file, kept, sizeBytes, { ...defaultPolicy, ...policy })
  yield* Effect.addFinalizer(() => Effect.promise(() => part.close()))
  const fetched = Stream.suspend(() => {
    part.begin()
    return rest(kept)
  }).pipe(
    Stream.mapEffect((chunk) => {
      const wait = part.take(chunk)
      return wait === undefined
        ? Effect.succeed(chunk)
        : Effect.as(
            Effect.promise(() => wait),
            chunk
          )
    })
  )
  if (kept === 0) return { bytes: fetched, kept }
  const earlier = Stream.orDie(Stream.fromAsyncIterable(replay(file, kept), (cause) => cause))
  return { bytes: kept === sizeBytes ? earlier : Stream.concat(earlier, fetched), kept }
})
