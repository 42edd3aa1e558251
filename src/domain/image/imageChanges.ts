/**
 * Reads instructions like those of a Dockerfile (`CMD ["sh"]`, `ENV A=b`) that say how an imported image wants to be run.
 * Knows those that describe an image and none that build one. Pure.
 */
import { Result } from "effect"
import { InvalidSpec } from "../errors/vm.ts"

/** The `config` member of an image config (OCI image spec, "Image Configuration"), with what was said. */
export interface RunConfig {
  readonly User?: string
  readonly ExposedPorts?: Readonly<Record<string, object>>
  readonly Env?: ReadonlyArray<string>
  readonly Entrypoint?: ReadonlyArray<string>
  readonly Cmd?: ReadonlyArray<string>
  readonly Volumes?: Readonly<Record<string, object>>
  readonly WorkingDir?: string
  readonly Labels?: Readonly<Record<string, string>>
  readonly StopSignal?: string
}

/** Words of a line: spaces separate, quotes keep together, a backslash takes the next character as it is; undefined for an open quote. */
const wordsOf = (text: string): Array<string> | undefined => {
  const words: Array<string> = []
  let word: string | undefined
  let quote = ""
  for (let i = 0; i < text.length; i++) {
    const char = text[i]!
    if (char === "\\" && quote !== "'" && i + 1 < text.length) word = (word ?? "") + text[++i]
    else if (quote !== "") {
      if (char === quote) quote = ""
      else word += char
    } else if (char === '"' || char === "'") {
      quote = char
      word ??= ""
    } else if (/\s/.test(char)) {
      if (word !== undefined) words.push(word)
      word = undefined
    } else word = (word ?? "") + char
  }
  if (word !== undefined) words.push(word)
  return quote === "" ? words : undefined
}

const jsonStrings = (text: string): ReadonlyArray<string> | undefined => {
  try {
    const value: unknown = JSON.parse(text)
    return Array.isArray(value) && value.every((item) => typeof item === "string") ? value : undefined
  } catch {
    return undefined
  }
}

/** `["a", "b"]`, or a line for a shell, as Docker has it. */
const command = (rest: string): ReadonlyArray<string> | string =>
  rest.startsWith("[") ? (jsonStrings(rest) ?? 'a list is written ["program", "argument"]') : ["/bin/sh", "-c", rest]

/** `A=b C="d e"`, or `A b` with one space for one pair. */
const pairs = (rest: string): ReadonlyArray<readonly [string, string]> | string => {
  const words = wordsOf(rest)
  if (words === undefined) return "a quote is not closed"
  const [first = ""] = words
  const space = rest.search(/\s/)
  if (!first.includes("=")) {
    return space < 0 ? `"${first}" has no value; write NAME=value` : [[first, rest.slice(space).trim()]]
  }
  const wrong = words.find((word) => !/^[^=]+=/.test(word))
  if (wrong !== undefined) return `"${wrong}" is not NAME=value`
  return words.map((word) => [word.slice(0, word.indexOf("=")), word.slice(word.indexOf("=") + 1)] as const)
}

const names = (rest: string): ReadonlyArray<string> | string =>
  (rest.startsWith("[") ? jsonStrings(rest) : wordsOf(rest)) ?? "the list is not valid"

const nothings = (keys: ReadonlyArray<string>): Record<string, object> =>
  Object.fromEntries(keys.map((key) => [key, {}]))

/** What an instruction changes; a text says why it can not be read. */
const apply = (config: RunConfig, keyword: string, rest: string): RunConfig | string => {
  switch (keyword) {
    case "CMD": {
      const Cmd = command(rest)
      return typeof Cmd === "string" ? Cmd : { ...config, Cmd }
    }
    case "ENTRYPOINT": {
      const Entrypoint = command(rest)
      return typeof Entrypoint === "string" ? Entrypoint : { ...config, Entrypoint }
    }
    case "ENV": {
      const given = pairs(rest)
      if (typeof given === "string") return given
      const kept = (config.Env ?? []).filter((entry) => given.every(([name]) => !entry.startsWith(`${name}=`)))
      return { ...config, Env: [...kept, ...given.map(([name, value]) => `${name}=${value}`)] }
    }
    case "LABEL": {
      const given = pairs(rest)
      return typeof given === "string"
        ? given
        : { ...config, Labels: { ...config.Labels, ...Object.fromEntries(given) } }
    }
    case "EXPOSE": {
      const ports = names(rest)
      if (typeof ports === "string") return ports
      const full = ports.map((port) => (/^\d+$/.test(port) ? `${port}/tcp` : port))
      const wrong = full.find((port) => !/^\d{1,5}\/(tcp|udp|sctp)$/.test(port))
      if (wrong !== undefined) return `"${wrong}" is not a port; write 80, 80/tcp or 53/udp`
      return { ...config, ExposedPorts: { ...config.ExposedPorts, ...nothings(full) } }
    }
    case "VOLUME": {
      const given = names(rest)
      return typeof given === "string" ? given : { ...config, Volumes: { ...config.Volumes, ...nothings(given) } }
    }
    case "USER":
      return { ...config, User: rest }
    case "WORKDIR":
      return rest.startsWith("/") ? { ...config, WorkingDir: rest } : "the directory must be absolute"
    case "STOPSIGNAL":
      return { ...config, StopSignal: rest }
    default:
      return "only CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR are known"
  }
}

/** The run configuration that instructions make, in their order. Fails naming the instruction. */
export const parseChanges = (instructions: ReadonlyArray<string>): Result.Result<RunConfig, InvalidSpec> => {
  let config: RunConfig = {}
  for (const instruction of instructions) {
    const match = /^\s*([A-Za-z]+)\s+(.*\S)\s*$/s.exec(instruction)
    const next = match === null ? "it is not INSTRUCTION VALUE" : apply(config, match[1]!.toUpperCase(), match[2]!)
    if (typeof next === "string") {
      return Result.fail(new InvalidSpec({ field: "--change", reason: `"${instruction}": ${next}` }))
    }
    config = next
  }
  return Result.succeed(config)
}
