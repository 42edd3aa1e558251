/**
 * Remembers what agents do: session graphs, checkpoints and blobs, one SQLite file a session. What can be set
 * and asked of it is in protocol.ts, what it does in behaviour.ts, which is loaded with the first message.
 */
import { Context } from "effect"
import type { RpcGroup } from "effect/rpc"
import { type Address, layerLater, layerLocal } from "../kit/Actor.ts"
import { type SessionOptions, SessionProtocol } from "./protocol.ts"

export class SessionStore extends Context.Service<SessionStore, Address<RpcGroup.Rpcs<typeof SessionProtocol>>>()(
  "bunker/SessionStore"
) {
  static readonly layer = (options: SessionOptions = {}) =>
    layerLater(SessionStore, SessionProtocol, async () => {
      const { sessionBehaviour } = await import("./behaviour.ts")
      return layerLocal(SessionStore, SessionProtocol, sessionBehaviour(options))
    })
}
