/**
 * Changes values in the text of a TOML document and leaves every other byte as its owner wrote it: comments, order, spacing,
 * keys that nobody here knows. Reads and writes no files, knows no key.
 *
 * Invariant: the answer parses to exactly what was asked for; where no small edit does that, the document is written anew.
 */
import { parse, stringify, TomlError } from "smol-toml"

/** A value of a TOML document. */
export type TomlValue =
  | string
  | number
  | bigint
  | boolean
  | Date
  | ReadonlyArray<TomlValue>
  | { readonly [key: string]: TomlValue }
export type TomlTable = { readonly [key: string]: TomlValue }

/** What is wrong with a text that is no TOML: where and why. */
export interface TomlIssue {
  /** 1 for the first line. */
  readonly line: number
  readonly reason: string
}

/** Values nested deeper than this are refused. */
const depthMax = 32

/** Parses a document; integers beyond 2^53 stay exact. */
export const parseToml = (text: string): TomlTable | TomlIssue => {
  try {
    return parse(text, { integersAsBigInt: "asNeeded", unsafeKeyBehaviour: "throw", maxDepth: depthMax }) as TomlTable
  } catch (cause) {
    if (!(cause instanceof TomlError)) throw cause
    const [reason = "not valid"] = cause.message.replace("Invalid TOML document: ", "").split("\n")
    return { line: cause.line, reason }
  }
}

export const isTomlIssue = (parsed: TomlTable | TomlIssue): parsed is TomlIssue =>
  typeof parsed["line"] === "number" && typeof parsed["reason"] === "string" && Object.keys(parsed).length === 2

type Path = ReadonlyArray<string>

/** One `key = value` line or one header, with its place in the text. */
interface Statement {
  readonly kind: "pair" | "table" | "array"
  /** From the root; of a pair in `[[x]]` only as far as `x`, for such a pair is never changed alone. */
  readonly path: Path
  readonly start: number
  /** After the line break. */
  readonly end: number
  readonly valueStart: number
  readonly valueEnd: number
  /** Path of the header above, empty at the top. */
  readonly section: Path
}

const lineEnd = (text: string, from: number): number => {
  const found = text.indexOf("\n", from)
  return found < 0 ? text.length : found + 1
}

/** Index after the string that starts at `at`. */
const skipString = (text: string, at: number): number => {
  const quote = text[at]!
  const long = text.startsWith(quote.repeat(3), at)
  const close = long ? quote.repeat(3) : quote
  let index = at + close.length
  while (index < text.length && !text.startsWith(close, index)) index += text[index] === "\\" && quote === '"' ? 2 : 1
  index += close.length
  // Up to two quotes more may stand before the closing ones of a long string.
  while (long && text[index] === quote) index += 1
  return index
}

const isQuote = (char: string | undefined): boolean => char === '"' || char === "'"

/** Index after the value that starts at `at`, without what follows on its line. */
const skipValue = (text: string, at: number): number => {
  let depth = 0
  let index = at
  let last = at
  while (index < text.length) {
    const char = text[index]!
    if (isQuote(char)) {
      index = skipString(text, index)
      last = index
      continue
    }
    if (depth === 0 && (char === "\n" || char === "#" || char === "\r")) break
    if (char === "#") {
      index = lineEnd(text, index)
      continue
    }
    if (char === "[" || char === "{") depth += 1
    if (char === "]" || char === "}") depth -= 1
    index += 1
    if (char !== " " && char !== "\t") last = index
  }
  return last
}

/** Index of the first of `stops` outside of quotes. */
const findOutside = (text: string, from: number, stop: string): number => {
  let index = from
  while (index < text.length && text[index] !== stop) index = isQuote(text[index]) ? skipString(text, index) : index + 1
  return index
}

/** The parts of a dotted key. */
const keyPath = (key: string): Path => {
  const parts: Array<string> = []
  let at: unknown = parse(`${key} = 0`)
  while (typeof at === "object" && at !== null) {
    const [[name, inner] = ["", 0]] = Object.entries(at)
    parts.push(name)
    at = inner
  }
  return parts
}

