/**
 * Joins the interceptor to the network stack: says which flows it takes over, and connects them as the stack would. Holds the secrets
 * of one sandbox in memory and writes them nowhere.
 */
import type net from "node:net"
import type { ActiveSecret } from "../../domain/network/placeholders.ts"
import type { Allow, Destination, Dialer, Intercept } from "../types.ts"
import { type AuthorityState, restoreAuthority } from "./authority.ts"
import { dialStream } from "./dialedStream.ts"
import type { SecretEvent } from "./gate.ts"
import { type Interceptor, makeInterceptor } from "./interceptor.ts"

/** What a keeper tells of the secrets of its sandbox. */
export interface InterceptionState {
  readonly authority: AuthorityState
  readonly secrets: ReadonlyArray<ActiveSecret>
  /** Names that are opened without a secret. */
  readonly inspected: ReadonlyArray<string>
}

export interface InterceptionOptions {
  readonly dialer: Pick<Dialer, "tcp">
  /** Whether an address that a name leads to may be connected to. */
  readonly allow: (to: Destination) => Allow
  /** Asked for when the first flow is opened. */
  readonly trust: () => ReadonlyArray<string>
  readonly onEvent: (event: SecretEvent) => void
}

export class Interception {
  private interceptor: Interceptor | undefined
  private authority = ""

  constructor(private readonly options: InterceptionOptions) {}

  /** Takes effect on the next request; what lost its value ends. */
  update(state: InterceptionState): void {
    const { certificate } = state.authority
    if (this.interceptor !== undefined && this.authority === certificate) {
      this.interceptor.update(state)
      return
    }
    this.interceptor?.close()
    this.authority = certificate
    this.interceptor = makeInterceptor({
      ...state,
      authority: restoreAuthority(state.authority),
      trust: this.options.trust(),
      onEvent: this.options.onEvent
    })
  }

  /** For the stack: flows to opened hosts, and QUIC to them, which is refused so that clients fall back. */
  readonly intercept: Intercept = (to) => {
    const { interceptor } = this
    const { name, port, protocol } = to
    if (name === undefined || interceptor?.opens(name) !== true) return undefined
    if (protocol === "udp" && port !== 443) return undefined
    return async () => {
      const server = await dialStream((handler) => this.options.dialer.tcp(to, this.options.allow(to), handler))
      return (guest: net.Socket) => void interceptor.relay({ host: name, port, guest, server })
    }
  }
}
