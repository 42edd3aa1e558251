/**
 * Parses, normalises and compares platforms as in the OCI image index (`os/architecture[/variant]`).
 * Looks at no machine: the caller says which CPU it has.
 */
import { Effect, Schema } from "effect"
import { InvalidPlatform } from "../errors/image.ts"

/** What an image runs on; names as in the OCI image index spec, "platform" (GOOS and GOARCH). */
export const Platform = Schema.Struct({
  os: Schema.String,
  architecture: Schema.String,
  /** CPU variant, for example `v7`; absent for an architecture's usual one. */
  variant: Schema.optionalKey(Schema.String)
})
export type Platform = typeof Platform.Type

/** What is pulled when nobody asks for another platform. */
export const defaultPlatform: Platform = { os: "linux", architecture: "amd64" }

const architectureAliases: Readonly<Record<string, readonly [architecture: string, variant: string]>> = {
  x86_64: ["amd64", ""],
  "x86-64": ["amd64", ""],
  x64: ["amd64", ""],
  aarch64: ["arm64", ""],
  i386: ["386", ""],
  i686: ["386", ""],
  ia32: ["386", ""],
  armhf: ["arm", "v7"],
  armel: ["arm", "v6"]
}

/** The variant that an architecture's plain name means. */
const usualVariant: Readonly<Record<string, number>> = { amd64: 1, arm64: 8, arm: 7 }

/** Lower case, aliases resolved, an architecture's usual variant dropped (`arm64/v8` → `arm64`). */
export const normalizePlatform = (platform: Platform): Platform => {
  const raw = platform.architecture.toLowerCase()
  const alias = Object.hasOwn(architectureAliases, raw) ? architectureAliases[raw] : undefined
  const architecture = alias?.[0] ?? raw
  const given = (platform.variant || alias?.[1] || "").toLowerCase()
  const variant = /^[0-9]/.test(given) ? `v${given}` : given
  const base = { os: platform.os.toLowerCase(), architecture }
  const usual = Object.hasOwn(usualVariant, architecture) ? usualVariant[architecture] : undefined
  return variant === "" || variant === `v${usual}` ? base : { ...base, variant }
}

/** `linux/amd64`, `linux/arm/v6`. */
export const formatPlatform = (platform: Platform): string =>
  [platform.os, platform.architecture, ...(platform.variant ? [platform.variant] : [])].join("/")

const partPattern = /^[A-Za-z0-9_.-]{1,32}$/

/** Parses `os/arch[/variant]`, or a lone architecture on linux. Fails with `InvalidPlatform`. */
export const parsePlatform = (text: string): Effect.Effect<Platform, InvalidPlatform> => {
  const refuse = (reason: string) => Effect.fail(new InvalidPlatform({ platform: text.slice(0, 100), reason }))
  const parts = text.split("/")
  if (text.length > 100 || parts.length > 3) return refuse("it has more than three parts")
  const bad = parts.find((part) => !partPattern.test(part))
  if (bad !== undefined) return refuse(bad === "" ? "a part is empty" : `"${bad.slice(0, 32)}" is not a name`)
  const [first = "", second, third] = parts
  if (second === undefined) {
    if (first.toLowerCase() === "linux") return Effect.succeed(defaultPlatform)
    return Effect.succeed(normalizePlatform({ os: "linux", architecture: first }))
  }
  const base = { os: first, architecture: second }
  return Effect.succeed(normalizePlatform(third === undefined ? base : { ...base, variant: third }))
}

/** linux on the CPU that Node and Bun call `nodeArch` (`process.arch`). */
export const hostPlatform = (nodeArch: string): Platform => normalizePlatform({ os: "linux", architecture: nodeArch })

const variantNumber = (platform: Platform): number | undefined => {
  const usual = usualVariant[platform.architecture]
  if (platform.variant === undefined) return usual
  const match = /^v([0-9]{1,2})$/.exec(platform.variant)
  return match === null ? undefined : Number(match[1])
}

/** How well `offered` runs on `wanted`: higher is better, 0 is exact, undefined is not at all. An older CPU variant runs on a newer one. */
export const platformScore = (wanted: Platform, offered: Platform): number | undefined => {
  const [want, offer] = [normalizePlatform(wanted), normalizePlatform(offered)]
  if (want.os !== offer.os || want.architecture !== offer.architecture) return undefined
  if (want.variant === offer.variant) return 0
  const [most, has] = [variantNumber(want), variantNumber(offer)]
  return most === undefined || has === undefined || has > most ? undefined : has - most
}

/** The entry that fits `wanted` best; the first of equals; undefined when none fits. */
export const bestMatch = <A>(
  wanted: Platform,
  entries: ReadonlyArray<A>,
  platformOf: (entry: A) => Platform | undefined
): A | undefined => {
  let best: { readonly entry: A; readonly score: number } | undefined
  for (const entry of entries) {
    const platform = platformOf(entry)
    const score = platform === undefined ? undefined : platformScore(wanted, platform)
    if (score !== undefined && (best === undefined || score > best.score)) best = { entry, score }
  }
  return best?.entry
}
