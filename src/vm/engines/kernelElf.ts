/**
 * Wraps libkrunfw's kernel into an ELF file that plain QEMU boots with `-kernel`, so that both engines run one kernel.
 * Does not change a byte of the kernel and does not choose its command line.
 */
import fs from "node:fs"
import path from "node:path"
import type { BundledKernel } from "../../ffi/libkrunfw.ts"
import { readKernel } from "../../ffi/libkrunfw.ts"
import { publish } from "./publish.ts"

const HEADER_BYTES = 4096
const NOTE_OFFSET = 256
const PT_LOAD = 1
const PT_NOTE = 4
const READ_WRITE_EXECUTE = 7
const READ = 4

/**
 * The note that names the kernel's PVH entry, a 32-bit physical address: name size 4, description size 8, type 18, "Xen".
 * Format: xen/include/public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY. QEMU looks for it in a PT_NOTE segment.
 */
const PVH_NOTE_HEAD = Buffer.from("04000000080000001200000058656e00", "hex")
const PVH_NOTE_BYTES = 24

/** The kernel in the bundle has no PVH entry, so no machine without firmware can start it. */
export class NoPvhEntry extends Error {}

/** Header and kernel image, to be written one after the other. Format: ELF-64 with one load and one note segment. */
export const kernelElf = (kernel: BundledKernel): readonly [header: Uint8Array, image: Uint8Array] => {
  const image = Buffer.from(kernel.image.buffer, kernel.image.byteOffset, kernel.image.length)
  const noteAt = image.indexOf(PVH_NOTE_HEAD)
  if (noteAt < 0 || noteAt + PVH_NOTE_BYTES > image.length) throw new NoPvhEntry("the kernel has no PVH entry")
  const header = Buffer.alloc(HEADER_BYTES)
  header.write("\x7fELF", 0, "latin1")
  header.set([2, 1, 1], 4) // 64 bit, little endian, version 1
  header.writeUInt16LE(2, 16) // ET_EXEC
  header.writeUInt16LE(62, 18) // EM_X86_64
  header.writeUInt32LE(1, 20)
  header.writeBigUInt64LE(kernel.entryAddress, 24)
  header.writeBigUInt64LE(64n, 32) // program headers follow the file header
  header.writeUInt16LE(64, 52)
  header.writeUInt16LE(56, 54)
  header.writeUInt16LE(2, 56)
  const segment = (index: number, type: number, flags: number, offset: number, address: bigint, bytes: number) => {
    const at = 64 + 56 * index
    header.writeUInt32LE(type, at)
    header.writeUInt32LE(flags, at + 4)
    header.writeBigUInt64LE(BigInt(offset), at + 8)
    header.writeBigUInt64LE(address, at + 16)
    header.writeBigUInt64LE(address, at + 24)
    header.writeBigUInt64LE(BigInt(bytes), at + 32)
    header.writeBigUInt64LE(BigInt(bytes), at + 40)
    header.writeBigUInt64LE(type === PT_LOAD ? 4096n : 4n, at + 48)
  }
  segment(0, PT_LOAD, READ_WRITE_EXECUTE, HEADER_BYTES, kernel.loadAddress, image.length)
  segment(1, PT_NOTE, READ, NOTE_OFFSET, 0n, PVH_NOTE_BYTES)
  image.copy(header, NOTE_OFFSET, noteAt, noteAt + PVH_NOTE_BYTES)
  return [header, image]
}

/** A short name for a file as it is now: changes with its place, size or time of change, without reading it. */
export const fileKey = (file: string): string => {
  const stat = fs.statSync(file, { bigint: true })
  const text = `${fs.realpathSync(file)} ${stat.size} ${stat.mtimeNs} ${stat.ino}`
  return new Bun.CryptoHasher("sha256").update(text).digest("hex").slice(0, 32)
}

/** Path of the ELF file for this bundle, made on the first call. Throws NoPvhEntry, or what the loader or node:fs throws. */
export const cachedKernelElf = (bootCacheDir: string, libkrunfw: string): string => {
  const file = path.join(bootCacheDir, `${fileKey(libkrunfw)}.elf`)
  if (!fs.existsSync(file)) publish(file, kernelElf(readKernel(libkrunfw)))
  return file
}
