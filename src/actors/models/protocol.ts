/** The messages of the ModelCache: what each carries, returns and fails with. Runs none of them (see behaviour.ts). */
import { Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import {
  ModelAddErrors,
  ModelEnsureErrors,
  ModelLookupErrors,
  ModelPullErrors,
  ModelRemoveErrors,
  ModelReplaceErrors,
  StoreErrors
} from "../../domain/errors/groups.ts"
import {
  CredentialAlias,
  ModelCacheReport,
  ModelDropped,
  ModelEntry,
  ModelEvent,
  ModelList,
  ModelRemoved,
  ModelReplacement,
  ModelSpec
} from "../../domain/model/model.ts"

const Named = { name: Schema.String.check(Schema.isMaxLength(1024)) }
const Directory = Schema.String.check(Schema.isMinLength(1), Schema.isMaxLength(4096))

export class ModelProtocol extends RpcGroup.make(
  Rpc.make("Add", { payload: ModelSpec, success: ModelEntry, error: ModelAddErrors }),
  Rpc.make("List", { success: ModelList, error: StoreErrors }),
  Rpc.make("Get", { payload: Named, success: ModelEntry, error: ModelLookupErrors }),
  /** Replaces an entry; its files stay until the next pull. */
  Rpc.make("Replace", { payload: ModelReplacement, success: ModelEntry, error: ModelReplaceErrors }),
  /** Drops the files and the entry. */
  Rpc.make("Remove", { payload: Named, success: ModelRemoved, error: ModelRemoveErrors }),
  /** Fetches the files; the last event is `Done`. A directory takes the place of the entry's source. */
  Rpc.make("Pull", {
    payload: {
      ...Named,
      fixtureDir: Schema.optionalKey(Directory),
      /** Another name of `fixtureDir`. */
      sourceDir: Schema.optionalKey(Directory),
      credentialAlias: Schema.optionalKey(CredentialAlias)
    },
    success: ModelEvent,
    error: ModelPullErrors,
    stream: true
  }),
  /** What is in the cache; `full` reads every byte. Default `quick`. */
  Rpc.make("Status", {
    payload: { ...Named, verify: Schema.optionalKey(Schema.Literals(["quick", "full"])) },
    success: ModelCacheReport,
    error: ModelLookupErrors
  }),
  /** Drops the files and keeps the entry. */
  Rpc.make("Drop", { payload: Named, success: ModelDropped, error: ModelLookupErrors }),
  /** Makes a model be here for a sandbox, as its pull policy says. */
  Rpc.make("Ensure", { payload: Named, success: ModelEvent, error: ModelEnsureErrors, stream: true })
) {}
