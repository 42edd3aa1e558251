/**
 * Finds libkrun and libkrunfw on this machine and tells every place looked at on the way.
 * Order: the path the user named, the directory of native files that was named, the system loader's directories, the executable's own
 * directory, the npm packages `bunker-sandbox-linux-x64` and `libkrun-linux-x64` in a node_modules above this module or above the
 * executable. Loads nothing and reads no environment variable.
 */
import fs from "node:fs"
import path from "node:path"

export interface Located {
  /** Absolute path, symbolic links resolved; undefined when no place had it. */
  readonly path: string | undefined
  /** The places that did not have it, in the order of the search, each with what was wrong there. */
  readonly looked: ReadonlyArray<string>
}

export interface LocateOptions {
  /** A path that the user named; when it is given, nothing else is tried. */
  readonly explicit?: string | undefined
  /** The directory of native files that the user named, or that the program unpacked. */
  readonly native?: string | undefined
  /** Directories below which a node_modules is looked for, and in all their parents. Default: of this module, of the executable. */
  readonly from?: ReadonlyArray<string>
  /** Directories of the system loader. Default: ld.so's configuration and built-in ones. */
  readonly loader?: ReadonlyArray<string>
}

const NPM_DIRECTORIES = [
  path.join("node_modules", "bunker-sandbox-linux-x64", "native"),
  path.join("node_modules", "libkrun-linux-x64", "runtime")
]

/** Finds libkrun with the stable interface 1. */
export const locateLibkrun = (options: LocateOptions = {}): Located => locate("libkrun.so.1", "BUNKER_LIBKRUN", options)

/** Finds the kernel bundle with interface 5, the one that libkrun 1.16 loads. */
export const locateLibkrunfw = (options: LocateOptions = {}): Located =>
  locate("libkrunfw.so.5", "BUNKER_LIBKRUNFW", options)

const locate = (soname: string, variable: string, options: LocateOptions): Located => {
  if (options.explicit !== undefined) {
    const problem = unusable(options.explicit)
    if (problem === undefined) return { path: fs.realpathSync(options.explicit), looked: [] }
    return { path: undefined, looked: [`${options.explicit} (named by ${variable}: ${problem})`] }
  }
  const looked: Array<string> = []
  const named = options.native === undefined ? [] : [options.native]
  for (const directory of named) {
    const file = versioned(directory, soname)
    const problem = file === undefined ? "missing" : unusable(file)
    if (file !== undefined && problem === undefined) return { path: fs.realpathSync(file), looked }
    looked.push(file === undefined ? path.join(directory, `${soname}*`) : `${file} (${problem})`)
  }
  for (const directory of options.loader ?? loaderDirectories()) {
    const file = path.join(directory, soname)
    const problem = unusable(file)
    if (problem === undefined) return { path: fs.realpathSync(file), looked }
    looked.push(problem === "missing" ? file : `${file} (${problem})`)
  }
  for (const directory of packageDirectories(options.from ?? defaultStarts())) {
    const file = versioned(directory, soname)
    if (file === undefined) looked.push(path.join(directory, `${soname}*`))
    else {
      const problem = unusable(file)
      if (problem === undefined) return { path: fs.realpathSync(file), looked }
      looked.push(`${file} (${problem})`)
    }
  }
  return { path: undefined, looked }
}

/** Places where another file that comes with the libraries may be, best first; nothing says that it is there. */
export const packageFiles = (name: string): ReadonlyArray<string> =>
  [...packageDirectories(defaultStarts())].map((directory) => path.join(directory, name))

const defaultStarts = (): ReadonlyArray<string> => [import.meta.dirname, path.dirname(process.execPath)]

/** What keeps a file from being a shared library of this machine, or undefined: looks at its type and its first bytes. */
const unusable = (file: string): string | undefined => {
  let fd: number
  try {
    fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code
    return code === "ENOENT" || code === "ENOTDIR" ? "missing" : `can not be opened: ${code}`
  }
  try {
    if (!fs.fstatSync(fd).isFile()) return "not a file"
    const head = Buffer.alloc(20)
    const elf = fs.readSync(fd, head, 0, 20, 0) === 20 && head.subarray(0, 6).equals(ELF64_LITTLE_ENDIAN)
    if (!elf || head.readUInt16LE(16) !== ET_DYN) return "not a shared library"
    return head.readUInt16LE(18) === EM_X86_64 ? undefined : "built for another processor"
  } finally {
    fs.closeSync(fd)
  }
}

const ELF64_LITTLE_ENDIAN = Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1])
const ET_DYN = 3
const EM_X86_64 = 62

/** The package ships files with a full version in the name: the soname itself, or the first `soname.…`. */
const versioned = (directory: string, soname: string): string | undefined => {
  try {
    const found = fs.readdirSync(directory).filter((name) => name === soname || name.startsWith(`${soname}.`))
    return found.length === 0 ? undefined : path.join(directory, found.sort()[0]!)
  } catch {
    return undefined
  }
}

/** The executable's own directory, and those of the packages beside each start and each of its parents; each place once. */
const packageDirectories = (starts: ReadonlyArray<string>): ReadonlySet<string> => {
  const places = new Set<string>([path.dirname(process.execPath)])
  for (const start of starts) {
    // A compiled executable's modules live in /$bunfs, which has no parents on a disk.
    if (start.startsWith("/$bunfs")) continue
    for (let at = path.resolve(start); ; at = path.dirname(at)) {
      for (const directory of NPM_DIRECTORIES) places.add(path.join(at, directory))
      if (path.dirname(at) === at) break
    }
  }
  return places
}

/** The directories of ld.so.conf (one level of include, as distributions have it), then the built-in ones. */
const loaderDirectories = (): ReadonlyArray<string> => {
  const directories = new Set<string>()
  const readConfiguration = (file: string, deep: boolean): void => {
    let text: string
    try {
      text = fs.readFileSync(file, "utf8")
    } catch {
      return
    }
    for (const line of text.split("\n")) {
      const words = line.replace(/#.*/, "").trim()
      if (words.startsWith("/")) directories.add(words)
      if (deep && words.startsWith("include "))
        for (const each of included(words.slice(8).trim())) readConfiguration(each, false)
    }
  }
  readConfiguration("/etc/ld.so.conf", true)
  for (const directory of [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib"
  ]) {
    directories.add(directory)
  }
  return [...directories]
}

const included = (pattern: string): ReadonlyArray<string> => {
  const directory = path.dirname(path.resolve("/etc", pattern))
  try {
    return fs
      .readdirSync(directory)
      .filter((name) => name.endsWith(".conf"))
      .sort()
      .map((name) => path.join(directory, name))
  } catch {
    return []
  }
}
