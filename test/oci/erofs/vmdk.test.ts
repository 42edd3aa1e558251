/** The flat VMDK: its text, and QEMU reading through it. */
import { describe, expect, test } from "bun:test"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { vmdkDescriptor } from "../../../src/oci/erofs/vmdk.ts"
import { have } from "../../support/mount.ts"

describe("a flat VMDK", () => {
  test("lists its extents in order, relative to itself", () => {
    const text = vmdkDescriptor("/home/cache/vmdk", [
      { path: "/home/cache/fsmeta/ab.erofs", bytes: 8192 },
      { path: "/home/cache/layers/cd.erofs", bytes: 2 ** 33 }
    ])
    expect(text.startsWith("# Disk DescriptorFile\nversion=1\n")).toBe(true)
    expect(text.split("\n").filter((line) => line.startsWith("RW"))).toEqual([
      'RW 16 FLAT "../fsmeta/ab.erofs" 0',
      'RW 16777216 FLAT "../layers/cd.erofs" 0'
    ])
  })

  test("refuses what the format can not say", () => {
    expect(() => vmdkDescriptor("/a", [{ path: "/a/b", bytes: 100 }])).toThrow(/sectors/)
    expect(() => vmdkDescriptor("/a", [{ path: "/a/b", bytes: 0 }])).toThrow(/sectors/)
    for (const name of ['a"b', "a\nb", "a:b", "x".repeat(600)]) {
      expect(() => vmdkDescriptor("/a", [{ path: `/a/${name}`, bytes: 512 }])).toThrow(/can not stand/)
    }
  })

  const qemu = "qemu-system-x86_64"
  if (!have(qemu)) test.skip("QEMU reads it: qemu-system-x86 is not installed", () => {})
  else
    test("shows QEMU one disk, also after it has moved and from another directory", async () => {
      const root = fs.mkdtempSync(path.join(os.tmpdir(), "bunker-vmdk-"))
      const extents = Array.from({ length: 5 }, (_, i) => ({
        path: path.join(root, "a", "layers", `${i}`),
        bytes: 4096 * (i + 1)
      }))
      try {
        fs.mkdirSync(path.join(root, "a", "layers"), { recursive: true })
        fs.mkdirSync(path.join(root, "a", "vmdk"))
        extents.forEach((extent, i) => {
          fs.writeFileSync(extent.path, Buffer.alloc(extent.bytes, i + 1))
        })
        fs.writeFileSync(path.join(root, "a", "vmdk", "x.vmdk"), vmdkDescriptor(path.join(root, "a", "vmdk"), extents))
        fs.renameSync(path.join(root, "a"), path.join(root, "b"))
        let at = 0
        const reads = extents.map(({ bytes }, i) => {
          at += bytes
          return `qemu-io d0 "read -P ${i + 1} ${at - bytes} ${bytes}"`
        })
        const drive = `if=none,id=d0,format=vmdk,readonly=on,file=${path.join(root, "b", "vmdk", "x.vmdk")}`
        const child = Bun.spawn(
          [qemu, "-M", "none", "-nodefaults", "-display", "none", "-monitor", "stdio", "-drive", drive],
          {
            cwd: "/",
            stdin: Buffer.from(
              [...reads, `qemu-io d0 "read -P 9 0 512"`, `qemu-io d0 "length"`, "quit", ""].join("\n")
            ),
            stdout: "pipe",
            stderr: "pipe"
          }
        )
        const output = await new Response(child.stdout).text()
        expect(await child.exited).toBe(0)
        expect(output.match(/^read \d+\/\d+ bytes/gm)!.length).toBe(extents.length + 1)
        // Only the last read asks for a pattern that is not there.
        expect(output.match(/Pattern verification failed/g)!.length).toBe(1)
        expect(output).toMatch(/^60 KiB/m)
      } finally {
        fs.rmSync(root, { recursive: true })
      }
    })
})
