/** Decisions are found: each file is in the index under its own title, and says its status and date. */
import { expect, test } from "bun:test"
import { readdirSync, readFileSync } from "node:fs"
import path from "node:path"

const folder = path.join(import.meta.dir, "../../docs/adr")
const decisions = readdirSync(folder).filter((name) => /^\d{4}-.*\.md$/.test(name))
const text = (name: string): string => readFileSync(path.join(folder, name), "utf8")

test("the index of decisions has every file under its title, and no other", () => {
  const wanted = decisions.sort().map((name) => `- [${/^# (.*)$/m.exec(text(name))?.[1]}](${name})`)
  const index = text("README.md")
    .split("\n")
    .filter((line) => line.startsWith("- ["))
  expect(index).toEqual(wanted)
})

test("every decision has a status and a date", () => {
  const without = decisions.filter(
    (name) => !/^Status: (accepted|superseded by \S+), \d{4}-\d\d-\d\d$/m.test(text(name))
  )
  expect(without).toEqual([])
})

test("decisions link only to decisions that exist", () => {
  const links = decisions.flatMap((name) =>
    [...text(name).matchAll(/\]\((\d{4}-[^)#]+\.md)/g)].map((match) => `${name} → ${match[1]}`)
  )
  expect(links.filter((link) => !decisions.includes(link.split(" → ")[1]!))).toEqual([])
})
