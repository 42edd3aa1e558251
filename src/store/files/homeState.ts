/**
 * Tells a process that lives long whether the home directory that it works in is still the one that it began with. Looks at the
 * database and at one sandbox's directory, by inode; changes nothing.
 */
import fs from "node:fs"
import type { SafeName } from "../../domain/name.ts"
import type { Paths } from "./Paths.ts"

/**
 * `whole`: all is as it was. `lost`: the database is gone, the sandbox's files are there. `replaced`: the same, and another database
 * is in its place. `gone`: the sandbox's files are not there either, or are others of their name.
 */
export type Footing = "whole" | "lost" | "replaced" | "gone"

/** What identifies a file; undefined when there is none. What can not be looked at now (a stale network disk) counts as `before`. */
const identityOf = (file: string, before?: string): string | undefined => {
  try {
    const stat = fs.statSync(file, { throwIfNoEntry: false })
    return stat === undefined ? undefined : `${stat.dev}:${stat.ino}`
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === "ENOTDIR" ? undefined : before
  }
}

/** Remembers the files of a sandbox now; the answer looks whether they are the same. */
export const footingOf = (paths: Paths["Service"], name: SafeName): (() => Footing) => {
  const { directory } = paths.sandbox(name)
  const database = identityOf(paths.database)
  const files = identityOf(directory)
  return () => {
    const found = identityOf(paths.database, database)
    if (found === database) return "whole"
    if (identityOf(directory, files) !== files) return "gone"
    return found === undefined ? "lost" : "replaced"
  }
}
