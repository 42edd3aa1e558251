/**
 * Answers a registry's 401: parses `WWW-Authenticate` (RFC 9110, section 11.6.1) and fetches bearer tokens
 * (docker/distribution token specification). Tokens live in memory only, per scope, until they expire.
 */
import { Clock, Effect, Redacted, Schema, type Scope } from "effect"
import { isAhead } from "../../domain/elapsed.ts"
import { RegistryAuth, type RegistryUnavailable } from "../../domain/errors/image.ts"
import { reach } from "../../domain/failpoint.ts"
import type { Credential, CredentialSource } from "./credentials.ts"
import { mayFollow, readBounded, retryAfterMs, send, Transient, unavailable, whyNot } from "./http.ts"

/** One way of authenticating that a server offers. */
export interface Challenge {
  /** Lower case, for example `bearer`. */
  readonly scheme: string
  /** Parameter names are lower case. */
  readonly parameters: Readonly<Record<string, string>>
}

const headerBytesMax = 8_192
const tokenAnswerBytesMax = 1024 * 1024
/** A token that says nothing about its end lasts a minute (token specification). */
const defaultLifetimeSeconds = 60
const lifetimeSecondsMax = 86_400
/** Tokens are given up this long before their end. */
const expiryMarginMs = 5_000

const challengePattern = /\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+)))?\s*(,)?/y

/** Parses a `WWW-Authenticate` header of one or several challenges; what is no challenge is left out. */
export const parseChallenges = (header: string): ReadonlyArray<Challenge> => {
  const text = header.slice(0, headerBytesMax)
  const challenges: Array<{ scheme: string; parameters: Record<string, string> }> = []
  challengePattern.lastIndex = 0
  for (
    let match = challengePattern.exec(text);
    match !== null && match[0] !== "";
    match = challengePattern.exec(text)
  ) {
    const [, name = "", quoted, plain] = match
    const value = quoted === undefined ? plain : quoted.replace(/\\(.)/g, "$1")
    // A value that can not be read leaves its equals sign behind: nothing after it can be trusted.
    if (value === undefined && text[challengePattern.lastIndex] === "=") break
    if (value === undefined) challenges.push({ scheme: name.toLowerCase(), parameters: Object.create(null) })
    else if (challenges.length > 0) challenges[challenges.length - 1]!.parameters[name.toLowerCase()] = value
  }
  return challenges
}

const TokenAnswer = Schema.Struct({
  token: Schema.optionalKey(Schema.NullOr(Schema.String)),
  access_token: Schema.optionalKey(Schema.NullOr(Schema.String)),
  expires_in: Schema.optionalKey(Schema.NullOr(Schema.Finite))
})

/** What the authorizer of one repository needs to know. */
export interface AuthorizerOptions {
  /** Registry's domain as credentials are looked up, for example `docker.io`. */
  readonly domain: string
  /** Host for errors, for example `registry-1.docker.io`. */
  readonly host: string
  /** The address that asks for authentication. */
  readonly registry: URL
  /** Empty for the registry as a whole. */
  readonly repository: string
  readonly credentials: CredentialSource
  readonly insecure: boolean
  readonly stallTimeoutMs: number
}

/** Holds what proves to one registry that one repository may be read. */
export interface Authorizer {
  /** Value of the `Authorization` header to send now, if any. */
  readonly header: Effect.Effect<Redacted.Redacted<string> | undefined>
  /** Takes a 401 answer's challenges and gets what they ask for. Fails with `RegistryAuth` when there is nothing to offer. */
  readonly answer: (
    challenges: ReadonlyArray<Challenge>
  ) => Effect.Effect<void, RegistryAuth | RegistryUnavailable | Transient>
}

interface Held {
  readonly header: Redacted.Redacted<string>
  readonly expiresAtMs: number
  readonly lifetimeMs: number
}

const forever = { expiresAtMs: Number.POSITIVE_INFINITY, lifetimeMs: Number.POSITIVE_INFINITY }

const basicHeader = (credential: Credential & { kind: "basic" }): Redacted.Redacted<string> =>
  Redacted.make(
    `Basic ${Buffer.from(`${credential.username}:${Redacted.value(credential.password)}`, "utf8").toString("base64")}`
  )

const bearerHeader = (token: string): Redacted.Redacted<string> => Redacted.make(`Bearer ${token}`)

/** The token server's address, which gets the password: only one that the registry could redirect us to. */
const tokenServer = (options: AuthorizerOptions, challenge: Challenge) => {
  const realm = URL.parse(challenge.parameters["realm"] ?? "")
  if (realm === null)
    return Effect.fail(unavailable(options.host, "its token server's address is missing or not a URL"))
  return mayFollow(options.registry, realm, options.insecure)
    ? Effect.succeed(realm)
    : Effect.fail(unavailable(options.host, `it names as its token server ${whyNot(realm)}`))
}

