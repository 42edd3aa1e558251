/** The messages of the VmSupervisor: what each carries, answers and fails with. Runs none of them (see VmSupervisor.ts). */

import { Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import {
  CreateErrors,
  NetworkUpdateErrors,
  PortUpdateErrors,
  ReachErrors,
  RestartErrors,
  SandboxLookupErrors,
  StartErrors,
  StoreErrors
} from "../../domain/errors/groups.ts"
import { NetworkConfig } from "../../domain/network/config.ts"
import { NetworkEvent } from "../../domain/network/events.ts"
import { SecretValue } from "../../domain/network/secrets.ts"
import { Suggestion } from "../../domain/network/suggest.ts"
import { MachineProblem } from "../../domain/sandbox/definition.ts"
import { ExecEvent, ExecRequest, MainRequest, SignalNumber, TerminalSize } from "../../domain/sandbox/exec.ts"
import { LogLine, LogQuery } from "../../domain/sandbox/logs.ts"
import { EndTimeoutMs, NewSandboxConfig, PublishedPort, SandboxInfo } from "../../domain/sandbox/sandbox.ts"
import { Termination } from "../../domain/sandbox/termination.ts"
import { SandboxFiles, SandboxStatsMessages } from "./fileProtocol.ts"

const Named = { name: Schema.String }
const NewSandbox = {
  name: Schema.optionalKey(Schema.String),
  ephemeral: Schema.Boolean,
  config: NewSandboxConfig,
  /** Values of the secrets that refer to none of the store, by name; kept encrypted with the sandbox. */
  secretValues: Schema.optionalKey(Schema.Record(Schema.String, SecretValue)),
  /** A sandbox of the same name is stopped and removed first, once everything else was checked. */
  replace: Schema.optionalKey(Schema.Boolean)
}
const Command = { ...Named, exec: Schema.Int }

export class VmProtocol extends RpcGroup.make(
  /** Records a sandbox over an image that is here; absent name: one is made up. */
  Rpc.make("Create", { payload: NewSandbox, success: SandboxInfo, error: CreateErrors }),
  /** Fails with what `Create` would fail with, its image aside: before a pull, which may be long. Records nothing. */
  Rpc.make("Check", { payload: NewSandbox, error: CreateErrors }),
  /** Boots it. `detached`: kept by a process of its own; else by this one, with which it ends. */
  Rpc.make("Start", { payload: { ...Named, detached: Schema.Boolean }, success: SandboxInfo, error: StartErrors }),
  Rpc.make("Exec", {
    payload: { ...Named, request: ExecRequest },
    success: ExecEvent,
    error: ReachErrors,
    stream: true
  }),
  /** Runs the main command of a sandbox that this process hosts; the sender owns it. It is exec 0. */
  Rpc.make("RunMain", {
    payload: { ...Named, how: MainRequest },
    success: ExecEvent,
    error: ReachErrors,
    stream: true
  }),
  /** Follows the running main command; leaving the stream leaves it alone. */
  Rpc.make("Attach", { payload: Named, success: ExecEvent, error: ReachErrors, stream: true }),
  Rpc.make("Logs", { payload: { ...Named, ...LogQuery }, success: LogLine, error: SandboxLookupErrors, stream: true }),
  Rpc.make("Input", { payload: { ...Command, data: Schema.Uint8Array }, error: ReachErrors }),
  Rpc.make("CloseInput", { payload: Command, error: ReachErrors }),
  Rpc.make("Signal", { payload: { ...Command, signal: SignalNumber }, error: ReachErrors }),
  Rpc.make("Resize", { payload: { ...Command, size: TerminalSize }, error: ReachErrors }),
  Rpc.make("Stop", { payload: { ...Named, timeoutMs: EndTimeoutMs }, success: Termination, error: ReachErrors }),
  Rpc.make("Kill", { payload: Named, success: Termination, error: ReachErrors }),
  /** Takes no new commands, and stops when the last one has ended; answers then. */
  Rpc.make("Drain", { payload: { ...Named, timeoutMs: EndTimeoutMs }, success: Termination, error: ReachErrors }),
  /** Makes a running sandbox stand still, with all that it holds. */
  Rpc.make("Pause", { payload: Named, error: ReachErrors }),
  /** Lets a paused one run on; answers when its clock is right again. */
  Rpc.make("Unpause", { payload: Named, error: ReachErrors }),
  /**
   * Changes the rules of its network, at once where it runs: adds to lists and takes over what else is given, or with `replace` takes all
   * of it. Answers the network as it is then.
   */
  Rpc.make("NetworkUpdate", {
    payload: { ...Named, network: NetworkConfig, replace: Schema.Boolean },
    success: NetworkConfig,
    error: NetworkUpdateErrors
  }),
  /** What its network denied, used for the first time, and failed at; with `follow` until the sandbox has ended. */
  Rpc.make("NetworkEvents", {
    payload: { ...Named, follow: Schema.Boolean },
    success: NetworkEvent,
    error: SandboxLookupErrors,
    stream: true
  }),
  /** The shortest list of rules that would have let through what was denied, and what was used. */
  Rpc.make("NetworkSuggest", { payload: Named, success: Suggestion, error: SandboxLookupErrors }),
  /** Publishes one more port, at once where it runs; answers it with the host port that was picked, 0 in one that does not run. */
  Rpc.make("PortAdd", {
    payload: { ...Named, ...PublishedPort.fields },
    success: PublishedPort,
    error: PortUpdateErrors
  }),
  /** Publishes a port of the guest no more, at one host port alone where it is named; connections that are open go on. */
  Rpc.make("PortRemove", {
    payload: { ...Named, guestPort: Schema.Int, hostPort: Schema.optionalKey(Schema.Int) },
    error: PortUpdateErrors
  }),
  /** Says that a sandbox is used: its idle time begins anew. */
  Rpc.make("Touch", { payload: Named, error: ReachErrors }),
  /** Stops it in order when it runs, and boots it in the background. */
  Rpc.make("Restart", { payload: { ...Named, timeoutMs: EndTimeoutMs }, success: SandboxInfo, error: RestartErrors }),
  /** The main command of a foreground run has ended: ends the sandbox, which records the code. */
  Rpc.make("Finish", { payload: { ...Named, exitCode: Schema.Int }, success: Termination, error: ReachErrors }),
  Rpc.make("Wait", { payload: Named, success: Termination, error: ReachErrors }),
  Rpc.make("Remove", { payload: { ...Named, force: Schema.Boolean }, error: ReachErrors }),
  Rpc.make("Inspect", { payload: Named, success: SandboxInfo, error: SandboxLookupErrors }),
  Rpc.make("List", { success: Schema.Array(SandboxInfo), error: StoreErrors }),
  /** Puts everything right that crashes left: adopts VMs without keepers, records dead ones, starts again what its policy says. */
  Rpc.make("Recover", { error: StoreErrors }),
  /** What a person should look at in the definitions that are broken or were changed since they were last looked at. */
  Rpc.make("Problems", { success: Schema.Array(MachineProblem), error: StoreErrors })
).merge(SandboxFiles, SandboxStatsMessages) {}
