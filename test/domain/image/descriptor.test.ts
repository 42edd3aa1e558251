/** Documents that were made to hurt whoever reads the error about them; each was found by `bun run fuzz`. */
import { describe, expect } from "bun:test"
import { Effect } from "effect"
import { decodeDocument, Index, parseJson } from "../../../src/domain/image/descriptor.ts"
import { it } from "../../support/it.ts"

const refused = (text: string) =>
  Effect.flip(
    Effect.flatMap(parseJson("the index", Buffer.from(text)), (json) => decodeDocument(Index, "the index", json))
  )

describe("an invalid document", () => {
  it.effect("is told without anything that a terminal obeys", () =>
    Effect.gen(function* () {
      for (const hostile of ["\u007f", "\u009b2J", "\u0085"]) {
        for (const text of [`x${hostile}`, JSON.stringify({ schemaVersion: 2, manifests: hostile })]) {
          const { message } = yield* refused(text)
          expect(message).not.toContain(hostile)
          expect(message).toContain(`\\u00${hostile.charCodeAt(0).toString(16)}`)
        }
      }
    })
  )

  it.effect("is refused at once when it is nested without end, but not for brackets in a string", () =>
    Effect.gen(function* () {
      const deep = "[".repeat(300_000) + "]".repeat(300_000)
      const error = yield* refused(`{"schemaVersion":2,"manifests":{"x":${deep}}}`)
      expect(error).toMatchObject({ _tag: "ManifestInvalid", field: "$" })
      expect(error.message).toContain("nested deeper than 256")
      const text = `${"[".repeat(1000)}\\"${"{".repeat(1000)}`
      expect(yield* refused(`{"schemaVersion":2,"manifests":"${text}"}`)).toMatchObject({ field: "$.manifests" })
    })
  )
})
