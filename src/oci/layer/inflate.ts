/**
 * Inflates a pushed gzip, zstd or plain stream piece by piece, on a thread of the pool where it is compressed.
 * Told by its first bytes, not by its media type. Keeps at most a few MiB; refuses bombs, cut streams and bytes after the end.
 */
import { Buffer } from "node:buffer"
import zlib from "node:zlib"
import { RejectedInput } from "../tar/rejected.ts"
import { ZstdFrames } from "./zstdFrames.ts"

export type Compression = "none" | "gzip" | "zstd"

interface InflateLimits {
  /** Most inflated bytes per compressed one, once more than `ratioFreeBytes` came out. Default 1000. */
  readonly ratioMax: number
  /** Inflated bytes before the ratio counts. Default 16 MiB. */
  readonly ratioFreeBytes: number
  /** Most inflated bytes in all. Default 64 GiB. */
  readonly bytesMax: number
}

export const INFLATE_LIMITS: InflateLimits = { ratioMax: 1000, ratioFreeBytes: 16 * 2 ** 20, bytesMax: 64 * 2 ** 30 }

/** Magic numbers of RFC 1952 and RFC 8878 (data or skippable frame); a tar header can not begin with them by accident. */
const detectCompression = (head: Uint8Array): Compression => {
  const [a, b, c, d] = head
  if (a === 0x1f && b === 0x8b) return "gzip"
  if (a === 0x28 && b === 0xb5 && c === 0x2f && d === 0xfd) return "zstd"
  if (a !== undefined && (a & 0xf0) === 0x50 && b === 0x2a && c === 0x4d && d === 0x18) return "zstd"
  return "none"
}

type Engine = zlib.Gunzip | zlib.ZstdDecompress

export class Inflater {
  #compression: Compression | undefined
  #head: Uint8Array = new Uint8Array(0)
  #engine: Engine | undefined
  #frames: ZstdFrames | undefined
  /** Came out of the engine and was not handed on yet; a piece or two. */
  readonly #inflated: Array<Uint8Array> = []
  #taken = 0
  #given = 0
  #failure: unknown
  #wake: (() => void) | undefined
  #ended = false

  /**
   * `onBytes` gets each inflated piece, valid only during the call; no other comes before the promise that it may answer resolves.
   * What it throws or rejects with ends the stream.
   */
  constructor(
    readonly onBytes: (bytes: Uint8Array) => Promise<void> | undefined,
    readonly limits: InflateLimits = INFLATE_LIMITS
  ) {}

  get compression(): Compression | undefined {
    return this.#compression
  }

  /** Takes the next compressed bytes, which nobody may change afterwards. Resolves when more may come; rejects with `RejectedInput` or what `onBytes` threw. */
  async push(bytes: Uint8Array): Promise<void> {
    if (this.#compression === undefined) {
      this.#head = this.#head.length === 0 ? bytes : Buffer.concat([this.#head, bytes])
      if (this.#head.length < 4) return
      await this.#start()
      return
    }
    await this.#feed(bytes)
  }

  /** Ends the stream. Resolves when all is inflated. */
  async finish(): Promise<void> {
    if (this.#compression === undefined) await this.#start()
    this.#frames?.finish()
    const engine = this.#engine
    if (engine === undefined) return
    engine.end()
    while (!this.#ended && this.#failure === undefined) await this.#signal()
    this.#deliver()
    this.#check()
    if (this.#compression === "gzip" && engine.bytesWritten !== this.#taken) {
      throw new RejectedInput("there is data after the end of the gzip stream")
    }
  }

  /** Gives the engine's memory back; needed when the stream is not finished. */
  close(): void {
    this.#engine?.removeAllListeners("data")
    this.#engine?.destroy()
  }

  async #start(): Promise<void> {
    this.#compression = detectCompression(this.#head)
    if (this.#compression !== "none") this.#open(this.#compression)
    const head = this.#head
    this.#head = new Uint8Array(0)
    if (head.length > 0) await this.#feed(head)
  }

  #open(compression: "gzip" | "zstd"): void {
    const options = { chunkSize: 64 * 1024 }
    const engine: Engine = compression === "gzip" ? zlib.createGunzip(options) : zlib.createZstdDecompress(options)
    if (compression === "zstd") this.#frames = new ZstdFrames()
    this.#engine = engine
    engine.on("data", (bytes: Buffer) => {
      this.#inflated.push(bytes)
      // Later, when the engine has begun with its next piece on its own thread.
      if (this.#inflated.length === 1) queueMicrotask(() => this.#deliver())
    })
    engine.on("drain", () => this.#wake?.())
    engine.on("end", () => {
      this.#ended = true
      this.#wake?.()
    })
    engine.on("error", (cause: Error) =>
      this.#fail(new RejectedInput(`the ${compression} stream is corrupt: ${cause.message}`))
    )
  }

  /** Hands on what came out; makes the engine wait when the taker has to. */
  #deliver(): void {
    for (const bytes of this.#inflated.splice(0)) {
      if (this.#failure !== undefined) return
      try {
        const wait = this.#emit(bytes)
        if (wait === undefined) continue
        this.#engine?.pause()
        wait.then(
          () => this.#engine?.resume(),
          (cause) => this.#fail(cause)
        )
      } catch (cause) {
        this.#fail(cause)
      }
    }
  }

  #fail(cause: unknown): void {
    this.#failure ??= cause
    this.#engine?.destroy()
    this.#wake?.()
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure
  }

  #signal(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = undefined
        resolve()
      }
    })
  }

  #emit(bytes: Uint8Array): Promise<void> | undefined {
    this.#given += bytes.length
    const { bytesMax, ratioFreeBytes, ratioMax } = this.limits
    if (this.#given > bytesMax) throw new RejectedInput(`it inflates to more than ${bytesMax} bytes`)
    if (this.#given > ratioFreeBytes && this.#given > this.#taken * ratioMax) {
      throw new RejectedInput(`it inflates to more than ${ratioMax} times its size`)
    }
    return this.onBytes(bytes)
  }

  async #feed(bytes: Uint8Array): Promise<void> {
    this.#check()
    this.#taken += bytes.length
    const engine = this.#engine
    if (engine === undefined) return this.#emit(bytes)
    this.#frames?.push(bytes)
    const accepted = engine.write(bytes)
    if (!accepted) while (engine.writableNeedDrain && this.#failure === undefined) await this.#signal()
    this.#check()
  }
}
