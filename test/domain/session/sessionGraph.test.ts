import { describe, expect, test } from "bun:test"
import {
  canonicalText,
  checkBatch,
  drawTree,
  isTooDeep,
  userMessage
} from "../../../src/domain/session/sessionGraph.ts"
import { nodes } from "../../support/sessionData.ts"

const drawn = (leaf: string | null, ...texts: ReadonlyArray<string>) =>
  drawTree(nodes(...texts), leaf).map(({ node, branch, active }) => `${active ? "*" : " "} ${branch}${node.nodeId}`)

describe("a tree is drawn", () => {
  test("straight down where nothing forks, with the way to the leaf marked", () => {
    expect(drawn("b", "r", "a:r", "b:a", "c:b")).toEqual(["* r", "* a", "* b", "  c"])
    expect(drawn("d", "r", "a:r", "b:r", "c:a", "d:b", "e:d", "f:d")).toEqual([
      "* r",
      "  ├─ a",
      "  │  c",
      "* └─ b",
      "*    d",
      "     ├─ e",
      "     └─ f"
    ])
  })
  test("with several roots, lost parents and without a leaf", () => {
    expect(drawn(null)).toEqual([])
    expect(drawn("none", "r", "x:lost")).toEqual(["  ├─ r", "  └─ x"])
  })
  test("with an end, whatever the nodes are", () => {
    expect(drawn("b", "a", "b:a", "c:b", "a:c")).toEqual(["* a", "* b", "* c"])
    expect(drawn("b", "q", "a:q", "b:a", "a:b", "a:q").map((line) => line.at(-1))).toEqual(["q", "a", "b"])
    expect(drawn(null, "a:b", "b:a")).toEqual([])
  })
  test("twenty thousand deep", () => {
    const texts = Array.from({ length: 20_000 }, (_, index) => (index === 0 ? "n0" : `n${index}:n${index - 1}`))
    const lines = drawTree(nodes(...texts), "n19999")
    expect(lines).toHaveLength(20_000)
    expect(lines.every((line) => line.active && line.branch === "")).toBe(true)
    expect(checkBatch(nodes(...texts))._tag).toBe("Success")
    expect(checkBatch(nodes(...texts.toReversed()))._tag).toBe("Success")
  })
})

test("a batch names the parents that must be there", () => {
  const outside = checkBatch(nodes("b:a", "c:b", "d:z"))
  expect(outside._tag === "Success" && [...outside.success]).toEqual(["a", "z"])
})

test("what a user said is found in the usual shapes", () => {
  const shapes = [
    [{ role: "user", content: "x" }, "x"],
    [{ type: "user", text: "x" }, "x"],
    [
      { type: "message", message: { role: "user", content: [{ type: "text", text: "x" }, { type: "image" }, "y"] } },
      "x y"
    ],
    [{ role: "user" }, ""],
    [{ role: "assistant", content: "x" }, undefined],
    [{ content: "x" }, undefined],
    [["user"], undefined],
    [null, undefined],
    ["user", undefined]
  ] as const
  for (const [node, words] of shapes) expect(userMessage(node)).toBe(words)
})

test("equal JSON has one canonical text, other JSON another", () => {
  expect(canonicalText({ b: [1, { d: null, c: "é" }], a: true })).toBe(
    canonicalText({ a: true, b: [1, { c: "é", d: null }] })
  )
  const values = [
    null,
    "null",
    1,
    "1",
    12,
    [1, 2],
    [12],
    ["1", "2"],
    [[1], 2],
    {},
    [],
    "",
    { a: 1 },
    { a: "1" },
    { a: { b: 1 } },
    { a: [], b: 1 },
    { a: [{ b: 1 }] },
    true,
    "true",
    "s1:1",
    ["s1:1"],
    { "a1:b": 1 },
    1e21,
    -0.5
  ]
  expect(new Set(values.map((value) => canonicalText(value))).size).toBe(values.length)
})

test("JSON has a depth", () => {
  let deep: unknown = 1
  for (let level = 0; level < 500; level += 1) deep = [deep]
  expect(isTooDeep(deep)).toBe(false)
  expect(isTooDeep([deep])).toBe(true)
})
