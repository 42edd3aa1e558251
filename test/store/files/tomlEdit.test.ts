/** Editing a TOML text in place: what was asked changes, every other byte stays. */
import { describe, expect, test } from "bun:test"
import {
  editToml,
  isTomlIssue,
  lineOfKey,
  parseToml,
  type TomlTable,
  writeToml
} from "../../../src/store/files/tomlEdit.ts"
import { generator, seedOf } from "../../support/random.ts"

const parsed = (text: string): TomlTable => {
  const table = parseToml(text)
  if (isTomlIssue(table)) throw new Error(`${table.line}: ${table.reason}\n${text}`)
  return table
}
const edit = (text: string, change: (table: Record<string, Record<string, unknown>>) => void): string => {
  const after = structuredClone(parsed(text)) as Record<string, Record<string, unknown>>
  change(after)
  return editToml(text, parsed(text), after as unknown as TomlTable)
}

const owned = `# The web server of the team.
name = "web"     # do not rename

memory_mb = 512  # enough since March
env = [          # secrets are elsewhere
  "A=1", # first
  'B=]#"',
]
notes = """
# no comment
x = 1 """
labels.team = "a"

[mine]
# about z
z = 1
deep = { x = 1, y = { k = "v" } }

[[block_devices]]
path = "/a"
# between
[[block_devices]]
path = "/b"
`

describe("editing a TOML text", () => {
  test("changes a value and nothing else", () => {
    const after = edit(owned, (table) => Object.assign(table, { memory_mb: 1024 }))
    expect(after).toBe(owned.replace("memory_mb = 512 ", "memory_mb = 1024 "))
  })

  test("adds keys where their table is, and takes them away again", () => {
    const more = edit(owned, (table) => {
      Object.assign(table, { state: "running" })
      Object.assign(table["labels"]!, { tier: "b c" })
      Object.assign(table["mine"]!, { "odd key": [1, 2] })
    })
    expect(more).toContain('labels.team = "a"\nlabels.tier = "b c"\n')
    expect(more).toContain('deep = { x = 1, y = { k = "v" } }\n"odd key" = [1, 2]\n')
    expect(more.split("\n").filter((line) => line.startsWith("#"))).toEqual(
      owned.split("\n").filter((line) => line.startsWith("#"))
    )
    const back = edit(more, (table) => {
      delete table["state"]
      delete table["labels"]!["tier"]
      delete table["mine"]!["odd key"]
    })
    expect(back).toBe(owned)
  })

  test("takes tables and lists of tables away, and what is inside an inline table", () => {
    const less = edit(owned, (table) => {
      delete table["block_devices"]
      delete (table["mine"]!["deep"] as Record<string, unknown>)["y"]
    })
    expect(less).toContain("deep = { x = 1 }")
    expect(less).not.toContain("block_devices")
    expect(less).toContain("# about z")
    expect(parsed(edit(owned, (table) => delete table["mine"]))).not.toHaveProperty("mine")
  })

  test("keeps line ends without a last one, and an empty text", () => {
    expect(edit("a = 1", (table) => Object.assign(table, { b: 2 }))).toBe("a = 1\nb = 2\n")
    expect(edit("", (table) => Object.assign(table, { a: { b: 1 } }))).toBe("\n[a]\nb = 1\n")
    expect(edit("a = 1 # x\r\n[t]\r\nb = 2\r\n", (table) => Object.assign(table, { a: 3 }))).toBe(
      "a = 3 # x\r\n[t]\r\nb = 2\r\n"
    )
  })

  test("names the line of what is wrong and of a key", () => {
    expect(parseToml("a = 1\nb = [")).toMatchObject({ line: 2 })
    expect(parseToml("a = 1\na = 2")).toMatchObject({ line: 2 })
    expect(parseToml("__proto__ = 1")).toMatchObject({ line: 1 })
    expect(lineOfKey(owned, "labels")).toBe(12)
    expect(lineOfKey(owned, "block_devices")).toBe(19)
    expect(lineOfKey(owned, "none")).toBeUndefined()
  })

  test("any change of any document gives exactly that document, and keeps the comments outside of what changed", () => {
    const below = generator(seedOf("toml"))
    const next = () => below(1000) / 1000
    const pick = <A>(list: ReadonlyArray<A>): A => list[Math.floor(next() * list.length)]!
    const word = () => pick(["a", "b-1", "c d", 'q"', "ü", "a.b", "", "#"])
    const value = (depth: number): unknown =>
      depth > 2 || next() < 0.6
        ? pick([
            1,
            -2.5,
            true,
            "text",
            'a "b"\n\\',
            "'",
            "#x",
            "]",
            new Date(1_700_000_000_000),
            ["a", "#]"],
            [],
            2n ** 60n
          ])
        : next() < 0.5
          ? Array.from({ length: Math.floor(next() * 4) }, () => value(depth + 1))
          : table(depth + 1)
    const table = (depth: number): Record<string, unknown> =>
      Object.fromEntries(Array.from({ length: Math.floor(next() * 5) }, () => [word(), value(depth)]))
    for (let round = 0; round < 400; round += 1) {
      const before = table(0)
      let text = writeToml("kept: the head", before as TomlTable).replaceAll(
        /\n(\[[^\n[\]]*\])\n/g,
        "\n# kept: a table\n$1 # kept: aside\n"
      )
      text = text.replaceAll(/ = (1|true)\n/g, " = $1 # aside\n")
      expect(parsed(text)).toEqual(before as TomlTable)
      for (let step = 0; step < 4; step += 1) {
        const now = parsed(text)
        const after: Record<string, unknown> = { ...now }
        const key = pick([...Object.keys(now), word()])
        const inner = after[key]
        if (next() < 0.3) delete after[key]
        else if (inner !== null && inner?.constructor === Object && next() < 0.7)
          after[key] = { ...inner, [word()]: value(1) }
        else after[key] = value(0)
        text = editToml(text, now, after as TomlTable)
        expect(parsed(text)).toEqual(after as TomlTable)
        expect(text).toStartWith("# kept: the head\n")
      }
    }
  })
})
