/** Unites errors into what one kind of message may fail with, for protocols. Holds no behaviour. */
import { Schema } from "effect"
import * as GuestIo from "./guestIo.ts"
import * as Image from "./image.ts"
import * as Model from "./model.ts"
import * as Secret from "./secret.ts"
import * as Store from "./store.ts"
import * as Vm from "./vm.ts"

const database = [Store.DatabaseFailed, Store.DiskFull, Store.HomeUnusable] as const
const store = [...database, Store.StoreFailed] as const
const named = [Vm.InvalidSpec, Store.InvalidName, Vm.SandboxNotFound, Vm.MachineConfigInvalid, ...store] as const

/** Any message that touches the database only. */
export const DatabaseErrors = Schema.Union(database)
/** Any message that touches the database and files. */
export const StoreErrors = Schema.Union(store)

/** Working on the store of secrets. */
export const SecretErrors = Schema.Union([
  Vm.InvalidSpec,
  Store.InvalidName,
  Vm.SandboxNotFound,
  Secret.SecretNotFound,
  Secret.SecretsUnreadable,
  ...store
])

/** Looking an image up by its reference. */
export const ImageLookupErrors = Schema.Union([Vm.InvalidSpec, Image.InvalidReference, Image.ImageNotFound, ...store])

const install = [
  Vm.InvalidSpec,
  Image.InvalidReference,
  Image.ImageNotFound,
  Image.ImageNotCached,
  Image.PlatformNotFound,
  Image.ManifestInvalid,
  Image.DigestMismatch,
  Image.LayerRejected,
  Image.RegistryAuth,
  Image.RegistryUnavailable,
  Image.ArchiveInvalid,
  Image.RootfsInvalid,
  ...store
] as const
/** Bringing an image into the cache. */
export const InstallErrors = Schema.Union(install)
export type InstallError = typeof InstallErrors.Type

/** Making an image of a root file system. */
export const ImportErrors = Schema.Union(install)

export const LoginErrors = Schema.Union([
  Vm.InvalidSpec,
  Image.InvalidReference,
  Image.RegistryAuth,
  Image.RegistryUnavailable,
  Image.LoginNotStored
])
export type LoginError = typeof LoginErrors.Type

/** Writing images out again. */
export const SaveErrors = Schema.Union([...install, Image.ImageNotSavable])
export type SaveError = typeof SaveErrors.Type

export const ImageRemoveErrors = Schema.Union([
  Vm.InvalidSpec,
  Image.InvalidReference,
  Image.ImageNotFound,
  Image.ImageInUse,
  ...store
])

/** Looking a sandbox up by its name. */
export const SandboxLookupErrors = Schema.Union(named)

/** Looking a model up by its name. */
export const ModelLookupErrors = Schema.Union([Vm.InvalidSpec, Model.InvalidModelName, Model.ModelNotFound, ...store])

export const ModelAddErrors = Schema.Union([Vm.InvalidSpec, Model.ModelExists, ...store])

export const ModelReplaceErrors = Schema.Union([Vm.InvalidSpec, Model.ModelNotFound, Model.ModelNameMismatch, ...store])

export const ModelRemoveErrors = Schema.Union([
  Vm.InvalidSpec,
  Model.InvalidModelName,
  Model.ModelNotFound,
  Model.ModelInUse,
  ...store
])

const modelPull = [
  Vm.InvalidSpec,
  Model.InvalidModelName,
  Model.ModelNotFound,
  Model.CredentialNotFound,
  Model.ModelSourceInvalid,
  Model.ModelDirectoryInvalid,
  Model.ModelInstallFailed,
  ...store
] as const
export const ModelPullErrors = Schema.Union(modelPull)

const modelEnsure = [...modelPull, Model.ModelNotInstalled] as const
/** Making a model be there for a sandbox. */
export const ModelEnsureErrors = Schema.Union(modelEnsure)

export const CreateErrors = Schema.Union([
  ...install,
  Store.InvalidName,
  Vm.MountRefused,
  GuestIo.PortTaken,
  Model.InvalidModelName,
  Model.ModelNotFound,
  Vm.AlreadyExists,
  Vm.MachineConfigInvalid,
  Secret.SecretNotFound,
  Secret.SecretsUnreadable,
  // Of the sandbox that is replaced.
  Vm.SandboxNotFound,
  Vm.WrongState,
  Vm.ExecFailed,
  Vm.GuestChannelFailed,
  Vm.SupervisorUnreachable
])

export const StartErrors = Schema.Union([
  ...install,
  ...modelEnsure,
  Store.InvalidName,
  Vm.SandboxNotFound,
  Vm.MachineConfigInvalid,
  Vm.ImageMoved,
  Vm.WrongState,
  Vm.AlreadyRunning,
  Vm.MountRefused,
  GuestIo.PortTaken,
  Vm.EngineUnavailable,
  Vm.LibraryNotFound,
  Vm.KrunCallFailed,
  Vm.BootFailed,
  Vm.NetworkFailed,
  Vm.GuestChannelFailed,
  Vm.SupervisorUnreachable,
  Secret.SecretNotFound,
  Secret.SecretsUnreadable
])
export type StartError = typeof StartErrors.Type

/** Making a VM stand still and run on, for its keeper. */
export const PauseErrors = Schema.Union([...database, Vm.WrongState, Vm.GuestChannelFailed])
export type PauseError = typeof PauseErrors.Type

/** Running a command in a guest, for its keeper. */
export const ExecErrors = Schema.Union([Vm.ExecFailed, Vm.GuestChannelFailed])

const files = [GuestIo.FileNotFound, GuestIo.FileFailed] as const

/** Working on files of a guest, for its keeper. */
export const FileErrors = Schema.Union([...files, Vm.GuestChannelFailed])

const reach = [...named, Vm.WrongState, Vm.ExecFailed, Vm.GuestChannelFailed, Vm.SupervisorUnreachable] as const
/** Doing something with a sandbox that must be running. */
export const ReachErrors = Schema.Union(reach)
export type ReachError = typeof ReachErrors.Type

/** Changing the rules of a sandbox's network, for its keeper. */
export const NetworkErrors = Schema.Union([Vm.NetworkFailed, Vm.WrongState])
/** The same by its name. */
export const NetworkUpdateErrors = Schema.Union([...reach, Vm.NetworkFailed])

/** Publishing other ports, for a sandbox's keeper. */
export const PortErrors = Schema.Union([GuestIo.PortTaken, ...store])
/** The same by its name. */
export const PortUpdateErrors = Schema.Union([...reach, GuestIo.PortTaken])

/** Stopping and starting again. */
export const RestartErrors = Schema.Union([...StartErrors.members, Vm.ExecFailed])
/** Working on files of a sandbox that must be running. */
export const FileReachErrors = Schema.Union([...reach, ...files])
/** The same, reading a file of this machine. */
export const FilePutErrors = Schema.Union([...reach, ...files, GuestIo.CopyFailed])
