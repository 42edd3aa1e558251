/**
 * Makes `bunker-sandbox-linux-x64`: what a sandbox needs of this machine that is not JavaScript, each file once. Compiles our own
 * programs; libkrun, the kernel and mke2fs are those of the optional dependency `libkrun-linux-x64`.
 */
import fs from "node:fs"
import path from "node:path"
import { output } from "./pack.ts"

export interface Native {
  /** The directory that becomes the npm package. */
  readonly package: string
}

/** Our own programs: name in the package, and what compiles it. */
const programs: Readonly<Record<string, string>> = {
  agent: "native/guest/build.sh",
  launcher: "native/launcher/build.sh",
  "mount-helper": "native/mount-helper/build.sh",
  bunker: "native/fastpath/build.sh"
}

/** Files of the optional dependency, with their modes. */
const libraries: Readonly<Record<string, number>> = {
  "libkrun.so.1.16.0": 0o755,
  "libkrunfw.so.5": 0o755,
  mke2fs: 0o755
}

const notice = `Files of this package and their licences

agent, launcher, mount-helper, bunker
  Bunker's own; Apache-2.0 (LICENSE). Those that are static contain a C library: musl (MIT) or glibc (LGPL-2.1).
libkrun.so.1.16.0
  libkrun, https://github.com/containers/libkrun; Apache-2.0. As it is in the npm package @boxlite-ai/boxlite-linux-x64-gnu.
libkrunfw.so.5
  libkrunfw, https://github.com/containers/libkrunfw: a Linux kernel as a library; the library's code is LGPL-2.1, the kernel in it
  GPL-2.0-only. Its sources and the patches are at that address, under the tags of version 5. From the same npm package.
mke2fs
  e2fsprogs, https://e2fsprogs.sourceforge.net; GPL-2.0. From the same npm package. A system's own mke2fs is taken before it.
`

/** Compiles and copies; the same compiler makes the same bytes. */
export const nativeFiles = (root: string, directory: string, version: string): Native => {
  const files = path.join(directory, "native")
  fs.mkdirSync(files, { recursive: true })
  for (const [name, script] of Object.entries(programs)) {
    output(["sh", path.join(root, script), path.join(files, name)])
    if (fs.statSync(path.join(files, name)).size === 0) throw new Error(`package: ${script} could not compile ${name}`)
  }
  const runtime = path.join(root, "node_modules/libkrun-linux-x64/runtime")
  for (const [name, mode] of Object.entries(libraries)) {
    fs.copyFileSync(path.join(runtime, name), path.join(files, name))
    fs.chmodSync(path.join(files, name), mode)
  }
  const names = [...Object.keys(programs), ...Object.keys(libraries)].sort()
  // As imports with a type, so that `bun build --compile` takes the files along.
  const imports = names.map((name, at) => `import file${at} from "./native/${name}" with { type: "file" }\n`).join("")
  const entries = names.map((name, at) => `  ${JSON.stringify(name)}: file${at}`).join(",\n")
  fs.writeFileSync(path.join(directory, "index.js"), `${imports}\nexport default {\n${entries}\n}\n`)
  fs.writeFileSync(
    path.join(directory, "index.d.ts"),
    "/** Paths of the files, by their names. */\ndeclare const files: Readonly<Record<string, string>>\nexport default files\n"
  )
  fs.writeFileSync(path.join(directory, "NOTICE"), notice)
  fs.copyFileSync(path.join(root, "LICENSE"), path.join(directory, "LICENSE"))
  fs.writeFileSync(
    path.join(directory, "README.md"),
    "# bunker-sandbox-linux-x64\n\nThe native files of `bunker-sandbox` for Linux on x86-64. Install `bunker-sandbox`, which brings this package along.\n"
  )
  fs.writeFileSync(
    path.join(directory, "package.json"),
    `${JSON.stringify(
      {
        name: "bunker-sandbox-linux-x64",
        version,
        description: "The native files of bunker-sandbox for Linux on x86-64.",
        license: "Apache-2.0 AND GPL-2.0-only AND LGPL-2.1-only",
        type: "module",
        exports: { ".": { types: "./index.d.ts", default: "./index.js" }, "./package.json": "./package.json" },
        os: ["linux"],
        cpu: ["x64"],
        files: ["index.js", "index.d.ts", "native", "NOTICE"]
      },
      undefined,
      2
    )}\n`
  )
  return { package: directory }
}
