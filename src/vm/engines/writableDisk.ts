/**
 * Makes the writable disk of a persistent sandbox: a sparse ext4 image, formatted by mke2fs. Mounts nothing.
 * A disk that exists may grow, and never shrinks.
 */

import fs from "node:fs"
import path from "node:path"
import { Effect } from "effect"
import { StoreFailed } from "../../domain/errors/store.ts"
import { LibraryNotFound } from "../../domain/errors/vm.ts"
import { packageFiles } from "../../ffi/locate.ts"
import type { FileError } from "../../store/files/files.ts"
import { attemptFile, ingest } from "../../store/files/files.ts"

const directories = ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"]

/** The system's mke2fs, else the one that comes with the libkrun package. */
const locateMke2fs = (): Effect.Effect<string, LibraryNotFound> => {
  // sbin is in nobody's PATH but root's.
  const inPath = Bun.which("mke2fs")
  if (inPath !== null) return Effect.succeed(inPath)
  const places = ["PATH", ...directories.map((directory) => path.join(directory, "mke2fs")), ...packageFiles("mke2fs")]
  const found = places.find((place) => fs.existsSync(place))
  if (found !== undefined) return Effect.succeed(found)
  return Effect.fail(
    new LibraryNotFound({
      library: "mke2fs",
      looked: places,
      advice: "install e2fsprogs, or use an ephemeral sandbox (bunker run)"
    })
  )
}

/**
 * Creates `file` with `sizeMb` MiB; a crash leaves no half-made disk. One that exists and is smaller gets that long, and its file
 * system grows when the guest mounts it; one that is larger stays as it is.
 */
export const ensureUpper = Effect.fn("Vm.ensureUpper")(function* (
  file: string,
  sizeMb: number
): Effect.fn.Return<void, FileError | LibraryNotFound> {
  const size = fs.statSync(file, { throwIfNoEntry: false })?.size
  if (size !== undefined) {
    const wanted = sizeMb * 1024 * 1024
    if (size < wanted) yield* attemptFile("grow", file, () => fs.truncateSync(file, wanted))
    return
  }
  const mke2fs = yield* locateMke2fs()
  yield* ingest(path.dirname(file), file, (temporary) =>
    Effect.gen(function* () {
      yield* attemptFile("create", temporary, () => {
        fs.writeFileSync(temporary, "", { mode: 0o600, flag: "wx" })
        fs.truncateSync(temporary, sizeMb * 1024 * 1024)
      })
      yield* format(mke2fs, temporary)
    })
  )
})

/** Tables are initialised by the guest's kernel when it needs them, so the image stays sparse and formatting is fast. */
const format = (mke2fs: string, file: string): Effect.Effect<void, StoreFailed> =>
  Effect.promise(async () => {
    const options = ["-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"]
    const child = Bun.spawn([mke2fs, ...options, file], {
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" },
      stdio: ["ignore", "ignore", "pipe"]
    })
    const complaint = await new Response(child.stderr).text()
    return { code: await child.exited, complaint: complaint.trim().slice(0, 400) }
  }).pipe(
    Effect.flatMap(({ code, complaint }) =>
      code === 0
        ? Effect.void
        : Effect.fail(
            new StoreFailed({ operation: "format", path: file, reason: complaint || `mke2fs ended with ${code}` })
          )
    )
  )
