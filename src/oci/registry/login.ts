/**
 * Checks a user name and password against a registry, keeps them, and forgets them: with Docker's credential helper where its
 * config.json names one, else in the keyring and noted in config.json, else in config.json itself, mode 0600. Keeps what it does
 * not know in that file.
 */
import fs from "node:fs"
import path from "node:path"
import { Effect, Redacted } from "effect"
import { LoginNotStored, RegistryAuth, type RegistryUnavailable } from "../../domain/errors/image.ts"
import { registryHost } from "../../domain/image/reference.ts"
import { ensureDirectory, writeAtomic } from "../../store/files/files.ts"
import {
  type Credential,
  type DockerCredentialOptions,
  explicitCredential,
  helperCommand,
  hubKey,
  registryKey
} from "./credentials.ts"
import * as Http from "./http.ts"
import type { Keyring } from "./keyring.ts"
import { makeAuthorizer, parseChallenges } from "./token.ts"

type Basic = Credential & { readonly kind: "basic" }

/** Where a login is kept, for people. */
export interface LoginStored {
  readonly place: string
  /** True when the password can be read in a file. */
  readonly plain: boolean
}

const helperTimeout = "60 seconds"
const retry = { ...Http.defaultRetryPolicy, attemptsMax: 3 }

/** Asks the registry's base address with the credential (distribution spec, "Determining Support"). Fails with `RegistryAuth` when it is refused. */
export const checkLogin: (
  domain: string,
  credential: Basic,
  insecure: boolean
) => Effect.Effect<void, RegistryAuth | RegistryUnavailable> = Effect.fn("oci.checkLogin")(function* (
  domain: string,
  credential: Basic,
  insecure: boolean
) {
  const host = registryHost(domain)
  const plain = insecure || Http.isLoopbackHost(URL.parse(`http://${host}`)?.hostname ?? "")
  const url = new URL(`${plain ? "http" : "https"}://${host}/v2/`)
  const { stallTimeoutMs } = retry
  const credentials = explicitCredential(domain, credential)
  const authorizer = makeAuthorizer({
    ...{ domain, host, registry: url, repository: "" },
    ...{ credentials, insecure, stallTimeoutMs }
  })
  const ask = Effect.gen(function* () {
    const authorization = yield* authorizer.header
    return (yield* Http.send({ url, headers: {}, authorization, insecure, stallTimeoutMs })).response
  }).pipe(Effect.scoped)
  const check = Effect.gen(function* () {
    const first = yield* ask
    const refused = first.status === 401
    if (refused) yield* authorizer.answer(parseChallenges(first.headers.get("www-authenticate") ?? ""))
    const { status } = refused ? yield* ask : first
    if (status === 401 || status === 403) return yield* new RegistryAuth({ host, status, repository: "" })
    if (status === 429 || status >= 500) return yield* new Http.Transient({ reason: `HTTP ${status}`, retryAfterMs: 0 })
    if (status !== 200) return yield* Http.unavailable(host, `it is no registry: HTTP ${status} for ${url.pathname}`)
  })
  yield* Http.retried(host, retry, check)
})

const configFile = (options: DockerCredentialOptions): string => {
  const file = path.join(options.directory, "config.json")
  try {
    // A link into somebody's dotfiles stays a link.
    return fs.realpathSync(file)
  } catch {
    return file
  }
}

type Json = Record<string, unknown>

const isJson = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)

/** The file as it is; `{}` when there is none. A broken one is refused, for writing it would lose what it holds. */
const readConfig = (file: string): Effect.Effect<Json, LoginNotStored> =>
  Effect.try({
    try: () => {
      const text = fs.existsSync(file) ? fs.readFileSync(file, "utf8") : ""
      const value: unknown = text.trim() === "" ? {} : JSON.parse(text)
      if (!isJson(value)) throw new Error("it is not a JSON object")
      return value
    },
    catch: (cause) => {
      const { code } = cause as { readonly code?: unknown }
      return new LoginNotStored({ place: file, reason: typeof code === "string" ? code : "it is not a JSON object" })
    }
  })

const writeConfig = (file: string, config: Json): Effect.Effect<void, LoginNotStored> =>
  Effect.andThen(
    ensureDirectory(path.dirname(file)),
    writeAtomic(file, `${JSON.stringify(config, null, "\t")}\n`)
  ).pipe(Effect.mapError((error) => new LoginNotStored({ place: file, reason: error.message })))

