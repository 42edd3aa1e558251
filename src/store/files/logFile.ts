/**
 * Appends lines to a file in the background and rotates it, on a disk that may be slow or full. Knows nothing of what a line says.
 *
 * Invariants: at most `queuedBytesMax` wait for the disk; every byte that was offered is in the file, or counted in a line that says
 * how many are missing and stands in their place; a line that was written in part is ended, so that it spoils no other.
 */
import fs from "node:fs"

/** Files of one log, the current one included. */
export const logFilesMax = 4
/** Bytes of lines that wait for the disk. */
const queuedBytesMax = 1024 * 1024
/** Bytes of one write, when more than one line waits. */
const batchBytes = 256 * 1024
/** Time after which it is tried again to say what a full disk did not take, in milliseconds. */
const retryMs = 1000

const newline = 0x0a
const { O_APPEND, O_CREAT, O_TRUNC, O_WRONLY } = fs.constants

/** `file`, `file.1` (older), `file.2` … */
export const rotated = (file: string, index: number): string => (index === 0 ? file : `${file}.${index}`)

interface Line {
  readonly bytes: Buffer
  /** Bytes of what it says: lost with it. */
  readonly size: number
  /** Told once it is in the file, or counted as missing. */
  readonly settled?: (() => void) | undefined
}

/** True when a process was killed, or a machine lost its power, in the middle of the last line. */
const isTorn = async (file: string, size: number): Promise<boolean> => {
  if (size === 0) return false
  const last = Buffer.alloc(1)
  const handle = await fs.promises.open(file, "r")
  try {
    await handle.read(last, 0, 1, size - 1)
  } finally {
    await handle.close()
  }
  return last[0] !== newline
}

export class LogFile {
  private queued: Array<Line> = []
  private queuedBytes = 0
  /** Bytes that are missing before the first line of the queue. */
  private lost = 0
  /** Bytes that are missing after the last line of the queue. */
  private dropped = 0
  private busy = false
  private hopeless = false
  private closed = false
  private retry: Timer | undefined
  private readonly waiting: Array<() => void> = []

  private constructor(
    private readonly file: string,
    private readonly bytesMax: number,
    private readonly missing: (bytes: number) => Buffer,
    private handle: fs.promises.FileHandle,
    private bytes: number,
    /** The file ends within a line. */
    private torn: boolean
  ) {}

  /** `missing` makes the line that says how many bytes are missing. */
  static async open(file: string, bytesMax: number, missing: (bytes: number) => Buffer): Promise<LogFile> {
    const handle = await fs.promises.open(file, "a", 0o600)
    const { size } = await handle.stat()
    return new LogFile(file, bytesMax, missing, handle, size, await isTorn(file, size))
  }

  /** Takes a line that says `size` bytes; false when there is no room. */
  offer(bytes: Buffer, size: number, settled?: () => void): boolean {
    if (this.queuedBytes + bytes.length > queuedBytesMax && this.queuedBytes > 0) return false
    this.sayDropped()
    this.push(bytes, size, settled)
    if (!this.busy) void this.drain()
    return true
  }

  /** Counts what was not taken, because somebody waited for room in vain. */
  drop(size: number): void {
    this.hopeless = true
    this.dropped += size
  }

  /** True once somebody waited in vain, until the disk has taken something: nobody need wait meanwhile. */
  get stuck(): boolean {
    return this.hopeless
  }

  get idle(): boolean {
    return !this.busy
  }

  /** Looks after each write whether something has become true; false when it has not in time. */
  async until(look: () => boolean, timeoutMs: number): Promise<boolean> {
    if (look()) return true
    return new Promise((resolve) => {
      const again = () => {
        if (look()) {
          clearTimeout(timer)
          resolve(true)
        } else this.waiting.push(again)
      }
      const timer = setTimeout(() => {
        this.waiting.splice(this.waiting.indexOf(again), 1)
        resolve(false)
      }, timeoutMs)
      this.waiting.push(again)
    })
  }

