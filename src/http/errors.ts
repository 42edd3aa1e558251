/** Maps every error tag to an HTTP status; a new error does not compile until it stands here. Holds nothing else. */
import type * as Errors from "../domain/errors.ts"

type Constructed = {
  [K in keyof typeof Errors]: (typeof Errors)[K] extends new (...args: never) => infer E ? E : never
}[keyof typeof Errors]
export type Tag = Extract<Constructed, { readonly _tag: string }>["_tag"]

export type Statuses = Readonly<Record<Tag, number>>

const statuses: Statuses = {
  InvalidReference: 400,
  InvalidPlatform: 400,
  InvalidName: 400,
  InvalidSpec: 400,
  InvalidSessionId: 400,
  InvalidInput: 400,
  ManifestInvalid: 422,
  DigestMismatch: 422,
  LayerRejected: 422,
  MountRefused: 422,
  ArchiveInvalid: 422,
  RootfsInvalid: 422,
  MachineConfigInvalid: 422,
  InvalidGraph: 422,
  CommitRejected: 422,
  BlobMismatch: 422,
  SessionFileInvalid: 422,
  GraphTooLarge: 422,
  BlobTooLarge: 413,
  ImageNotFound: 404,
  ImageNotCached: 404,
  PlatformNotFound: 404,
  SandboxNotFound: 404,
  FileNotFound: 404,
  FileFailed: 422,
  CopyFailed: 422,
  PortTaken: 409,
  PortRefused: 502,
  SessionNotFound: 404,
  NodeNotFound: 404,
  BlobNotFound: 404,
  UnknownMessage: 404,
  PluginMissing: 500,
  PluginDuplicate: 500,
  PluginCycle: 500,
  PluginInvalid: 500,
  PermissionDenied: 403,
  ImageInUse: 409,
  ImageNotSavable: 409,
  AlreadyExists: 409,
  AlreadyRunning: 409,
  WrongState: 409,
  ImageMoved: 409,
  SessionExists: 409,
  HeadConflict: 409,
  TurnConflict: 409,
  LeaseLost: 409,
  SandboxesActive: 409,
  InstallInProgress: 409,
  AlreadyServing: 409,
  RegistryAuth: 401,
  LoginNotStored: 500,
  RegistryUnavailable: 503,
  EngineUnavailable: 503,
  LibraryNotFound: 503,
  SupervisorUnreachable: 503,
  ExecFailed: 422,
  KrunCallFailed: 500,
  BootFailed: 500,
  GuestChannelFailed: 500,
  DatabaseFailed: 500,
  StoredDataCorrupt: 500,
  StoreFailed: 500,
  HomeUnusable: 500,
  SchemaMismatch: 500,
  DiskFull: 507
}

/** Status of an error; 422 for one of a plugin's own. */
export const statusOf = (tag: string): number => (Object.hasOwn(statuses, tag) ? statuses[tag as Tag] : 422)
