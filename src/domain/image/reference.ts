/**
 * Parses and prints image references in the grammar of docker/distribution (package `reference`).
 * Asks no registry and knows no credentials; digests other than sha256 are refused.
 */
import { Effect, Result } from "effect"
import { InvalidReference } from "../errors/image.ts"
import { type Digest, isDigest } from "./digest.ts"

/** An image's name with Docker's defaults filled in; at least one of tag and digest is present. */
export interface Reference {
  /** Registry host with optional port, for example `docker.io` or `localhost:5000`. */
  readonly domain: string
  /** Repository path inside the registry, for example `library/alpine`. */
  readonly path: string
  /** Tag; `latest` when the text gave neither tag nor digest, absent when it gave only a digest. */
  readonly tag: string | undefined
  /** Digest that pins the content; wins over the tag when both are there. */
  readonly digest: Digest | undefined
}

/** Longest host with port in bytes: a DNS name (253) and `:65535`. */
const domainBytesMax = 259
/** Longest repository path in bytes (docker/distribution `RepositoryNameTotalLengthMax`). */
const pathBytesMax = 255
/** Longest tag in bytes. */
const tagBytesMax = 128
/** Longest reference text in bytes; longer texts are refused before they are parsed. */
const referenceBytesMax = domainBytesMax + 1 + pathBytesMax + 1 + tagBytesMax + 1 + 71

const defaultDomain = "docker.io"
const legacyDomain = "index.docker.io"
const officialPrefix = "library/"
const defaultTag = "latest"

const domainPattern =
  /^(?:\[[0-9a-fA-F:]{2,45}\]|[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*)(?::([0-9]{1,5}))?$/
const componentPattern = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*$/
const tagPattern = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/

/** Splits like Docker: the first component is a host if it has a dot, a colon or a capital letter, or is `localhost`. */
const splitDomain = (name: string): readonly [domain: string, path: string] => {
  const slash = name.indexOf("/")
  const first = slash < 0 ? "" : name.slice(0, slash)
  const isHost = /[.:]/.test(first) || first === "localhost" || first !== first.toLowerCase()
  if (!isHost) return [defaultDomain, name]
  return [first === legacyDomain ? defaultDomain : first, name.slice(slash + 1)]
}

const reasonAgainstDomain = (domain: string): string | undefined => {
  if (domain.length > domainBytesMax) return `its host has more than ${domainBytesMax} bytes`
  const match = domainPattern.exec(domain)
  if (match === null) return `"${domain}" is not a registry host`
  const port = match[1]
  return port !== undefined && (Number(port) < 1 || Number(port) > 65535) ? `${port} is not a port` : undefined
}

const reasonAgainstPath = (path: string): string | undefined => {
  if (path.length === 0) return "it has no name"
  if (path.length > pathBytesMax) return `its name has more than ${pathBytesMax} bytes`
  if (path !== path.toLowerCase()) return "its name must be lower case"
  const bad = path.split("/").find((component) => !componentPattern.test(component))
  if (bad === undefined) return undefined
  return bad === "" ? "its name has an empty component" : `"${bad}" is not a name component`
}

/** Parses a reference without an Effect; see `parseReference`. */
export const referenceResult = (text: string): Result.Result<Reference, InvalidReference> => {
  const refuse = (reason: string) => Result.fail(new InvalidReference({ reference: text.slice(0, 1_024), reason }))
  if (text.length === 0) return refuse("it is empty")
  if (text.length > referenceBytesMax) return refuse(`it has more than ${referenceBytesMax} bytes`)
  const at = text.indexOf("@")
  const digest = at < 0 ? undefined : text.slice(at + 1)
  if (digest !== undefined && !isDigest(digest)) {
    return refuse(`"${digest}" is not a digest; only sha256: with 64 lower-case hexadecimal digits is known`)
  }
  const rest = at < 0 ? text : text.slice(0, at)
  const colon = rest.lastIndexOf(":")
  const hasTag = colon > rest.lastIndexOf("/")
  const tag = hasTag ? rest.slice(colon + 1) : undefined
  if (tag !== undefined && !tagPattern.test(tag)) return refuse(`"${tag}" is not a tag`)
  const name = hasTag ? rest.slice(0, colon) : rest
  if (/^[0-9a-f]{64}$/.test(name)) return refuse("64 hexadecimal digits are an id, not a name")
  const [domain, remainder] = splitDomain(name)
  const path =
    domain === defaultDomain && !remainder.includes("/") && remainder !== "" ? officialPrefix + remainder : remainder
  const reason = reasonAgainstDomain(domain) ?? reasonAgainstPath(path)
  if (reason !== undefined) return refuse(reason)
  return Result.succeed({ domain, path, tag: tag ?? (digest === undefined ? defaultTag : undefined), digest })
}

/** Parses `NAME[:TAG][@sha256:...]`. Fails with `InvalidReference`, which says what is wrong. */
export const parseReference = (text: string): Effect.Effect<Reference, InvalidReference> =>
  Effect.fromResult(referenceResult(text))

const suffix = (reference: Reference): string =>
  (reference.tag === undefined ? "" : `:${reference.tag}`) +
  (reference.digest === undefined ? "" : `@${reference.digest}`)

/** Full text, for example `docker.io/library/alpine:latest`: the key under which an image is recorded. */
export const canonicalReference = (reference: Reference): string =>
  `${reference.domain}/${reference.path}${suffix(reference)}`

/** Short text for people, for example `alpine:latest`; parses back to the same reference. */
export const familiarReference = (reference: Reference): string => {
  if (reference.domain !== defaultDomain) return canonicalReference(reference)
  const official = reference.path.startsWith(officialPrefix) && reference.path.indexOf("/", officialPrefix.length) < 0
  const short = official ? reference.path.slice(officialPrefix.length) : reference.path
  // `docker.io/localhost/x` must keep its host: `localhost/x` would name another registry.
  if (splitDomain(short)[1] !== short || /^[0-9a-f]{64}$/.test(short)) return canonicalReference(reference)
  return short + suffix(reference)
}

/** What the distribution API takes in `/v2/<name>/manifests/<reference>`: the digest if there is one, else the tag. */
export const manifestSelector = (reference: Reference): string => reference.digest ?? reference.tag ?? defaultTag

/** The domain that a registry's host or address means: `https://index.docker.io/v1/` is `docker.io`. */
export const registryDomain = (text: string): Effect.Effect<string, InvalidReference> => {
  const host = text.replace(/^https?:\/\//, "").split("/")[0]!
  if (["", legacyDomain, "registry-1.docker.io"].includes(host)) return Effect.succeed(defaultDomain)
  const reason = reasonAgainstDomain(host)
  return reason === undefined
    ? Effect.succeed(host)
    : Effect.fail(new InvalidReference({ reference: text.slice(0, 1_024), reason }))
}

/** Host that serves a registry's API: Docker Hub answers at `registry-1.docker.io`. */
export const registryHost = (domain: string): string => (domain === defaultDomain ? "registry-1.docker.io" : domain)
