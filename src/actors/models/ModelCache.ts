/**
 * Keeps a registry of models and a cache of their files: register, pull, look, drop. What can be asked of it is in
 * protocol.ts, what it does in behaviour.ts, which is loaded with the first message.
 */
import { Context } from "effect"
import type { RpcGroup } from "effect/rpc"
import { type Address, type Later, layerLater, layerLocal } from "../kit/Actor.ts"
import type { ModelSources } from "./install.ts"
import { ModelProtocol } from "./protocol.ts"

export class ModelCache extends Context.Service<ModelCache, Address<RpcGroup.Rpcs<typeof ModelProtocol>>>()(
  "bunker/ModelCache"
) {
  static readonly layer = (sources: Later<ModelSources>) =>
    layerLater(ModelCache, ModelProtocol, async () => {
      const { modelBehaviour } = await import("./behaviour.ts")
      return layerLocal(ModelCache, ModelProtocol, modelBehaviour(await sources()))
    })
}
