/**
 * Names the messages of ImageStore: what can be asked of the images on this machine, and what each may fail with. Holds no behaviour.
 */
import { Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import {
  ImageLookupErrors,
  ImageRemoveErrors,
  ImportErrors,
  InstallErrors,
  LoginErrors,
  SaveErrors,
  StoreErrors
} from "../../domain/errors/groups.ts"
import { InvalidSpec } from "../../domain/errors/vm.ts"
import {
  CollectReport,
  ImageEvent,
  ImageHandle,
  ImageInspection,
  LeasedImage,
  PullPolicy,
  Usage
} from "../../domain/image/image.ts"
import { Platform } from "../../domain/image/platform.ts"

/** Of any length: reading it says what is wrong with it. */
const Reference = Schema.String

const LoginFields = Schema.Struct({
  username: Schema.NonEmptyString.check(Schema.isMaxLength(1024)),
  /** Password or access token. */
  password: Schema.RedactedFromValue(Schema.NonEmptyString.check(Schema.isMaxLength(65_536)))
})
/** Host of a registry, like `ghcr.io`. */
const Registry = Schema.String.check(Schema.isMaxLength(512))

export class ImageProtocol extends RpcGroup.make(
  /** Makes the image be here; the last event is `Done`. */
  Rpc.make("Pull", {
    payload: {
      reference: Reference,
      policy: PullPolicy,
      platform: Schema.optionalKey(Platform),
      /** Asks over plain HTTP a registry that is not on this machine. */
      insecure: Schema.optionalKey(Schema.Boolean),
      /** Goes before the credentials of environment, keyring and Docker's config. */
      login: Schema.optionalKey(LoginFields)
    },
    success: ImageEvent,
    error: InstallErrors,
    stream: true
  }),
  /** Loads an OCI layout directory, an OCI archive or a `docker save` archive; `tag` names an image that has no name. */
  Rpc.make("Load", {
    payload: { path: Schema.String, tag: Schema.optionalKey(Reference), platform: Schema.optionalKey(Platform) },
    success: ImageEvent,
    error: InstallErrors,
    stream: true
  }),
  /** Makes an image of one layer from a root file system: a directory, or a tar of one. */
  Rpc.make("Import", {
    payload: {
      path: Schema.String,
      reference: Reference,
      /** Instructions like those of a Dockerfile: `CMD ["sh"]`, `ENV A=b`, … */
      changes: Schema.optionalKey(Schema.Array(Schema.String).check(Schema.isMaxLength(1000))),
      platform: Schema.optionalKey(Platform)
    },
    success: ImageEvent,
    error: ImportErrors,
    stream: true
  }),
  /**
   * An OCI archive of the images, as a stream of its bytes: the same configs and diff ids; layers are plain tars. `docker load`
   * reads it, too.
   */
  Rpc.make("Save", {
    payload: { references: Schema.NonEmptyArray(Reference).check(Schema.isMaxLength(100)) },
    success: Schema.Uint8Array,
    error: SaveErrors,
    stream: true
  }),
  /** An image ready to boot; `token` names a content lease of the caller that is made to hold it first. */
  Rpc.make("Lease", {
    payload: {
      reference: Reference,
      /** Row id of a sandbox: then the image is the one that it was made from, whatever the reference names by now. */
      sandboxId: Schema.optionalKey(Schema.Int),
      token: Schema.NonEmptyString,
      durationMs: Schema.Int
    },
    success: LeasedImage,
    error: InstallErrors
  }),
  Rpc.make("Get", { payload: { reference: Reference }, success: ImageHandle, error: ImageLookupErrors }),
  Rpc.make("List", { success: Schema.Array(ImageHandle), error: StoreErrors }),
  Rpc.make("Inspect", { payload: { reference: Reference }, success: ImageInspection, error: ImageLookupErrors }),
  Rpc.make("Remove", {
    payload: { reference: Reference, force: Schema.Boolean },
    success: CollectReport,
    error: ImageRemoveErrors
  }),
  /**
   * Removes every image that is the root of no sandbox, and files of the cache that no record names. A dry run answers the same
   * and changes nothing.
   */
  Rpc.make("Prune", {
    payload: { dryRun: Schema.optionalKey(Schema.Boolean) },
    success: CollectReport,
    error: Schema.Union([InvalidSpec, ...StoreErrors.members])
  }),
  /** Checks a user name and password with a registry, and keeps them when they are right. */
  Rpc.make("Login", {
    payload: { registry: Registry, ...LoginFields.fields, insecure: Schema.optionalKey(Schema.Boolean) },
    success: Schema.Struct({
      /** Keyring, helper or file. */
      place: Schema.String,
      /** True when whoever can read the file can read the password. */
      plain: Schema.Boolean
    }),
    error: LoginErrors
  }),
  Rpc.make("Logout", {
    payload: { registry: Registry },
    success: Schema.Struct({ forgotten: Schema.Boolean }),
    error: LoginErrors
  }),
  Rpc.make("Usage", { success: Usage, error: StoreErrors })
) {}
