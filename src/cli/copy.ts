/** The two sides of `cp`: paths of this machine, of a sandbox, and tar streams. What was left out is told on stderr. */

import { Effect, Stream } from "effect"
import * as Trees from "../actors/copying/copyTree.ts"
import { writeGuestFile } from "../actors/copying/fileTransfer.ts"
import { recordsOf, tarOf } from "../actors/copying/tarTree.ts"
import { type FileTarget, rootOf, shownGuest } from "../actors/copying/treeStream.ts"
import { harmless } from "../domain/terminalText.ts"
import { say, writeAll } from "./terminal/output.ts"

type CopyOptions = Trees.CopyOptions

/** One side of a copy: a tar stream, a path here, or a path in a sandbox. */
export type Endpoint =
  | { readonly _tag: "Stream" }
  | { readonly _tag: "Here"; readonly path: string }
  | { readonly _tag: "Guest"; readonly name: string; readonly path: string }

/** `-`, `NAME:PATH` or a path of this machine; one with a colon in its first part needs `./` before it. */
export const parseEndpoint = (text: string): Endpoint => {
  if (text === "-") return { _tag: "Stream" }
  const match = /^([^/:]+):(.*)$/s.exec(text)
  if (match === null) return { _tag: "Here", path: text }
  const inside = match[2]!
  return { _tag: "Guest", name: match[1]!, path: inside.startsWith("/") ? inside : `/${inside}` }
}

const warn = (skipped: ReadonlyArray<string>) =>
  Effect.forEach(skipped, (what) => say(`bunker: not copied: ${harmless(what)}`), { discard: true })

/** Copies a path of this machine into a sandbox. */
export const copyIn = Effect.fn("Cli.copyIn")(function* (source: string, to: FileTarget, options: CopyOptions) {
  yield* warn(yield* Trees.copyIn(source, to, options, writeGuestFile))
})

/** Copies a path of a sandbox to this machine. */
export const copyOut = Effect.fn("Cli.copyOut")(function* (from: FileTarget, to: string, options: CopyOptions) {
  yield* warn(yield* Trees.copyOut(from, to, options))
})

/** Unpacks a tar stream on stdin below a directory of a sandbox. */
export const unpackIn = Effect.fn("Cli.unpackIn")(function* (to: FileTarget, options: CopyOptions) {
  const skipped: Array<string> = []
  const records = recordsOf(process.stdin as AsyncIterable<Buffer>, {
    shown: "the tar stream on stdin",
    skipped: (what) => void skipped.push(what)
  })
  yield* writeGuestFile({ ...to, tree: true, owners: options.archive }, records)
  yield* warn(skipped)
})

/** Writes a path of a sandbox to stdout as a tar stream. */
export const packOut = Effect.fn("Cli.packOut")(function* (from: FileTarget, options: CopyOptions) {
  yield* Trees.sourceType(from, options)
  const skipped: Array<string> = []
  const tar = tarOf(Trees.readTree(from, options), {
    root: rootOf(from.path),
    shown: shownGuest(from),
    skipped: (what) => void skipped.push(what)
  })
  yield* Stream.runForEach(tar, (bytes) => writeAll(1, bytes))
  yield* warn(skipped)
})
