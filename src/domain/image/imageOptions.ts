/** Says what the owner of a machine can choose about images: mirrors, registries without TLS, limits. Pure. */
import { Effect, Schema } from "effect"
import { InvalidSpec } from "../errors/vm.ts"
import { fromWire, wireIssues } from "../wire.ts"
import { configBytesMax, layersMax, manifestBytesMax } from "./descriptor.ts"

/** A registry's host as references write it: `docker.io`, `registry.lan:5000`. */
const Domain = Schema.String.check(
  Schema.isPattern(/^[A-Za-z0-9.-]{1,255}(:[0-9]{1,5})?$/, { expected: "a host like registry.lan:5000" })
)
const bound = (maximum: number) => Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum })))
const tebibyte = 2 ** 40

/** Bounds of what is taken from outside; past one an image is refused. Defaults in brackets. */
export const ImageLimits = Schema.Struct({
  /** Entries of one layer [1,000,000]. */
  entries: bound(16_000_000),
  /** Bytes of a path in a layer [4,096]. */
  pathBytes: bound(4096),
  /** Components of a path in a layer [128]. */
  depth: bound(128),
  /** Bytes of one file [16 GiB]. */
  fileBytes: bound(tebibyte),
  /** Bytes of one layer, uncompressed [64 GiB]. */
  layerBytes: bound(tebibyte),
  /** Inflated bytes per compressed one, after the first 16 MiB [1,000]. */
  inflateRatio: bound(1_000_000),
  /** Layers of one image [256]. */
  layers: bound(layersMax),
  /** Bytes of a manifest [4 MiB]. */
  manifestBytes: bound(manifestBytesMax),
  /** Bytes of a config [8 MiB]. */
  configBytes: bound(configBytesMax)
})
export type ImageLimits = typeof ImageLimits.Type

/** Options of the plugin `images`, and the value of `BUNKER_IMAGES`. */
export const ImageOptions = Schema.Struct({
  /** Hosts that hold copies of a registry's repositories, asked before it and in order, by the registry's host. Default: none. */
  mirrors: Schema.optionalKey(Schema.Record(Domain, Schema.Array(Domain).check(Schema.isMaxLength(16)))),
  /** Registries and mirrors that are asked over plain HTTP. Default: none; loopback hosts need no entry. */
  insecureRegistries: Schema.optionalKey(Schema.Array(Domain)),
  limits: Schema.optionalKey(ImageLimits)
})
export type ImageOptions = typeof ImageOptions.Type

/** The options in a text: JSON in the names of the wire. Fails naming the variable and what is wrong in it. */
export const readImageOptions = (
  variable: string,
  text: string | undefined
): Effect.Effect<ImageOptions, InvalidSpec> => {
  if (text === undefined) return Effect.succeed({})
  const invalid = (reason: string) => new InvalidSpec({ field: variable, reason })
  return Effect.try({ try: (): unknown => JSON.parse(text), catch: () => invalid("it is not JSON") }).pipe(
    Effect.flatMap((value) =>
      Effect.mapError(fromWire(ImageOptions, value), (error) => {
        const [issue] = wireIssues(error)
        return invalid(
          issue === undefined || issue.path === "" ? (issue?.message ?? "invalid") : `${issue.path}: ${issue.message}`
        )
      })
    )
  )
}

/** Options over others: lists and limits of the first win, key by key. */
export const mergeImageOptions = (above: ImageOptions, below: ImageOptions): ImageOptions => ({
  mirrors: { ...below.mirrors, ...above.mirrors },
  insecureRegistries: [...(above.insecureRegistries ?? []), ...(below.insecureRegistries ?? [])],
  limits: { ...below.limits, ...above.limits }
})
