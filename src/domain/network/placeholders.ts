/**
 * Puts the values of secrets in place of the placeholders that a guest sends: in header fields, plain and inside Basic, and where asked
 * in the query. Pure; sees no body, and puts a value into nothing that goes to a host which the secret does not name.
 *
 * Texts are as HTTP has them: one character a byte (latin-1).
 */

/** Begins every placeholder. */
const placeholderPrefix = "bnk_"

/** Where a value may be put: header fields, plain and inside Basic, when absent; `query` is both and the query besides. */
export type SecretUse = "header" | "basic" | "query"

/** A secret of a running sandbox. */
export interface ActiveSecret {
  readonly name: string
  /** What the guest has in place of the value. */
  readonly placeholder: string
  readonly hosts: ReadonlyArray<string>
  readonly use?: SecretUse | undefined
  /** Absent: revoked. */
  readonly value?: string | undefined
}

/** Why a request is not sent. */
export interface Refusal {
  readonly secret: string
  readonly reason: "other-host" | "revoked" | "unencrypted"
}

/** A request's target and header fields, with or without what was put in. */
export interface RequestTexts {
  readonly target: string
  readonly fields: ReadonlyArray<readonly [name: string, value: string]>
}

export interface Substituted extends RequestTexts {
  /** Names of the secrets whose values were put in. */
  readonly used: ReadonlyArray<string>
}

/** Where the request goes. */
export interface Destination {
  readonly host: string
  /** False where the way there is not TLS: no value goes there. */
  readonly encrypted: boolean
}

const basic = /^(basic +)([A-Za-z0-9+/]+={0,2}) *$/i

const decodeBasic = (value: string): readonly [scheme: string, text: string] | undefined => {
  const found = basic.exec(value)
  if (found === null) return undefined
  return [found[1] ?? "", Buffer.from(found[2] ?? "", "base64").toString("latin1")]
}

const asBytes = (value: string): string => Buffer.from(value, "utf8").toString("latin1")

/** Values inside the text, by what is allowed there. */
class Substitution {
  readonly used = new Set<string>()
  refusal: Refusal | undefined

  constructor(
    readonly destination: Destination,
    readonly secrets: ReadonlyArray<ActiveSecret>
  ) {}

  private refuse(secret: ActiveSecret, reason: Refusal["reason"]): void {
    this.refusal ??= { secret: secret.name, reason }
  }

  /** The text with values; `allowed` says for which secrets, others of this host stay placeholders. */
  apply(text: string, allowed: (secret: ActiveSecret) => boolean, encode: (value: string) => string): string {
    if (!text.includes(placeholderPrefix)) return text
    let result = text
    for (const secret of this.secrets) {
      if (!text.includes(secret.placeholder)) continue
      if (!secret.hosts.includes(this.destination.host)) this.refuse(secret, "other-host")
      else if (!this.destination.encrypted) this.refuse(secret, "unencrypted")
      else if (secret.value === undefined) this.refuse(secret, "revoked")
      else if (allowed(secret)) {
        result = result.replaceAll(secret.placeholder, () => encode(secret.value ?? ""))
        this.used.add(secret.name)
      }
    }
    return result
  }

  field(value: string): string {
    const credentials = decodeBasic(value)
    if (credentials === undefined) return this.apply(value, ({ use }) => use !== "basic", asBytes)
    const [scheme, text] = credentials
    const changed = this.apply(text, ({ use }) => use !== "header", asBytes)
    return changed === text ? value : `${scheme}${Buffer.from(changed, "latin1").toString("base64")}`
  }

  target(target: string): string {
    const query = target.indexOf("?")
    const path = query < 0 ? target : target.slice(0, query)
    const none = () => false
    const rest = query < 0 ? "" : this.apply(target.slice(query), ({ use }) => use === "query", encodeURIComponent)
    return `${this.apply(path, none, asBytes)}${rest}`
  }
}

/** The request with values in place of placeholders, or why it must not be sent. */
export const substitute = (
  request: RequestTexts,
  destination: Destination,
  secrets: ReadonlyArray<ActiveSecret>
): Substituted | Refusal => {
  const substitution = new Substitution(destination, secrets)
  const target = substitution.target(request.target)
  const fields = request.fields.map(([name, value]) => {
    // No name of a field has a value put in; the prefix there shall not go elsewhere either.
    substitution.apply(name, () => false, asBytes)
    return [name, substitution.field(value)] as const
  })
  return substitution.refusal ?? { target, fields, used: [...substitution.used] }
}

/** What a guest is told whose request was not sent; names no value. */
export const describeRefusal = ({ reason, secret }: Refusal, host: string): string =>
  ({
    "other-host": `it holds the placeholder of the secret ${secret}, which is not for ${host}`,
    revoked: `the secret ${secret} was revoked`,
    unencrypted: `it holds the placeholder of the secret ${secret}, and is not encrypted; use https`
  })[reason]

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
/** Least and most characters of a placeholder. */
const placeholderMin = 32
const placeholderMax = 256

/** A placeholder as long as the value, where known, from random bytes (at least `placeholderMax` of them). */
export const makePlaceholder = (random: Uint8Array, valueLength = 40): string => {
  const length = Math.min(placeholderMax, Math.max(placeholderMin, valueLength)) - placeholderPrefix.length
  return `${placeholderPrefix}${Array.from(random.subarray(0, length), (byte) => letters[byte % letters.length]).join("")}`
}
