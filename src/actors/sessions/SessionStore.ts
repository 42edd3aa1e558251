/**
 * Remembers what agents do: session graphs, checkpoints and blobs, one SQLite file a session. Says here what may be set; what can be
 * asked of it is in `sessionProtocol.ts`, what it does in `sessionBehaviour.ts`, which is loaded with the first message.
 */
import { Context, Schema } from "effect"
import type { RpcGroup } from "effect/rpc"
import { type Address, layerLater, layerLocal } from "../kit/Actor.ts"
import { SessionProtocol } from "./protocol.ts"

const count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

export const SessionOptions = Schema.Struct({
  /** Commits of a session after which it is collected; default 0, never. */
  autoRunEveryCommits: Schema.optionalKey(count),
  /** Age below which a collection spares blobs, in milliseconds; default 600,000. */
  gracePeriodMs: Schema.optionalKey(count),
  /** `balanced` (default) compresses from 4 KiB, `compact` from 1 KiB, `low_latency` never. */
  compression: Schema.optionalKey(Schema.Literals(["balanced", "compact", "low_latency"])),
  /** What a commit survives: `power_loss` (default), or the end of the `process` only, which spares an fsync a commit. */
  durability: Schema.optionalKey(Schema.Literals(["power_loss", "process"])),
  /** Files open at once, at least 1; default 32. */
  handlesMax: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThanOrEqualTo(1))),
  /** Milliseconds without use after which a file is closed; default 30,000. */
  idleMs: Schema.optionalKey(count)
})
export type SessionOptions = typeof SessionOptions.Type

export class SessionStore extends Context.Service<SessionStore, Address<RpcGroup.Rpcs<typeof SessionProtocol>>>()(
  "bunker/SessionStore"
) {
  static readonly layer = (options: SessionOptions = {}) =>
    layerLater(SessionStore, SessionProtocol, async () => {
      const { sessionBehaviour } = await import("./behaviour.ts")
      return layerLocal(SessionStore, SessionProtocol, sessionBehaviour(options))
    })
}
