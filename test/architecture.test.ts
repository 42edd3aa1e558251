import { expect, test } from "bun:test"
import { readdirSync, readFileSync } from "node:fs"
import path from "node:path"

const root = path.join(import.meta.dir, "..")
const source = path.join(root, "src")

/** What each folder may import, besides itself. Arrows never point up or sideways. */
const arrows: Record<string, ReadonlyArray<string>> = {
  domain: [],
  ffi: [],
  store: ["domain", "ffi"],
  oci: ["domain", "store"],
  vm: ["domain", "ffi", "store", "oci"],
  models: ["domain", "store", "oci"],
  net: ["domain", "ffi"],
  actors: ["domain", "store", "oci", "vm", "net", "models"],
  plugin: ["domain", "store", "oci", "vm", "models", "actors"],
  http: ["domain", "store", "actors", "plugin"],
  sdk: ["domain", "store", "oci", "vm", "actors", "plugin"],
  cli: ["domain", "store", "oci", "vm", "net", "actors", "plugin", "http", "sdk"]
}
/** Exceptions that are narrower than a folder, as `folder → file prefix`. */
const narrow: Record<string, ReadonlyArray<string>> = {
  vm: ["oci/erofs/"],
  oci: ["store/files/files.ts", "store/files/openBelow.ts"]
}
/** Packages that only these files may import. */
const owners: Record<string, RegExp> = {
  "bun:sqlite": /^store\/database\/Database\.ts$/,
  "bun:ffi": /^ffi\//,
  hono: /^http\//
}
const domainPackages = /^effect(\/|$)/

interface Import {
  readonly file: string
  readonly target: string
}

const files = readdirSync(source, { recursive: true, encoding: "utf8" }).filter((file) => /\.tsx?$/.test(file))

