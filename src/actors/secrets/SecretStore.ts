/**
 * Keeps secrets for sandboxes: sets, lists and removes those of the home's store, and those that one sandbox was given. Tells nobody a
 * value; who keeps a sandbox reads them itself (keeper/interception.ts) and hears of changes by the files.
 */
import { Context, Effect, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { SecretErrors } from "../../domain/errors/groups.ts"
import { InvalidSpec, SandboxNotFound } from "../../domain/errors/vm.ts"
import { parseName } from "../../domain/name.ts"
import { SecretName, SecretValue } from "../../domain/network/secrets.ts"
import { Database } from "../../store/database/Database.ts"
import { findSandbox } from "../../store/database/sandboxes.ts"
import { Paths } from "../../store/files/Paths.ts"
import { listSecrets, removeSecret, setSecrets } from "../../store/secrets/secretFile.ts"
import { type Address, layerLocal } from "../kit/Actor.ts"

/** What is shown of a secret; never its value. */
const SecretInfo = Schema.Struct({
  name: Schema.String,
  /** Unix milliseconds of its last change. */
  updatedAt: Schema.Int
})

/** Present: the value is that sandbox's alone. */
const sandbox = Schema.optionalKey(Schema.String)

export const SecretProtocol = RpcGroup.make(
  /** Sets one, new or not; sandboxes that run get it with their next request. */
  Rpc.make("Set", { payload: { name: SecretName, value: SecretValue, sandbox }, error: SecretErrors }),
  Rpc.make("List", { payload: { sandbox }, success: Schema.Array(SecretInfo), error: SecretErrors }),
  /** Removes one: requests that need it are refused, and connections to its hosts end. */
  Rpc.make("Remove", { payload: { name: SecretName, sandbox }, error: SecretErrors })
)

const make = Effect.gen(function* () {
  const paths = yield* Paths
  const db = yield* Database

  const placeOf = Effect.fnUntraced(function* (text: string | undefined) {
    if (text === undefined) return paths.secrets
    const name = yield* parseName(text)
    const found = yield* findSandbox(db, name)
    if (found === undefined) return yield* new SandboxNotFound({ sandbox: name })
    return { ...paths.sandbox(name).secrets, info: found.info }
  })

  return SecretProtocol.of({
    Set: ({ name, sandbox, value }) =>
      Effect.gen(function* () {
        const place = yield* placeOf(sandbox)
        if (
          "info" in place &&
          !place.info.config.secrets?.some((each) => each.name === name && each.store === undefined)
        ) {
          const reason = `${place.info.name} has no secret ${name} with a value of its own; see 'bunker inspect ${place.info.name}'`
          return yield* new InvalidSpec({ field: "name", reason })
        }
        yield* setSecrets(place, new Map([[name, value]]))
      }),
    List: ({ sandbox }) => Effect.flatMap(placeOf(sandbox), listSecrets),
    Remove: ({ name, sandbox }) => Effect.flatMap(placeOf(sandbox), (place) => removeSecret(place, name))
  })
})

export class SecretStore extends Context.Service<SecretStore, Address<RpcGroup.Rpcs<typeof SecretProtocol>>>()(
  "bunker/SecretStore"
) {
  static readonly layer = layerLocal(SecretStore, SecretProtocol, make)
}