const startsWith = (path: Path, prefix: Path): boolean => prefix.every((part, index) => path[index] === part)
const samePath = (one: Path, other: Path): boolean => one.length === other.length && startsWith(one, other)

/** Every statement of a document that is known to be valid, in order. */
const scan = (text: string): ReadonlyArray<Statement> => {
  const statements: Array<Statement> = []
  let section: Path = []
  let inArray = false
  let index = 0
  while (index < text.length) {
    const start = index
    while (text[index] === " " || text[index] === "\t") index += 1
    const char = text[index]
    if (char === undefined || char === "\n" || char === "\r" || char === "#") {
      index = lineEnd(text, index)
      continue
    }
    if (char === "[") {
      inArray = text[index + 1] === "["
      const open = index + (inArray ? 2 : 1)
      const close = findOutside(text, open, "]")
      section = keyPath(text.slice(open, close))
      index = lineEnd(text, close)
      const kind = inArray ? "array" : "table"
      statements.push({ kind, path: section, section, start, end: index, valueStart: index, valueEnd: index })
      continue
    }
    const equals = findOutside(text, index, "=")
    const own = keyPath(text.slice(index, equals).trimEnd())
    let valueStart = equals + 1
    while (text[valueStart] === " " || text[valueStart] === "\t") valueStart += 1
    const valueEnd = skipValue(text, valueStart)
    index = lineEnd(text, valueEnd)
    const path = inArray ? section : [...section, ...own]
    statements.push({ kind: "pair", path, section, start, end: index, valueStart, valueEnd })
  }
  return statements
}

/** The line of the statement that gives `key` of the root its value, 1 for the first; undefined when there is none. */
export const lineOfKey = (text: string, key: string): number | undefined => {
  const found = scan(text).find((statement) => statement.path[0] === key)
  return found === undefined ? undefined : text.slice(0, found.start).split("\n").length
}

const bareKey = /^[A-Za-z0-9_-]+$/
const quoted = (text: string): string => JSON.stringify(text).replaceAll("\x7f", "\\u007F")
const keyText = (path: Path): string => path.map((part) => (bareKey.test(part) ? part : quoted(part))).join(".")

const isTable = (value: TomlValue | undefined): value is TomlTable =>
  typeof value === "object" && !Array.isArray(value) && !(value instanceof Date)

/** Longer lists stand on lines of their own, an element each. */
const lineLengthMax = 100

const literal = (value: TomlValue): string => {
  if (typeof value === "string") return quoted(value)
  if (value instanceof Date) return value.toISOString()
  if (Array.isArray(value)) {
    const items = (value as ReadonlyArray<TomlValue>).map(literal)
    const line = `[${items.join(", ")}]`
    return line.length <= lineLengthMax ? line : `[\n${items.map((item) => `  ${item},\n`).join("")}]`
  }
  if (isTable(value)) {
    const pairs = Object.entries(value).map(([key, item]) => `${keyText([key])} = ${literal(item)}`)
    return pairs.length === 0 ? "{}" : `{ ${pairs.join(", ")} }`
  }
  return String(value)
}

interface Change {
  readonly path: Path
  /** Undefined: the key goes. */
  readonly value: TomlValue | undefined
}

/** What differs, as deep as both sides are tables. */
const differences = (before: TomlTable, after: TomlTable, path: Path = []): ReadonlyArray<Change> =>
  [...new Set([...Object.keys(before), ...Object.keys(after)])].flatMap((key) => {
    const [old, now] = [before[key], after[key]]
    if (Bun.deepEquals(old, now, true)) return []
    const here = [...path, key]
    return isTable(old) && isTable(now) ? differences(old, now, here) : [{ path: here, value: now }]
  })