/** Every import of a file: static, type-only, re-export and dynamic. Read from the text, since type imports are erased. */
const importsOf = (file: string): ReadonlyArray<Import> => {
  const text = readFileSync(path.join(source, file), "utf8").replace(/^\s*(\/\*\*?|\*|\/\/).*$/gm, "")
  const found = [
    ...text.matchAll(/\b(?:import|export)\b[^"'`;]*?\bfrom\s*["']([^"']+)["']/g),
    ...text.matchAll(/\bimport\s*["']([^"']+)["']/g),
    ...text.matchAll(/\b(?:import|require)\(\s*["'`]([^"'`]+)["'`]/g)
  ]
  return found.map((match) => ({ file, target: match[1]! }))
}

const violation = ({ file, target }: Import): string | undefined => {
  const folder = file.split("/")[0]!
  if (!target.startsWith(".")) {
    const owned = Object.entries(owners).find(([name]) => target === name || target.startsWith(`${name}/`))
    if (owned !== undefined && !owned[1].test(file)) return `${file} imports ${target}`
    if (folder === "domain" && !domainPackages.test(target)) return `${file} imports ${target}`
    return undefined
  }
  const inside = path.relative(source, path.join(source, path.dirname(file), target))
  if (inside.startsWith(".."))
    return inside.startsWith("../migrations/") && folder === "store" ? undefined : embedded(file, inside)
  const other = inside.split("/")[0]!
  if (other === folder) return undefined
  const allowed = arrows[folder]
  if (allowed === undefined) return `${file} is in a folder without arrows`
  if (!allowed.includes(other)) return `${file} imports ${inside}`
  const prefixes = narrow[folder]?.filter((prefix) => prefix.startsWith(`${other}/`)) ?? []
  return prefixes.length > 0 && !prefixes.some((prefix) => inside.startsWith(prefix))
    ? `${file} imports ${inside}`
    : undefined
}

/** Files outside src/ that may be embedded: the manifest for the version, the guest agent, and the program beside it. */
const embedded = (file: string, inside: string): string | undefined =>
  [
    "../package.json",
    "../native/guest/build/agent",
    "../native/mount-helper/build/mount-helper",
    "../native/launcher/build/launcher"
  ].includes(inside)
    ? undefined
    : `${file} imports ${inside}`

test("imports point down only", () => {
  const wrong = files
    .flatMap(importsOf)
    .map(violation)
    .filter((each) => each !== undefined)
  expect(wrong).toEqual([])
})

test("the check sees type imports, re-exports, dynamic imports and owned packages", () => {
  const seen = (file: string, target: string) => violation({ file, target })
  expect(seen("domain/a.ts", "../store/files/files.ts")).toBeDefined()
  expect(seen("store/a.ts", "../actors/images/ImageStore.ts")).toBeDefined()
  expect(seen("oci/a.ts", "../vm/engines/Engine.ts")).toBeDefined()
  expect(seen("oci/a.ts", "../store/database/Database.ts")).toBeDefined()
  expect(seen("vm/a.ts", "../oci/layer/layer.ts")).toBeDefined()
  expect(seen("vm/a.ts", "../oci/erofs/writer.ts")).toBeUndefined()
  expect(seen("actors/a.ts", "bun:sqlite")).toBeDefined()
  expect(seen("vm/a.ts", "bun:ffi")).toBeDefined()
  expect(seen("cli/a.ts", "hono/tiny")).toBeDefined()
  expect(seen("cli/a.ts", "../ffi/posix.ts")).toBeDefined()
  expect(seen("domain/a.ts", "node:fs")).toBeDefined()
  expect(importsOf("store/database/Database.ts").map((each) => each.target)).toContain("bun:sqlite")
  expect(importsOf("store/database/sandboxes.ts").map((each) => each.target)).toContain("./Database.ts")
})

test("no source file is longer than 400 lines", () => {
  const long = files.filter((file) => readFileSync(path.join(source, file), "utf8").split("\n").length > 401)
  expect(long).toEqual([])
})

test("each source file opens with its promise", () => {
  const silent = files.filter((file) => !readFileSync(path.join(source, file), "utf8").startsWith("/**"))
  expect(silent).toEqual([])
})

/** Strongly connected groups of files by all their imports, type imports included (Tarjan). */
const circles = (graph: ReadonlyMap<string, ReadonlyArray<string>>): ReadonlyArray<ReadonlyArray<string>> => {
  const order = new Map<string, number>()
  const low = new Map<string, number>()
  const stack: Array<string> = []
  const found: Array<ReadonlyArray<string>> = []
  const visit = (file: string): void => {
    order.set(file, order.size)
    low.set(file, order.get(file)!)
    stack.push(file)
    for (const next of graph.get(file) ?? []) {
      if (!order.has(next)) visit(next)
      if (stack.includes(next)) low.set(file, Math.min(low.get(file)!, low.get(next)!))
    }
    if (low.get(file) !== order.get(file)) return
    const group = stack.splice(stack.indexOf(file))
    if (group.length > 1) found.push(group.sort())
  }
  for (const file of graph.keys()) if (!order.has(file)) visit(file)
  return found
}

test("no import circle, type imports included", () => {
  const graph = new Map(
    files.map((file) => [
      file,
      importsOf(file)
        .filter(({ target }) => target.startsWith("."))
        .map(({ target }) => path.normalize(path.join(path.dirname(file), target)))
        .filter((target) => files.includes(target))
    ])
  )
  expect(circles(graph)).toEqual([])
  expect(
    circles(
      new Map([
        ["a", ["b"]],
        ["b", ["c"]],
        ["c", ["a"]],
        ["d", ["a"]]
      ])
    )
  ).toEqual([["a", "b", "c"]])
})

test("no room of src/ has more than 20 files, and file names are camelCase", () => {
  const rooms = Map.groupBy(files, (file) => path.dirname(file))
  /** Rooms that are known to be too full, and how full they may be until they are divided. */
  const known: Record<string, number> = { sdk: 24 }
  const crowded = [...rooms]
    .filter(([room, held]) => held.length > (known[room] ?? 20))
    .map(([room, held]) => `${room}: ${held.length}`)
  expect(crowded).toEqual([])
  expect(files.filter((file) => !/^[A-Za-z][A-Za-z0-9]*(\.d)?\.ts$/.test(path.basename(file)))).toEqual([])
})

test("the actors, oci, vm and store have rooms and no flat file", () => {
  expect(files.filter((file) => /^(actors|oci|vm|store)\/[^/]*$/.test(file))).toEqual([])
})
