/**
 * Moves what a guest writes to its console from the file that the VM has open into a log of bounded size: the guest writes what it
 * wants, and must not be able to fill the host's disk. Interprets nothing of what it says.
 *
 * Invariant: what was moved takes no room on the disk any more and reads as zeros, so that nobody takes it for new; the VM goes on
 * writing at its place, so the file gets sparse.
 */
import fs from "node:fs"
import { Effect, type Scope, Semaphore } from "effect"
import { attemptFile, type FileError, freeStart } from "../../store/files/files.ts"
import { type LogWriter, openLog } from "../../store/files/logs.ts"
import type { SandboxPaths } from "../../store/files/Paths.ts"

/** Bytes read at once. */
const pieceBytes = 64 * 1024
/** Bytes that were moved and still take room on the disk. */
const keptBytesMax = 1024 * 1024
/** Bytes found in one turn after which the next one does not wait. */
const floodBytes = 1024 * 1024

export interface ConsoleCollector {
  /** Notes that a boot begins: what comes belongs to it, and what was said before to an earlier one. */
  readonly begin: Effect.Effect<void>
  /** Moves everything that is there. */
  readonly collect: Effect.Effect<void>
  /** Does so once a second, at once in a flood. */
  readonly loop: Effect.Effect<never>
}

/** Opens both files; what an earlier keeper moved already is passed over. `seen` gets all that is moved. The scope closes them. */
export const openConsole = Effect.fnUntraced(function* (
  paths: Pick<SandboxPaths, "consoleLog" | "consoleLines">,
  seen: (piece: Uint8Array) => void = () => {}
): Effect.fn.Return<ConsoleCollector, FileError, Scope.Scope> {
  const log = yield* openLog(paths.consoleLines)
  const fd = yield* Effect.acquireRelease(
    attemptFile("open", paths.consoleLog, () =>
      fs.openSync(paths.consoleLog, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o600)
    ),
    (open) => Effect.sync(() => fs.closeSync(open))
  )
  const turn = Semaphore.makeUnsafe(1)
  const source = new Source(fd, seen)
  const once = turn.withPermits(1)(
    Effect.tap(
      Effect.suspend(() => source.move(log)),
      (bytes) => (bytes === 0 ? Effect.void : Effect.map(log.flush, () => source.free()))
    )
  )
  const loop = Effect.flatMap(once, (bytes) => Effect.sleep(bytes > floodBytes ? "10 millis" : "1 second"))
  const begin = Effect.andThen(log.write("start", "boot"), log.flush)
  return { begin, collect: Effect.andThen(once, log.flush), loop: Effect.forever(loop) }
})

class Source {
  private position: number
  private freed: number

  constructor(
    private readonly fd: number,
    private readonly seen: (piece: Uint8Array) => void
  ) {
    this.position = this.freed = startOf(fd)
  }

  /** Answers the bytes moved. */
  move(log: LogWriter): Effect.Effect<number> {
    const self = this
    return Effect.gen(function* () {
      let moved = 0
      for (let piece = self.read(); piece.length > 0; piece = self.read()) {
        yield* log.write("console", piece)
        self.seen(piece)
        self.position += piece.length
        moved += piece.length
        if (self.position - self.freed >= keptBytesMax) self.free()
        if (moved % floodBytes === 0) yield* Effect.yieldNow
      }
      return moved
    })
  }

  /** Whole lines where there are any. */
  private read(): Uint8Array {
    const buffer = Buffer.alloc(pieceBytes)
    try {
      const { size } = fs.fstatSync(this.fd)
      // Whoever starts the VM empties the file.
      if (size < this.position) this.position = this.freed = 0
      const piece = buffer.subarray(0, fs.readSync(this.fd, buffer, 0, pieceBytes, this.position))
      const end = piece.lastIndexOf(0x0a) + 1
      return new Uint8Array(end > 0 ? piece.subarray(0, end) : piece)
    } catch {
      return new Uint8Array()
    }
  }

  /** Gives up what was moved. */
  free(): void {
    try {
      freeStart(this.fd, this.position)
    } catch {
      // A file system without holes: the file starts anew, and what was written since the last read is lost.
      try {
        fs.ftruncateSync(this.fd, 0)
      } catch {
        // The next turn tries again.
      }
    }
    this.freed = this.position
  }
}

/** Place of the first byte that was not moved yet: what was moved reads as zeros. */
const startOf = (fd: number): number => {
  const buffer = Buffer.alloc(pieceBytes)
  const { size } = fs.fstatSync(fd)
  for (let at = 0; at < size; at += pieceBytes) {
    const piece = buffer.subarray(0, fs.readSync(fd, buffer, 0, pieceBytes, at))
    const found = piece.findIndex((byte) => byte !== 0)
    if (found >= 0) return at + found
  }
  return size
}
