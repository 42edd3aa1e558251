/**
 * Decides on each request of an opened connection: whether it names the host that the connection is for, and which values go into it.
 * Moves no bytes, and tells values to nobody but who sends the request on.
 */
import {
  type ActiveSecret,
  describeRefusal,
  type Refusal,
  type RequestTexts,
  substitute
} from "../../domain/network/placeholders.ts"

/** What happened on opened connections. Holds names, never values. */
export type SecretEvent =
  | { readonly kind: "used"; readonly host: string; readonly port: number; readonly secret: string }
  | {
      readonly kind: "refused"
      readonly host: string
      readonly port: number
      readonly secret: string
      readonly reason: Refusal["reason"]
    }
  /** A request, or a client's hello, that names another host than its flow goes to. */
  | { readonly kind: "misdirected"; readonly host: string; readonly port: number; readonly named: string }
  /** A request of a host that is only looked at. */
  | {
      readonly kind: "request"
      readonly host: string
      readonly port: number
      readonly method: string
      readonly path: string
    }
  /** The server could not be verified, or ended the handshake. */
  | { readonly kind: "untrusted"; readonly host: string; readonly port: number; readonly reason: string }

export interface GateOptions {
  readonly host: string
  readonly port: number
  /** False for HTTP without TLS, to which no value goes. */
  readonly encrypted: boolean
  /** Those of the sandbox at this moment, also the ones of other hosts. */
  readonly secrets: () => ReadonlyArray<ActiveSecret>
  readonly inspected: boolean
  readonly onEvent: (event: SecretEvent) => void
}

export interface GateRequest extends RequestTexts {
  readonly method: string
  /** `host[:port]` of the request; undefined where it has none. */
  readonly authority: string | undefined
}

/** An answer in the server's place. */
export interface Denied {
  readonly status: 400 | 403 | 421 | 431 | 501 | 502
  readonly text: string
}

export type Verdict = { readonly request: RequestTexts; readonly secretsUsed: boolean } | { readonly denied: Denied }

export interface Gate {
  readonly pass: (request: GateRequest) => Verdict
  /** Why fields that follow a body must not be sent; they never get a value. */
  readonly trailers: (fields: RequestTexts["fields"]) => Denied | undefined
}

/** Longest part of what a guest wrote that an event repeats, in characters. */
const shownMax = 256

const shown = (text: string): string => text.slice(0, shownMax).replace(/[^\x21-\x7e]/g, "?")

const namesOther = (authority: string | undefined, host: string, port: number): boolean => {
  const found = /^([^:@/?#\s]+?)\.?(?::(\d{1,5}))?$/.exec(authority ?? "")
  return found === null || found[1]?.toLowerCase() !== host || (found[2] !== undefined && Number(found[2]) !== port)
}

export const makeGate = (options: GateOptions): Gate => {
  const { encrypted, host, onEvent, port } = options
  const refuse = ({ reason, secret }: Refusal): Denied => {
    onEvent({ kind: "refused", host, port, secret, reason })
    return { status: 403, text: `not sent: ${describeRefusal({ reason, secret }, host)}` }
  }
  return {
    pass: (request) => {
      if (namesOther(request.authority, host, port)) {
        const named = shown(request.authority ?? "")
        onEvent({ kind: "misdirected", host, port, named })
        return { denied: { status: 421, text: `not sent: the connection is for ${host}, the request for "${named}"` } }
      }
      const result = substitute(request, { host, encrypted }, options.secrets())
      if ("reason" in result) return { denied: refuse(result) }
      for (const secret of result.used) onEvent({ kind: "used", host, port, secret })
      if (options.inspected) {
        const [path = ""] = request.target.split("?")
        onEvent({ kind: "request", host, port, method: shown(request.method), path: shown(path) })
      }
      return { request: result, secretsUsed: result.used.length > 0 }
    },
    trailers: (fields) => {
      const result = substitute(
        { target: "", fields },
        { host, encrypted },
        options.secrets().filter((each) => !each.hosts.includes(host))
      )
      return "reason" in result ? refuse(result) : undefined
    }
  }
}
