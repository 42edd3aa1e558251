/**
 * Embeds sandboxes in a Bun program: promises and async iterables over the same actors that the CLI uses. Needs no server, and talks to
 * one where it is told to (`Sandbox.connect`).
 *
 * Every failure is one of the tagged errors that are exported here, with a message that says what to do.
 */

export type { SweepReport } from "../actors/sandboxes/Sweeper.ts"
export * from "../domain/errors.ts"
export type { NetworkConfig } from "../domain/network/config.ts"
export type { NetworkEvent } from "../domain/network/events.ts"
export type { MachineProblem } from "../domain/sandbox/definition.ts"
export type { GuestFile } from "../domain/sandbox/guestFiles.ts"
export type { LogLine } from "../domain/sandbox/logs.ts"
export type { SandboxInfo } from "../domain/sandbox/sandbox.ts"
export type { SandboxStats } from "../domain/sandbox/stats.ts"
export type { Termination } from "../domain/sandbox/termination.ts"
export type { CollectOptions, CommandInput, ExecOptions, Rlimit, SpawnOptions } from "./execOptions.ts"
export type {
  CopyTreeOptions,
  FileOptions,
  Files,
  MkdirOptions,
  ReadFileOptions,
  RemoveOptions,
  StatOptions,
  WriteFileOptions
} from "./files.ts"
export { type FetchOptions, Images, type ImportOptions, type PullOptions } from "./images.ts"
export type { LogRecord } from "./logging.ts"
export { type ModelPullOptions, Models, type NewModel } from "./models.ts"
export { Network } from "./network.ts"
export type { Ended, ExecResult, Input, Output, Process } from "./process.ts"
export type { ServerOptions } from "./remote.ts"
export type { PlaceOptions } from "./runtime.ts"
export { type LogOptions, Sandbox, type Server } from "./sandbox.ts"
export type { ListOptions, NetworkOptions, Port, SandboxOptions, Secret, SecretFrom } from "./sandboxOptions.ts"
export { type CreateSessionOptions, type PutBlobOptions, type SessionOptions, Sessions } from "./sessions.ts"
export type { ShellLine, ShellValue } from "./shell.ts"
export type { Ready, WaitOptions } from "./waiting.ts"
