/**
 * Copies and hashes many files on several threads: one pass over each, blocks shared instead where the file system can.
 * Chooses no names and makes no directories; a target that exists is a failure.
 */

import os from "node:os"
import { Data, Effect } from "effect"
import workerText from "../../ffi/fileWorker.mjs" with { type: "text" }

/** One file to hash, and to copy when it has a target. */
export interface FileJob {
  /** A path; with `below` a relative one without links and `..`. */
  readonly source: string
  /** The open directory that it lies below, which stays open until all is done: no part of the path is followed as a link. */
  readonly below?: number
  readonly target: string | undefined
  /** Length that it must have. */
  readonly sizeBytes: number
}

/** What went wrong with one file. */
export class FileJobFailed extends Data.TaggedError("FileJobFailed")<{
  readonly path: string
  /** Name of an errno, `CHANGED` for a file that is not what was announced, or empty. */
  readonly code: string
  readonly reason: string
}> {}

interface Answer {
  readonly bytes?: number
  readonly hashes?: ReadonlyArray<string>
  readonly failed?: { readonly path: string; readonly code: string; readonly reason: string }
}

/** Files and bytes that one message to a thread holds at most: short enough for progress, long enough to be worth it. */
const batchFiles = 128
const batchBytes = 8 * 1024 * 1024
/** Most threads: beyond, the disk is the limit. */
const threadsMax = 4

const threads = (): number => Math.max(1, Math.min(os.availableParallelism(), threadsMax))

let workerUrl: string | undefined
/** As text in a blob, it is the same in a checkout and in the compiled program. */
const startWorker = (): Worker => {
  workerUrl ??= URL.createObjectURL(new Blob([workerText], { type: "text/javascript" }))
  return new Worker(workerUrl)
}

interface Batch {
  readonly indices: ReadonlyArray<number>
}

/** Large files first, so that no thread is left with one at the end. */
const toBatches = (jobs: ReadonlyArray<FileJob>): ReadonlyArray<Batch> => {
  const order = jobs.map((_, index) => index)
  const size = (index: number): number => jobs[index]!.sizeBytes
  order.sort((a, b) => size(b) - size(a) || a - b)
  const batches: Array<Batch> = []
  let indices: Array<number> = []
  let bytes = 0
  for (const index of order) {
    indices.push(index)
    bytes += size(index)
    if (indices.length < batchFiles && bytes < batchBytes) continue
    batches.push({ indices })
    indices = []
    bytes = 0
  }
  if (indices.length > 0) batches.push({ indices })
  return batches
}

const toFailure = (failed: NonNullable<Answer["failed"]>): FileJobFailed => new FileJobFailed(failed)

/**
 * Processes all files and answers their sha256 in the order of the jobs. `report` hears of progress: files done and bytes moved.
 * The first failure ends the others; so does interruption.
 */
export const processFiles = (
  jobs: ReadonlyArray<FileJob>,
  report: (files: number, bytes: number) => void = () => undefined
): Effect.Effect<ReadonlyArray<string>, FileJobFailed> =>
  Effect.callback((resume) => {
    if (jobs.length === 0) return resume(Effect.succeed([]))
    const batches = toBatches(jobs)
    const hashes: Array<string> = new Array(jobs.length)
    const workers: Array<Worker> = []
    let next = 0
    let done = 0
    const end = (result: Effect.Effect<ReadonlyArray<string>, FileJobFailed>): void => {
      for (const worker of workers) worker.terminate()
      resume(result)
    }
    const send = (worker: Worker): Batch | undefined => {
      const batch = batches[next++]
      if (batch !== undefined) {
        worker.postMessage({
          files: batch.indices.map((index) => {
            const { source, target, sizeBytes, below } = jobs[index]!
            return [source, target, sizeBytes, below]
          })
        })
      }
      return batch
    }
    const open = (): void => {
      const worker = startWorker()
      workers.push(worker)
      let batch: Batch | undefined
      worker.onmessage = ({ data }: MessageEvent<Answer>) => {
        if (data.failed !== undefined) return end(Effect.fail(toFailure(data.failed)))
        const finished = data.hashes === undefined ? undefined : batch
        report(finished?.indices.length ?? 0, data.bytes ?? 0)
        if (finished === undefined) return
        finished.indices.forEach((index, position) => {
          hashes[index] = data.hashes![position]!
        })
        done += 1
        if (done === batches.length) return end(Effect.succeed(hashes))
        batch = send(worker)
      }
      worker.onerror = (event) => end(Effect.die(new Error(`a file worker broke: ${event.message}`)))
      batch = send(worker)
    }
    for (let count = Math.min(threads(), batches.length); count > 0; count--) open()
    return Effect.sync(() => {
      for (const worker of workers) worker.terminate()
    })
  })

/** Makes everything that was written to the file system of a directory durable (syncfs(2)), without blocking this thread. */
export const syncFileSystem = (directory: string): Effect.Effect<void, FileJobFailed> =>
  Effect.callback((resume) => {
    const worker = startWorker()
    worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      worker.terminate()
      resume(data.failed === undefined ? Effect.void : Effect.fail(toFailure(data.failed)))
    }
    worker.onerror = (event) => resume(Effect.die(new Error(`a file worker broke: ${event.message}`)))
    worker.postMessage({ sync: directory })
    return Effect.sync(() => worker.terminate())
  })