/** Trades a credential, or none, for a bearer token. */
const fetchToken: (
  options: AuthorizerOptions,
  challenge: Challenge,
  credential: Credential | undefined
) => Effect.Effect<Held, RegistryAuth | RegistryUnavailable | Transient, Scope.Scope> = Effect.fn("oci.token")(
  function* (options: AuthorizerOptions, challenge: Challenge, credential: Credential | undefined) {
    const realm = yield* tokenServer(options, challenge)
    const service = challenge.parameters["service"] ?? ""
    const scope =
      challenge.parameters["scope"] || (options.repository === "" ? "" : `repository:${options.repository}:pull`)
    const identity = credential?.kind === "identity" ? credential.token : undefined
    const form = new URLSearchParams({ service, scope })
    if (identity !== undefined) {
      form.set("grant_type", "refresh_token")
      form.set("client_id", "bunker")
      form.set("refresh_token", Redacted.value(identity))
    } else {
      for (const [name, value] of form) if (value !== "") realm.searchParams.set(name, value)
    }
    const answer = yield* send({
      url: realm,
      headers: identity === undefined ? {} : { "content-type": "application/x-www-form-urlencoded" },
      authorization: credential?.kind === "basic" ? basicHeader(credential) : undefined,
      insecure: options.insecure,
      stallTimeoutMs: options.stallTimeoutMs,
      ...(identity === undefined ? {} : { method: "POST", body: Redacted.make(form.toString()) })
    })
    const now = yield* Clock.currentTimeMillis
    const { status, headers } = answer.response
    if (status === 429 || status >= 500) {
      return yield* new Transient({
        reason: `its token server ${realm.host} answers HTTP ${status}`,
        retryAfterMs: retryAfterMs(headers, now)
      })
    }
    if (status !== 200) {
      const refused = new RegistryAuth({ host: options.host, status, repository: options.repository })
      return yield* status >= 400 && status <= 404 ? refused : unavailable(realm.host, `it answers HTTP ${status}`)
    }
    yield* reach("token")
    const bytes = yield* readBounded(answer, tokenAnswerBytesMax, options.stallTimeoutMs)
    const decoded = yield* Schema.decodeEffect(Schema.fromJsonString(TokenAnswer))(
      new TextDecoder().decode(bytes ?? new Uint8Array())
    ).pipe(Effect.orElseSucceed((): typeof TokenAnswer.Type => ({})))
    const token = decoded.token || decoded.access_token
    if (!token || /[^\x21-\x7e]/.test(token)) return yield* unavailable(realm.host, "its answer holds no token")
    const lifetime = Math.min(Math.max(decoded.expires_in ?? 0, defaultLifetimeSeconds), lifetimeSecondsMax)
    return {
      header: bearerHeader(token),
      expiresAtMs: now + lifetime * 1000 - expiryMarginMs,
      lifetimeMs: lifetime * 1000
    }
  }
)

/** An authorizer with an empty cache; the last challenge is remembered, so that an expired token is renewed unasked. */
export const makeAuthorizer = (options: AuthorizerOptions): Authorizer => {
  const held = new Map<string, Held>()
  let current: string | undefined
  const refused = new RegistryAuth({ host: options.host, status: 401, repository: options.repository })
  const keep = (key: string, entry: Held) =>
    Effect.sync(() => {
      held.set(key, entry)
      current = key
    })
  return {
    header: Effect.map(Clock.currentTimeMillis, (now) => {
      const entry = current === undefined ? undefined : held.get(current)
      return entry !== undefined && isAhead(entry.expiresAtMs, entry.lifetimeMs, now) ? entry.header : undefined
    }),
    answer: Effect.fnUntraced(function* (challenges) {
      const credential = yield* options.credentials.get(options.domain)
      if (credential?.kind === "bearer") {
        const header = bearerHeader(Redacted.value(credential.token))
        return yield* keep("bearer", { header, ...forever })
      }
      const bearer = challenges.find((challenge) => challenge.scheme === "bearer")
      if (bearer !== undefined) {
        const key = ["realm", "service", "scope"].map((name) => bearer.parameters[name] ?? "").join("\n")
        return yield* keep(key, yield* fetchToken(options, bearer, credential))
      }
      const basic = challenges.some((challenge) => challenge.scheme === "basic")
      if (!basic || credential?.kind !== "basic") return yield* refused
      return yield* keep("basic", { header: basicHeader(credential), ...forever })
    }, Effect.scoped)
  }
}
