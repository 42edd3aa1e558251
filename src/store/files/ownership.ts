/**
 * Says whether others could have put their own in the place of a file of the home, as ssh looks at its files: who owns it, who may
 * write to it, and the same of the directories on its way. Changes nothing.
 */
import fs from "node:fs"
import path from "node:path"

/** Shown for owners that a user namespace does not know (proc(5), `overflowuid`). */
const unknownOwner = 65_534

const ownUser = (): number => process.geteuid?.() ?? 0

type Stat = fs.Stats | fs.BigIntStats

/** The group of the user's own number has nobody else in it, as Debian and others make it. */
const othersMayWrite = (stat: Stat): boolean => {
  const [mode, gid] = [Number(stat.mode), Number(stat.gid)]
  return (mode & 0o002) !== 0 || ((mode & 0o020) !== 0 && gid !== 0 && gid !== ownUser())
}

const isOurs = ({ uid }: Stat): boolean => Number(uid) === 0 || Number(uid) === ownUser()

const ownerWords = (file: string, { uid }: Stat): string =>
  `${file} belongs to user ${uid}, not to you (user ${ownUser()})`
const modeWords = (file: string, { mode }: Stat): string =>
  `others may write to ${file} (mode ${(Number(mode) & 0o7777).toString(8).padStart(4, "0")}); 'chmod go-w ${file}'`

/** What is wrong with an open or found file of ours; undefined when nothing is. Sockets say with their mode who may connect. */
export const foreign = (file: string, stat: Stat): string | undefined => {
  if (!isOurs(stat)) return ownerWords(file, stat)
  return !stat.isSocket() && othersMayWrite(stat) ? modeWords(file, stat) : undefined
}

/** The same of a path, through links; undefined also when there is nothing. */
export const foreignFile = (file: string): string | undefined => {
  const stat = fs.statSync(file, { throwIfNoEntry: false })
  return stat === undefined ? undefined : foreign(file, stat)
}

/** Directories from the root down to the one that holds a path. */
const above = (file: string): ReadonlyArray<string> => {
  const parts = path.dirname(file).split("/").filter(Boolean)
  return ["/", ...parts.map((_, index) => `/${parts.slice(0, index + 1).join("/")}`)]
}

/** What is wrong with a directory on the way: in one with the sticky bit, as /tmp, what is ours stays in its place. */
const foreignAncestor = (directory: string): string | undefined => {
  const stat = fs.lstatSync(directory, { throwIfNoEntry: false })
  if (stat === undefined || stat.uid === unknownOwner) return undefined
  if (!isOurs(stat)) return ownerWords(directory, stat)
  if (stat.isSymbolicLink() || (stat.mode & 0o1000) !== 0) return undefined
  return othersMayWrite(stat) ? modeWords(directory, stat) : undefined
}

/** What is wrong with a directory that is there, itself or on its way, through links and as it is written. */
export const foreignDirectory = (directory: string): string | undefined => {
  const real = fs.realpathSync(directory)
  const ways = new Set([
    ...above(directory),
    ...(fs.lstatSync(directory).isSymbolicLink() ? [directory] : []),
    ...above(real)
  ])
  for (const each of ways) {
    const wrong = foreignAncestor(each)
    if (wrong !== undefined) return wrong
  }
  return foreignFile(real)
}
