/** Digests as in the OCI image spec ("Descriptors, Digests"); only sha256 is taken. Hashes nothing. */
import { Schema } from "effect"

/** `sha256:` and 64 lower-case hexadecimal digits. */
export const Digest = Schema.String.check(Schema.isPattern(/^sha256:[0-9a-f]{64}$/)).pipe(Schema.brand("Digest"))
export type Digest = typeof Digest.Type

export const isDigest = Schema.is(Digest)

/** The 64 hexadecimal digits: a file name. */
export const digestHex = (digest: Digest): string => digest.slice("sha256:".length)