const helperOf = (config: Json, domain: string): string | undefined => {
  const own = Object.entries(isJson(config["credHelpers"]) ? config["credHelpers"] : {})
  const name = own.find(([key]) => registryKey(key) === registryKey(domain))?.[1] ?? config["credsStore"]
  return typeof name === "string" && name !== "" ? name : undefined
}

const serverUrl = (domain: string): string => (registryKey(domain) === "docker.io" ? hubKey : domain)

/** `docker-credential-NAME store` or `erase` (docker/docker-credential-helpers); answers its exit code. */
const tellHelper = Effect.fn("oci.credentialHelper")(function* (
  helper: string,
  action: "store" | "erase",
  input: Redacted.Redacted<string>,
  searchPath: string | undefined
) {
  const place = `the credential helper docker-credential-${helper}`
  const command = helperCommand(helper, searchPath)
  if (command === null) return yield* new LoginNotStored({ place, reason: "it is not installed" })
  return yield* Effect.tryPromise({
    try: (signal) =>
      Bun.spawn([command, action], {
        stdin: Buffer.from(Redacted.value(input)),
        stdout: "ignore",
        stderr: "ignore",
        signal,
        killSignal: "SIGKILL"
      }).exited,
    catch: () => new LoginNotStored({ place, reason: "it can not be started" })
  }).pipe(
    Effect.timeoutOrElse({
      duration: helperTimeout,
      orElse: () => Effect.fail(new LoginNotStored({ place, reason: "it does not end" }))
    })
  )
})

const withoutEntry = (config: Json, domain: string): Json => {
  const auths = isJson(config["auths"]) ? config["auths"] : {}
  const kept = Object.entries(auths).filter(([key]) => registryKey(key) !== registryKey(domain))
  return { ...config, auths: Object.fromEntries(kept) }
}

const hasEntry = (config: Json, domain: string): boolean =>
  isJson(config["auths"]) && Object.keys(config["auths"]).some((key) => registryKey(key) === registryKey(domain))

/** Keeps a checked credential. */
export const storeLogin = Effect.fn("oci.storeLogin")(function* (
  domain: string,
  credential: Basic,
  options: DockerCredentialOptions & { readonly keyring: Keyring }
): Effect.fn.Return<LoginStored, LoginNotStored> {
  const file = configFile(options)
  const config = yield* readConfig(file)
  const { password, username } = credential
  const helper = helperOf(config, domain)
  if (helper !== undefined) {
    const place = `the credential helper docker-credential-${helper}`
    const fields = { ServerURL: serverUrl(domain), Username: username, Secret: Redacted.value(password) }
    const code = yield* tellHelper(helper, "store", Redacted.make(JSON.stringify(fields)), options.searchPath)
    if (code !== 0) return yield* new LoginNotStored({ place, reason: `it ended with ${code}` })
    return { place, plain: false }
  }
  const keep = (entry: Json) => {
    const rest = withoutEntry(config, domain)
    return writeConfig(file, { ...rest, auths: { ...(rest["auths"] as Json), [serverUrl(domain)]: entry } })
  }
  if (yield* options.keyring.set(domain, credential)) {
    // An entry without a password tells that somebody else keeps it, as Docker's own entries beside a helper do.
    yield* keep({})
    return { place: "the keyring", plain: false }
  }
  yield* keep({ auth: Buffer.from(`${username}:${Redacted.value(password)}`, "utf8").toString("base64") })
  return { place: file, plain: true }
})

/** Forgets a registry's credentials wherever they are kept; answers whether there were any. */
export const forgetLogin = Effect.fn("oci.forgetLogin")(function* (
  domain: string,
  options: DockerCredentialOptions & { readonly keyring: Keyring }
): Effect.fn.Return<boolean, LoginNotStored> {
  const file = configFile(options)
  const config = yield* readConfig(file)
  let forgotten = yield* options.keyring.remove(domain)
  const helper = helperOf(config, domain)
  if (helper !== undefined) {
    const code = yield* tellHelper(helper, "erase", Redacted.make(serverUrl(domain)), options.searchPath)
    forgotten = code === 0 || forgotten
  }
  if (hasEntry(config, domain)) {
    yield* writeConfig(file, withoutEntry(config, domain))
    forgotten = true
  }
  return forgotten
})
