/**
 * Says what the definition of a sandbox can hold about secrets, how people type them, and what is wrong with one. Holds no value: those
 * are in the encrypted store (store/secrets/secretFile.ts).
 */
import { Schema } from "effect"
import { isAddress } from "./address.ts"
import type { NetworkConfig } from "./config.ts"
import { normalizeName } from "./names.ts"
import { compilePolicy, decideLookup } from "./policy.ts"

/** A value on its way to where it is kept. */
export const SecretValue = Schema.RedactedFromValue(Schema.NonEmptyString.check(Schema.isMaxLength(16_384)))

const secretsMax = 64
const hostsMax = 32
/** Longest value, in bytes: servers take headers of 8 to 16 KiB. */
export const secretBytesMax = 16_384

const namePattern = /^(?!__proto__$|constructor$|prototype$)[A-Za-z_][A-Za-z0-9_]{0,127}$/
const nameWords = "1 to 128 of A-Z a-z 0-9 _, and no digit first"

/** Name of a secret, and of the variable in the guest that holds its placeholder. */
export const SecretName = Schema.String.check(Schema.isPattern(namePattern, { expected: nameWords }))

const Host = Schema.String.check(Schema.isMaxLength(253))

/** A secret of a sandbox: which hosts get its value, and where in a request. */
export const SecretBinding = Schema.Struct({
  name: SecretName,
  /** Names, without wildcards: exactly these get the value, over TLS. */
  hosts: Schema.NonEmptyArray(Host).check(Schema.isMaxLength(hostsMax)),
  /** `header`: header fields, `basic`: inside Basic, `query`: both, and the query; absent: both. */
  use: Schema.optionalKey(Schema.Literals(["header", "basic", "query"])),
  /** Name of a secret of the store, whose changes count at once; absent: the sandbox has a value of its own. */
  store: Schema.optionalKey(SecretName)
})
export type SecretBinding = typeof SecretBinding.Type

export const SecretBindings = Schema.Array(SecretBinding).check(
  Schema.isMaxLength(secretsMax, { expected: `at most ${secretsMax} secrets` })
)

const shown = (text: string): string => (text.length > 64 ? `${text.slice(0, 64)}…` : text)

/** `NAME=HOST[,HOST…][:header|basic|query]`, or what is wrong with it: one phrase. Repeats no text that may be a value. */
export const parseSecret = (text: string): SecretBinding | string => {
  const equals = text.indexOf("=")
  const name = text.slice(0, Math.max(0, equals))
  if (!namePattern.test(name)) {
    return `a secret is written NAME=HOST[,HOST...][:header|basic|query], and a name is ${nameWords}; a value is never typed there`
  }
  const [, list = "", use] = /^(.*?)(?::(header|basic|query))?$/s.exec(text.slice(equals + 1)) ?? []
  const hosts = list.split(",").map(normalHost)
  const wrong = hosts.find((host) => "problem" in host)
  if (wrong !== undefined && "problem" in wrong)
    return `the secret ${name} can not be for one of its hosts: ${wrong.problem}`
  const names = hosts.flatMap((host) => ("name" in host ? [host.name] : []))
  const [first = "", ...others] = names
  return {
    name,
    hosts: [first, ...others],
    ...(use === undefined ? {} : { use: use as NonNullable<SecretBinding["use"]> })
  }
}

const normalHost = (text: string): { readonly name: string } | { readonly problem: string } => {
  if (text.startsWith("*.")) return { problem: "a secret is for hosts that are named one by one, without *" }
  if (isAddress(text)) return { problem: "a secret is for names; a certificate shows none for an address" }
  if (text.includes(":")) return { problem: "a secret is for a host at every port; allow ports with --allow-net" }
  const normal = normalizeName(text)
  return typeof normal === "string" ? { problem: normal } : normal
}

interface SecretProblem {
  /** As on the wire. */
  readonly field: string
  /** One phrase. */
  readonly reason: string
}

/** Hosts whose TLS is opened: those of secrets, and those that are inspected; each once, in the form in which rules compare. */
export const openedHosts = (
  secrets: ReadonlyArray<SecretBinding> = [],
  inspect: ReadonlyArray<string> = []
): ReadonlyArray<string> => {
  const names = [...secrets.flatMap(({ hosts }) => hosts), ...inspect].flatMap((host) => {
    const normal = normalHost(host)
    return "name" in normal ? [normal.name] : []
  })
  return [...new Set(names)]
}

/** What is wrong with a definition's secrets and inspected hosts, undefined for nothing. */
export const secretsProblem = (
  secrets: ReadonlyArray<SecretBinding> = [],
  network: NetworkConfig | undefined
): SecretProblem | undefined => {
  if (secrets.length === 0) return undefined
  const wrong = (reason: string): SecretProblem => ({ field: "secrets", reason })
  const names = secrets.map(({ name }) => name)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined) return wrong(`${twice} is there twice`)
  if (network === undefined) return wrong("the sandbox has no network; allow the hosts of its secrets (--allow-net)")
  const policy = compilePolicy(network)
  for (const { hosts, name } of secrets) {
    for (const host of hosts) {
      const normal = normalHost(host)
      if ("problem" in normal) return wrong(`${name} can not be for "${shown(host)}": ${normal.problem}`)
      if (!decideLookup(policy, normal.name).allowed) {
        return wrong(
          `${name} is for ${normal.name}, which the network does not allow: add --allow-net=${normal.name}:443`
        )
      }
    }
  }
  return undefined
}

/** Why a text can not be a value, undefined when it can. Repeats nothing of it. */
export const valueProblem = (value: string): string | undefined => {
  if (value === "") return "it is empty"
  if (Buffer.byteLength(value) > secretBytesMax) return `it has more than ${secretBytesMax} bytes`
  if (/[\0-\x1f\x7f]/.test(value)) return "it has a line break or another control character, which no header can hold"
  return value.isWellFormed() ? undefined : "it has half of a character (a surrogate)"
}
