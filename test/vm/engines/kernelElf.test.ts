/** Wraps the packaged kernel; a real boot of it is in engine.test.ts. */
import { afterAll, describe, expect, it } from "bun:test"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { readKernel } from "../../../src/ffi/libkrunfw.ts"
import { locateLibkrunfw } from "../../../src/ffi/locate.ts"
import { cachedKernelElf, kernelElf, NoPvhEntry } from "../../../src/vm/engines/kernelElf.ts"

const library = locateLibkrunfw().path
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "bunker-elf-"))
afterAll(() => fs.rmSync(scratch, { recursive: true, force: true }))

describe.skipIf(library === undefined)("kernel ELF", () => {
  it("keeps the kernel whole and adds the note that QEMU looks for", () => {
    const kernel = readKernel(library!)
    const [header, image] = kernelElf(kernel)
    expect(Buffer.compare(image, kernel.image)).toBe(0)
    const view = Buffer.from(header)
    expect(view.readBigUInt64LE(24)).toBe(kernel.entryAddress)
    expect(view.readBigUInt64LE(64 + 24)).toBe(kernel.loadAddress)
    expect(Number(view.readBigUInt64LE(64 + 32))).toBe(kernel.image.length)
    const note = Number(view.readBigUInt64LE(64 + 56 + 8))
    expect([0, 4, 8].map((at) => view.readUInt32LE(note + at))).toEqual([4, 8, 18])
    expect(view.toString("latin1", note + 12, note + 15)).toBe("Xen")
    const entry = view.readBigUInt64LE(note + 16)
    expect(entry >= kernel.loadAddress && entry < kernel.loadAddress + BigInt(image.length)).toBe(true)
  })

  it("is made once", () => {
    const file = cachedKernelElf(scratch, library!)
    const { ino } = fs.statSync(file)
    expect(fs.statSync(cachedKernelElf(scratch, library!)).ino).toBe(ino)
    expect(fs.readdirSync(scratch)).toEqual([path.basename(file)])
  })

  it("refuses a kernel without a PVH entry, also when the note is cut off", () => {
    const none = { loadAddress: 1n, entryAddress: 1n, image: new Uint8Array(64) }
    expect(() => kernelElf(none)).toThrow(NoPvhEntry)
    const cut = { ...none, image: Buffer.from("04000000080000001200000058656e00", "hex") }
    expect(() => kernelElf(cut)).toThrow(NoPvhEntry)
  })
})
