/** What the `docs` of an error points to is there. */
import { expect, test } from "bun:test"
import { readdirSync, readFileSync } from "node:fs"
import path from "node:path"

const root = path.join(import.meta.dir, "../..")

test("docs/errors.md has a heading for every error, and for nothing else", () => {
  const folder = path.join(root, "src/domain/errors")
  const tags = readdirSync(folder).flatMap((file) =>
    [...readFileSync(path.join(folder, file), "utf8").matchAll(/^export class (\w+) extends taggedError/gm)].map(
      (match) => match[1]!
    )
  )
  const page = readFileSync(path.join(root, "docs/errors.md"), "utf8")
  const headings = [...page.matchAll(/^### (\w+)$/gm)].map((match) => match[1]!)
  expect(headings.toSorted()).toEqual(tags.toSorted())
  expect(tags.length).toBeGreaterThan(50)
})
