/** Compares bytes with the descriptor that announced them. Stores nothing; the consumer acts only after the stream's end. */
import { Effect, Stream } from "effect"
import { DigestMismatch, ManifestInvalid } from "../../domain/errors/image.ts"

/** Length and sha256 that bytes must have. */
export interface Expected {
  /** `sha256:` and 64 hexadecimal digits. */
  readonly digest: string
  readonly sizeBytes: number
}

/** `sha256:` and the hash of `bytes`. */
export const digestOf = (bytes: Uint8Array): string =>
  `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`

const wrongSize = (what: string, expected: number, actual: string): DigestMismatch =>
  new DigestMismatch({ what, expected: `${expected} bytes`, actual })

/** Checks a whole small document. */
export const checkBytes = (
  what: string,
  expected: Expected,
  bytes: Uint8Array
): Effect.Effect<Uint8Array, DigestMismatch> => {
  if (bytes.length !== expected.sizeBytes)
    return Effect.fail(wrongSize(what, expected.sizeBytes, `${bytes.length} bytes`))
  const actual = digestOf(bytes)
  return actual === expected.digest
    ? Effect.succeed(bytes)
    : Effect.fail(new DigestMismatch({ what, expected: expected.digest, actual }))
}

/** Fails before anything is read when a descriptor announces more than the bound. */
export const checkAnnounced = (
  what: string,
  sizeBytes: number,
  maxBytes: number
): Effect.Effect<void, ManifestInvalid> =>
  sizeBytes <= maxBytes
    ? Effect.void
    : Effect.fail(
        new ManifestInvalid({ what, field: "size", value: `${sizeBytes}, more than the ${maxBytes} bytes allowed` })
      )

/** Passes bytes on while it hashes them; the byte after the announced last one, a short end or another hash fail. */
export const verified = <E>(
  what: string,
  expected: Expected,
  bytes: Stream.Stream<Uint8Array, E>
): Stream.Stream<Uint8Array, E | DigestMismatch> =>
  Stream.suspend(() => {
    const hasher = new Bun.CryptoHasher("sha256")
    let received = 0
    const take = (chunk: Uint8Array): Effect.Effect<Uint8Array, DigestMismatch> => {
      received += chunk.length
      if (received > expected.sizeBytes)
        return Effect.fail(wrongSize(what, expected.sizeBytes, `more: ${received} so far`))
      hasher.update(chunk)
      return Effect.succeed(chunk)
    }
    const finish = Effect.suspend(() => {
      if (received !== expected.sizeBytes) return Effect.fail(wrongSize(what, expected.sizeBytes, `${received} bytes`))
      const actual = `sha256:${hasher.digest("hex")}`
      return actual === expected.digest
        ? Effect.void
        : Effect.fail(new DigestMismatch({ what, expected: expected.digest, actual }))
    })
    return bytes.pipe(Stream.mapEffect(take), Stream.concat(Stream.fromEffectDrain(finish)))
  })
