/**
 * Makes a guest trust the certificate authority of its sandbox: writes it to the bundles of the image, in the guest's own upper, and
 * says which variables name them. Changes no image; what keeps certificates elsewhere (Java, NSS) is left as it is.
 */
import { Effect, type Scope, Stream } from "effect"
import type { FileFailed, FileNotFound } from "../../../domain/errors/guestIo.ts"
import type { GuestChannelFailed } from "../../../domain/errors/vm.ts"
import type { FileOperation } from "../../../domain/sandbox/guestFiles.ts"
import { hostTrust } from "../../../net/tls/hostTrust.ts"
import { collectFiles } from "../../../vm/guest/files.ts"
import type { GuestRequests } from "../../../vm/guest/GuestChannel.ts"

type GuestError = FileFailed | FileNotFound | GuestChannelFailed

/** Where distributions keep all certificates in one file: Debian and Alpine, Fedora, SUSE, older ones of Fedora and Alpine. */
const bundles = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
  "/var/lib/ca-certificates/ca-bundle.pem",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/cert.pem"
] as const
/** What makes bundles anew reads these: update-ca-certificates, update-ca-trust. */
const own = "/usr/local/share/ca-certificates/bunker.crt"
const anchors = "/etc/pki/ca-trust/source/anchors"

/** Longest bundle, in bytes. */
const bundleBytesMax = 8 * 1024 * 1024
const mark = "# The authority of this sandbox (bunker)"

/** Variables that name all certificates, and those that name some more. */
const replacing = [
  "SSL_CERT_FILE",
  "REQUESTS_CA_BUNDLE",
  "CURL_CA_BUNDLE",
  "GIT_SSL_CAINFO",
  "PIP_CERT",
  "CARGO_HTTP_CAINFO"
]
const adding = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"]

/** `KEY=value` for every command. */
export const trustVariables = (bundle: string): ReadonlyArray<string> => [
  ...replacing.map((name) => `${name}=${bundle}`),
  ...adding.map((name) => `${name}=${own}`)
]

const run = (channel: GuestRequests, operation: FileOperation, input?: Uint8Array) =>
  Effect.scoped(
    Effect.gen(function* () {
      const connection = yield* channel.file(operation)
      const send = input === undefined ? Effect.void : Effect.andThen(connection.write(input), connection.closeInput)
      yield* Effect.forkChild(Effect.ignore(send))
      const chunks: Array<Uint8Array> = []
      let bytes = 0
      yield* Stream.runForEach(connection.output, (chunk) => {
        bytes += chunk.length
        if (bytes <= bundleBytesMax) chunks.push(chunk)
        return Effect.void
      })
      return Buffer.concat(chunks)
    })
  )

/** What the path is itself, links not followed; undefined for nothing. */
const typeOf = Effect.fnUntraced(function* (
  channel: GuestRequests,
  path: string
): Effect.fn.Return<string | undefined, GuestChannelFailed | FileFailed, Scope.Scope> {
  const found = yield* channel.file({ do: "stat", path }).pipe(
    Effect.flatMap(({ output }) => collectFiles(path, output)),
    Effect.catchTag("FileNotFound", () => Effect.succeed([]))
  )
  return found[0]?.type
}, Effect.scoped)

const block = (certificate: string): string => `\n${mark}\n${certificate.trim()}\n`
const blocks = new RegExp(`\\n${mark.replace(/[()]/g, "\\$&")}\\n-----BEGIN[^-]+-----[^-]+-----END[^-]+-----\\n`, "g")

/** Appends the certificate where it is not there yet; one of an earlier authority goes. */
const append = Effect.fnUntraced(function* (channel: GuestRequests, path: string, certificate: string) {
  const text = (yield* run(channel, { do: "get", path })).toString("latin1")
  const fresh = `${text.replace(blocks, "")}${block(certificate)}`
  if (fresh !== text) yield* run(channel, { do: "put", path }, Buffer.from(fresh, "latin1"))
})

const put = Effect.fnUntraced(function* (channel: GuestRequests, path: string, text: string) {
  yield* run(channel, { do: "mkdir", path: path.slice(0, path.lastIndexOf("/")), recursive: true })
  yield* run(channel, { do: "put", path, mode: 0o644 }, Buffer.from(text, "latin1"))
})

/** The bundle that variables are to name, with the authority in it. `imageEnv`: one that the image names comes first. */
export const trustAuthority = Effect.fn("Secrets.trust")(function* (
  channel: GuestRequests,
  certificate: string,
  imageEnv: ReadonlyArray<string>
): Effect.fn.Return<string, GuestError> {
  const named = imageEnv.flatMap((entry) => /^SSL_CERT_FILE=(\/.+)$/s.exec(entry)?.[1] ?? [])
  const found: Array<string> = []
  for (const path of new Set([...named, ...bundles])) {
    if ((yield* typeOf(channel, path)) === "file") found.push(path)
  }
  yield* Effect.forEach(found, (path) => append(channel, path, certificate), { discard: true })
  yield* put(channel, own, certificate)
  if ((yield* typeOf(channel, anchors)) === "directory") yield* put(channel, `${anchors}/bunker.pem`, certificate)
  const [first] = found
  if (first !== undefined) return first
  // An image without certificates: this machine's, so that other hosts work for whoever follows the variables.
  const [bundle] = bundles
  yield* put(channel, bundle, `${hostTrust({}).join("\n")}\n${block(certificate)}`)
  return bundle
})
