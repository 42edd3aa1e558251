/** Models from a program of one's own: the same actor, promises. */
import { describe, expect, test } from "bun:test"
import { InvalidInput, ModelNotFound, Models } from "../../src/sdk/index.ts"
import { scratch, sha256 } from "../support/models.ts"

describe("Models", () => {
  test("registers, pulls with events, looks, drops, removes; rejects with tagged errors", async () => {
    const place = scratch()
    try {
      await using models = new Models({ home: place.home })
      const source = `dir:${place.tree("files", { a: "hello world" })}`
      const added = await models.add({ name: "m", source, revision: "1", task: "embedding", dimensions: 3 })
      expect(added).toMatchObject({ name: "m", pullPolicy: "if_missing", status: "registered" })
      const seen: Array<string> = []
      const manifest = await models.pull("m", { onEvent: (event) => void seen.push(event._tag) })
      expect(manifest.files).toEqual([{ path: "a", sha256: sha256("hello world"), sizeBytes: 11 }])
      expect(seen.at(0)).toBe("Resolved")
      expect(seen.at(-1)).toBe("Done")
      expect(await models.status("m", "full")).toMatchObject({ status: "installed" })
      expect(await models.replace({ name: "m", source, revision: "2", task: "any" })).toMatchObject({ revision: "2" })
      expect(await models.drop("m")).toMatchObject({ removed: true })
      expect((await models.list()).map((each) => String(each.name))).toEqual(["m"])
      expect(await models.remove("m")).toMatchObject({ ok: true })
      expect(await models.get("m").catch((error) => error)).toBeInstanceOf(ModelNotFound)
      const wrong = { name: "1", source, revision: "1", task: "any" } as const
      expect(await models.add(wrong).catch((error) => error)).toBeInstanceOf(InvalidInput)
    } finally {
      place.dispose()
    }
  })
})