const at = (table: TomlTable, path: Path): TomlValue | undefined => {
  let value: TomlValue | undefined = table
  for (const part of path) value = isTable(value) ? value[part] : undefined
  return value
}

const splice = (text: string, start: number, end: number, by: string): string =>
  text.slice(0, start) + by + text.slice(end)

/** Puts a line behind a statement, or at `index` of a text without one. */
const insertLine = (text: string, index: number, line: string): string => {
  const broken = index > 0 && text[index - 1] !== "\n" ? "\n" : ""
  return splice(text, index, index, `${broken}${line}\n`)
}

const removed = (text: string, statements: ReadonlyArray<Statement>, path: Path): string =>
  statements
    .filter((statement) => startsWith(statement.path, path) || (path.length > 0 && startsWith(statement.section, path)))
    .toReversed()
    .reduce((rest, { start, end }) => splice(rest, start, end, ""), text)

const apply = (text: string, { path, value }: Change, after: TomlTable): string => {
  const statements = scan(text)
  const pair = statements.find((each) => each.kind === "pair" && startsWith(path, each.path))
  if (pair !== undefined && !samePath(pair.section, pair.path)) {
    // The pair itself, or an inline table that holds the key.
    const whole = samePath(pair.path, path) ? value : at(after, pair.path)
    return whole === undefined
      ? splice(text, pair.start, pair.end, "")
      : splice(text, pair.valueStart, pair.valueEnd, literal(whole))
  }
  const cleared = removed(text, statements, path)
  if (value === undefined) return cleared
  const left = scan(cleared)
  const [parent, key] = [path.slice(0, -1), path.at(-1)!]
  if (parent.length === 0 && isTable(value)) {
    const pairs = Object.entries(value).map(([name, item]) => `${keyText([name])} = ${literal(item)}\n`)
    return `${cleared}${cleared === "" || cleared.endsWith("\n") ? "" : "\n"}\n[${keyText([key])}]\n${pairs.join("")}`
  }
  const inSection = left.findLast((each) => each.kind !== "array" && samePath(each.section, parent))
  if (inSection !== undefined) return insertLine(cleared, inSection.end, `${keyText([key])} = ${literal(value)}`)
  if (parent.length === 0)
    return insertLine(cleared, left[0]?.start ?? cleared.length, `${keyText([key])} = ${literal(value)}`)
  const beside = left.findLast(
    (each) => each.kind === "pair" && startsWith(each.path, parent) && each.section.length === 0
  )
  return beside === undefined
    ? `${cleared}\n[${keyText(parent)}]\n${keyText([key])} = ${literal(value)}\n`
    : insertLine(cleared, beside.end, `${keyText(path)} = ${literal(value)}`)
}

/** The text with the values of `after`, which differs from `before`, that the text parses to. */
export const editToml = (text: string, before: TomlTable, after: TomlTable): string => {
  try {
    const edited = differences(before, after).reduce((rest, change) => apply(rest, change, after), text)
    const now = parseToml(edited)
    if (!isTomlIssue(now) && Bun.deepEquals(now, after, true)) return edited
  } catch (cause) {
    if (!(cause instanceof TomlError)) throw cause
  }
  return stringify(after)
}

/** A new document: the keys in their order, tables last, below a comment. */
export const writeToml = (comment: string, table: TomlTable): string => {
  const entries = Object.entries(table)
  const plain = entries.filter(([, value]) => !isTable(value))
  const tables = entries.filter(([, value]) => isTable(value))
  const head = `${comment
    .split("\n")
    .map((line) => `# ${line}`.trimEnd())
    .join("\n")}\n`
  const pairs = (list: ReadonlyArray<readonly [string, TomlValue]>) =>
    list.map(([key, value]) => `${keyText([key])} = ${literal(value)}\n`).join("")
  return [
    head,
    pairs(plain),
    ...tables.map(([key, value]) => `\n[${keyText([key])}]\n${pairs(Object.entries(value as TomlTable))}`)
  ].join("")
}
