/**
 * Names the steps of a change to the image cache at which a test may end the process, and tells whoever watches them.
 * Nobody does unless a test provides a watcher: no code of the program does, so no variable of a released binary can.
 */
import { Context, Effect } from "effect"

/** Kinds of files that are published; each has the steps `KIND.synced`, `KIND.renamed` and `KIND.published`. */
type FileKind = "layer" | "fsmeta" | "vmdk"

/** A step that has just been done. */
export type Step =
  | "token"
  | "manifest"
  | "lease.held"
  | "layer.locked"
  | "blob.half"
  | "blob.whole"
  | "layer.converted"
  | "fsmeta.built"
  | `${FileKind}.${"synced" | "renamed" | "published"}`
  | "layer.recorded"
  | "image.half-recorded"
  | "image.recorded"
  | "lease.dropped"
  | "load.opened"
  | "collect.half-deleted"
  | "collect.deleted"
  | "collect.file-removed"

export type Watcher = (step: Step) => void

/** Default: nobody watches. */
export const Failpoint = Context.Reference<Watcher>("bunker/Failpoint", { defaultValue: () => () => undefined })

/** Tells the watcher of this fiber. */
export const reach = (step: Step): Effect.Effect<void> => Effect.map(Failpoint, (watch) => watch(step))

/** The steps of publishing one file of a kind; none for other files. */
export const publishing = (
  kind: FileKind | undefined,
  step: "synced" | "renamed" | "published"
): Effect.Effect<void> => (kind === undefined ? Effect.void : reach(`${kind}.${step}`))
