/** Where a home would show through shares, told from tables of mounts. */
import { describe, expect, test } from "bun:test"
import { hiddenPlaces, parseMounts } from "../../src/vm/engines/hiddenPlaces.ts"

/** `device root at`, one mount a line. */
const mountsOf = (text: string) =>
  parseMounts(
    text
      .trim()
      .split("\n")
      .map((line, index) => {
        const [device, root, at] = line.trim().split(" ")
        return `${index + 20} 1 ${device} ${root} ${at} rw,relatime - ext4 /dev/x rw`
      })
      .join("\n")
  )

const home = "/home/me/.bunker"
const cases: ReadonlyArray<
  readonly [what: string, mounts: string, share: string, hidden: ReadonlyArray<string> | "inside"]
> = [
  ["one beside it", "8:1 / /", "/srv", []],
  ["one with its name before another", "8:1 / /", "/home/me/.bunker2", []],
  ["one that contains it", "8:1 / /", "/home", ["me/.bunker"]],
  ["the root", "8:1 / /", "/", ["home/me/.bunker"]],
  ["itself", "8:1 / /", home, "inside"],
  ["one inside of it", "8:1 / /", `${home}/cache`, "inside"],
  ["a bind mount of it", `8:1 / /\n8:1 ${home} /mnt`, "/mnt", "inside"],
  ["a bind mount of a part of it", `8:1 / /\n8:1 ${home}/cache/layers /mnt`, "/mnt", "inside"],
  ["a part of a bind mount of it", `8:1 / /\n8:1 ${home} /mnt`, "/mnt/sessions", "inside"],
  ["a bind mount of what contains it", "8:1 / /\n8:1 /home /mnt", "/mnt", ["me/.bunker"]],
  ["the same of the root", "8:1 / /\n8:1 / /mnt", "/mnt/home/me", [".bunker"]],
  ["one with a bind mount of it below", `8:1 / /\n8:1 ${home} /srv/a/b`, "/srv", ["a/b"]],
  ["one with a bind mount of a part of it below", `8:1 / /\n8:1 ${home}/cache /srv/a`, "/srv", ["a"]],
  ["one with a bind mount of the root below", "8:1 / /\n8:1 / /srv/a", "/srv", ["a/home/me/.bunker"]],
  ["one of another disk at the same path", "8:1 / /\n8:2 / /mnt", "/mnt", []],
  ["a home that is a mount", `8:1 / /\n8:2 /b ${home}`, "/home", ["me/.bunker"]],
  ["the disk of a home that is a mount", `8:1 / /\n8:2 /b ${home}\n8:2 / /mnt`, "/mnt", ["b"]],
  ["what is mounted in the home", `8:1 / /\n8:3 / ${home}/cache\n8:3 / /mnt`, "/mnt", "inside"],
  ["the disk of what is mounted in the home", `8:1 / /\n8:3 /c ${home}/cache\n8:3 / /mnt`, "/mnt", ["c"]],
  ["one where something covers it", `8:1 / /\n8:1 / /mnt\n8:9 / /mnt/home`, "/mnt", []],
  ["a place that a later mount covers", `8:1 / /\n8:1 ${home} /srv/a\n8:9 / /srv/a`, "/srv/a", []],
  ["a name with a blank", `8:1 / /\n8:1 ${home} /mnt/a\\040b`, "/mnt", ["a b"]]
]

describe("a share", () => {
  test.each(cases)("%s", (_, mounts, share, hidden) => {
    expect(hiddenPlaces(mountsOf(mounts), share, [home])).toEqual(hidden)
  })

  test("hides where links in the home lead, too", () => {
    expect(hiddenPlaces(mountsOf("8:1 / /"), "/data", [home, "/data/cache"])).toEqual(["cache"])
    expect(hiddenPlaces(mountsOf("8:1 / /"), "/data/cache/layers", [home, "/data/cache"])).toBe("inside")
  })

  test("names the outermost place alone", () => {
    expect(hiddenPlaces(mountsOf("8:1 / /"), "/home", [home, `${home}/cache`])).toEqual(["me/.bunker"])
  })
})