  /** Waits for what is queued. */
  async close(): Promise<void> {
    clearTimeout(this.retry)
    this.closed = true
    while (this.busy) await this.until(() => this.idle, retryMs)
    // The last chance to say it.
    if (this.lost > 0) await this.drain()
    await this.handle.close().catch(() => {})
  }

  private push(bytes: Buffer, size: number, settled?: () => void): void {
    this.queued.push({ bytes, size, settled })
    this.queuedBytes += bytes.length
  }

  private sayDropped(): void {
    if (this.dropped > 0) this.push(this.missing(this.dropped), this.dropped)
    this.dropped = 0
  }

  private async drain(): Promise<void> {
    this.busy = true
    while (this.queued.length > 0 || this.lost > 0) {
      const batch = this.take()
      const lost = await this.write(batch)
      if (lost > 0) this.lost += lost
      for (const { settled } of batch) settled?.()
      this.hopeless = false
      this.queuedBytes -= batch.reduce((sum, line) => sum + line.bytes.length, 0)
      if (this.queued.length === 0) this.sayDropped()
      const last = this.queued.length === 0
      // A callback that offers a line starts the next turn: this one must be over by then.
      if (last) this.busy = false
      for (const run of this.waiting.splice(0)) run()
      if (last) break
    }
    if (this.lost > 0 && !this.busy && !this.closed) this.sayLater()
  }

  /** Lines of one write, behind the word of what is missing before them. */
  private take(): ReadonlyArray<Line> {
    let count = 0
    let bytes = 0
    while (count < this.queued.length && (count === 0 || bytes + this.queued[count]!.bytes.length <= batchBytes)) {
      bytes += this.queued[count]!.bytes.length
      count += 1
    }
    const batch = this.queued.splice(0, count)
    if (this.lost === 0) return batch
    const said = { bytes: this.missing(this.lost), size: this.lost }
    this.queuedBytes += said.bytes.length
    this.lost = 0
    return [said, ...batch]
  }

  /** Answers how many bytes are missing then: of the first line that is not wholly in the file, and of those after it. */
  private async write(batch: ReadonlyArray<Line>): Promise<number> {
    const data = Buffer.concat([...(this.torn ? [Buffer.of(newline)] : []), ...batch.map(({ bytes }) => bytes)])
    const ended = this.torn ? 1 : 0
    let written = 0
    try {
      if (this.bytes + data.length > this.bytesMax && this.bytes > 0) await this.rotate()
      while (written < data.length) written += (await this.handle.write(data, written)).bytesWritten
    } catch {
      // Counted below.
    }
    this.bytes += written
    if (written > 0) this.torn = data[written - 1] !== newline
    let whole = ended
    return batch.reduce((lost, { bytes, size }) => {
      whole += bytes.length
      return whole <= written ? lost : lost + size
    }, 0)
  }

  private sayLater(): void {
    clearTimeout(this.retry)
    this.retry = setTimeout(() => {
      if (!this.busy) void this.drain()
    }, retryMs)
    this.retry.unref()
  }

  /**
   * The new file is there before an old one moves: a full disk must not push what is kept out of the last one. What fails half-way is
   * gone on with the next time: files move only into a name that is free, or the last one.
   */
  private async rotate(): Promise<void> {
    const aside = `${this.file}.new`
    const next = await fs.promises.open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0o600)
    try {
      // Missing where an earlier try got no further.
      if (fs.existsSync(this.file)) {
        let free = 1
        while (free < logFilesMax - 1 && fs.existsSync(rotated(this.file, free))) free += 1
        for (let to = free; to > 0; to -= 1)
          await fs.promises.rename(rotated(this.file, to - 1), rotated(this.file, to))
      }
      await fs.promises.rename(aside, this.file)
    } catch (cause) {
      await next.close().catch(() => {})
      throw cause
    }
    const old = this.handle
    this.handle = next
    await old.close().catch(() => {})
    this.bytes = 0
    this.torn = false
  }
}
