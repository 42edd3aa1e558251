/** Calls the real library; starts no VM. */
import { describe, expect, it } from "bun:test"
import { CallFailed, errnoName, errnoNumber } from "../../src/ffi/errno.ts"
import { KRUN_API, openKrun } from "../../src/ffi/libkrun.ts"
import { locateLibkrun } from "../../src/ffi/locate.ts"

const library = locateLibkrun().path

describe("errno", () => {
  it("names numbers of either sign, and says so when there is no name", () => {
    expect([1, -22, 11, 95, 133, 41, 9999].map(errnoName)).toEqual([
      ...["EPERM", "EINVAL", "EAGAIN", "EOPNOTSUPP", "EHWPOISON", "errno 41", "errno 9999"]
    ])
    for (let number = 1; number <= 133; number += 1) {
      const name = errnoName(number)
      if (!name.startsWith("errno")) expect(errnoNumber(name)).toBe(number)
    }
  })
})

describe.skipIf(library === undefined)("libkrun", () => {
  const refusal = (run: () => unknown): string => {
    try {
      run()
    } catch (cause) {
      if (cause instanceof CallFailed) return `${cause.call}: ${cause.argument}: ${cause.errno}`
      throw cause
    }
    return "accepted"
  }

  it("has every symbol of the table in the packaged build", () => {
    expect(() => openKrun(library!, Object.keys(KRUN_API) as ReadonlyArray<keyof typeof KRUN_API>)).not.toThrow()
  })

  it("turns a negative result into the call's name, argument and errno", () => {
    const krun = openKrun(library!, [
      "krun_set_vm_config",
      "krun_create_ctx",
      "krun_set_console_output",
      "krun_free_ctx"
    ])
    expect(refusal(() => krun.call("krun_set_vm_config", 4_000_000, 1, 256))).toBe("krun_set_vm_config: 1, 256: ENOENT")
    const context = krun.call("krun_create_ctx")
    krun.call("krun_set_console_output", context, "/tmp/a")
    expect(refusal(() => krun.call("krun_set_console_output", context, "/tmp/b"))).toBe(
      "krun_set_console_output: /tmp/b: EINVAL"
    )
    krun.call("krun_free_ctx", context)
  })

  it("refuses what would crash, abort or hang the process", () => {
    const krun = openKrun(library!, [
      "krun_create_ctx",
      "krun_set_exec",
      "krun_add_disk2",
      "krun_set_vm_config",
      "krun_add_net_unixstream"
    ])
    const context = krun.call("krun_create_ctx")
    const exec = (word: string, words: ReadonlyArray<string>) =>
      refusal(() => krun.call("krun_set_exec", context, word, [], words))
    expect(exec("/init", ["root=/dev/vda"])).toBe("accepted")
    for (const word of ["ü", "a b", "a\tb", "a\nb", 'a"b', "a\\b", "a\0b"]) {
      expect(exec("/init", [word])).toEndWith("EINVAL")
      expect(exec(word, [])).toEndWith("EINVAL")
    }
    expect(
      exec(
        "/init",
        Array.from({ length: 32 }, () => "a")
      )
    ).toEndWith("EINVAL")
    expect(exec("/init", ["a".repeat(2049)])).toEndWith("EINVAL")
    const hostile = (path: unknown) => refusal(() => krun.call("krun_add_disk2", context, "d", path as string, 0, true))
    for (const path of [null, undefined, 7, "a\0b", "a".repeat(4096)]) expect(hostile(path)).toEndWith("EINVAL")
    expect(refusal(() => krun.call("krun_set_vm_config", context, 256, 256))).toEndWith("EINVAL")
    expect(refusal(() => krun.call("krun_set_vm_config", context, 1, 1.5))).toEndWith("EINVAL")
    const mac = new Uint8Array(5)
    expect(refusal(() => krun.call("krun_add_net_unixstream", context, null, -1, mac, 0, 0))).toEndWith("EINVAL")
  })
})
