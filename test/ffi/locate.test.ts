/** Looks for libraries in directories made for the test. */
import { afterEach, beforeEach, describe, expect, it } from "bun:test"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { locateLibkrun, locateLibkrunfw, packageFiles } from "../../src/ffi/locate.ts"

let scratch = ""
beforeEach(() => {
  scratch = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), "bunker-locate-")))
})
afterEach(() => fs.rmSync(scratch, { recursive: true, force: true }))

const sharedLibrary = (file: string, machine = 62): string => {
  fs.mkdirSync(path.dirname(file), { recursive: true })
  const head = Buffer.alloc(64)
  head.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1])
  head.writeUInt16LE(3, 16)
  head.writeUInt16LE(machine, 18)
  fs.writeFileSync(file, head)
  return file
}

describe("locate", () => {
  it("finds the packaged library in a checkout", () => {
    expect(locateLibkrun({ loader: [] }).path).toContain("node_modules/libkrun-linux-x64/runtime/libkrun.so.1")
    expect(locateLibkrunfw({ loader: [] }).path).toContain("libkrunfw.so.5")
    expect(packageFiles("mke2fs").some((file) => fs.existsSync(file))).toBe(true)
  })

  it("takes a named path and nothing else", () => {
    const file = sharedLibrary(path.join(scratch, "mine.so"))
    expect(locateLibkrun({ explicit: file }).path).toBe(file)
    const wrong = locateLibkrun({ explicit: "/etc/passwd" })
    expect(wrong.path).toBeUndefined()
    expect(wrong.looked).toEqual(["/etc/passwd (named by BUNKER_LIBKRUN: not a shared library)"])
    expect(locateLibkrunfw({ explicit: path.join(scratch, "none") }).looked.join()).toContain("missing")
  })

  it("prefers the system's library to the package", () => {
    const system = sharedLibrary(path.join(scratch, "lib", "libkrun.so.1"))
    const deep = path.join(scratch, "node_modules/libkrun-linux-x64/runtime/libkrun.so.1.16.0")
    sharedLibrary(deep)
    const from = [path.join(scratch, "a", "b")]
    expect(locateLibkrun({ loader: [path.join(scratch, "lib")], from }).path).toBe(system)
    expect(locateLibkrun({ loader: [], from }).path).toBe(deep)
  })

  it("lists every place, and what was wrong there", () => {
    const other = sharedLibrary(path.join(scratch, "arm", "libkrun.so.1"), 183)
    fs.mkdirSync(path.join(scratch, "dir", "libkrun.so.1"), { recursive: true })
    const loader = [path.dirname(other), path.join(scratch, "dir"), path.join(scratch, "empty")]
    const { path: found, looked } = locateLibkrun({ loader, from: [path.join(scratch, "x")] })
    expect(found).toBeUndefined()
    expect(looked.slice(0, 3)).toEqual([
      `${other} (built for another processor)`,
      `${path.join(scratch, "dir", "libkrun.so.1")} (not a file)`,
      path.join(scratch, "empty", "libkrun.so.1")
    ])
    expect(looked).toContain(path.join(scratch, "x/node_modules/libkrun-linux-x64/runtime/libkrun.so.1*"))
    expect(looked).toContain("/node_modules/libkrun-linux-x64/runtime/libkrun.so.1*")
  })
})
