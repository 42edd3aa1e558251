/** The messages of a keeper: what each carries, returns and fails with. Runs none of them (see Keeper.ts). */

import { Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { ExecErrors, FileErrors, NetworkErrors, PauseErrors, PortErrors } from "../../domain/errors/groups.ts"
import { NetworkConfig } from "../../domain/network/config.ts"
import { ExecEvent, ExecRequest, MainRequest, TerminalSize } from "../../domain/sandbox/exec.ts"
import { FileEvent, FileOperation } from "../../domain/sandbox/guestFiles.ts"
import { EndTimeoutMs, PublishedPort } from "../../domain/sandbox/sandbox.ts"
import { SandboxStats } from "../../domain/sandbox/stats.ts"
import { Termination } from "../../domain/sandbox/termination.ts"
import type { Address } from "../kit/Actor.ts"

const file = { file: Schema.Int }

const KeeperFiles = RpcGroup.make(
  /** Ends when the operation is done; ending it early stops the operation. */
  Rpc.make("File", { payload: FileOperation, success: FileEvent, error: FileErrors, stream: true }),
  /** Answers once the bytes are on their way to the guest: back pressure for the sender. */
  Rpc.make("FileInput", { payload: { ...file, data: Schema.Uint8Array }, error: FileErrors }),
  Rpc.make("FileEnd", { payload: file, error: FileErrors })
)

const KeeperStats = RpcGroup.make(Rpc.make("Sample", { success: SandboxStats, error: ExecErrors }))

const exec = { exec: Schema.Int }

export class KeeperProtocol extends RpcGroup.make(
  Rpc.make("Exec", { payload: ExecRequest, success: ExecEvent, error: ExecErrors, stream: true }),
  /** Runs the main command for the sender, who owns it: exec 0. */
  Rpc.make("RunMain", { payload: MainRequest, success: ExecEvent, error: ExecErrors, stream: true }),
  /** Follows the main command, which somebody else owns. */
  Rpc.make("Attach", { success: ExecEvent, error: ExecErrors, stream: true }),
  /** Answers once the bytes are on their way to the guest: back pressure for the sender. */
  Rpc.make("Input", { payload: { ...exec, data: Schema.Uint8Array }, error: ExecErrors }),
  Rpc.make("CloseInput", { payload: exec, error: ExecErrors }),
  Rpc.make("Signal", { payload: { ...exec, signal: Schema.Int }, error: ExecErrors }),
  Rpc.make("Resize", { payload: { ...exec, size: TerminalSize }, error: ExecErrors }),
  /** Graceful within `timeoutMs`, then SIGKILL; answers when the VM has ended and that is recorded. */
  Rpc.make("Stop", { payload: { timeoutMs: EndTimeoutMs }, success: Termination }),
  Rpc.make("Kill", { success: Termination }),
  /** Takes no new commands, and stops when the last one has ended; answers then. */
  Rpc.make("Drain", { payload: { timeoutMs: EndTimeoutMs }, success: Termination }),
  Rpc.make("Pause", { error: PauseErrors }),
  /** Answers when the guest has the right time. */
  Rpc.make("Unpause", { error: PauseErrors }),
  /** The rules of its network from now on; answers once they hold. */
  Rpc.make("Network", { payload: { config: NetworkConfig }, error: NetworkErrors }),
  /** The ports that are published from now on, all of them; answers them with the host ports that were picked. */
  Rpc.make("Ports", {
    payload: { ports: Schema.Array(PublishedPort) },
    success: Schema.Array(PublishedPort),
    error: PortErrors
  }),
  /** Somebody uses the sandbox: it is not idle. */
  Rpc.make("Touch"),
  /** The main command has ended with this code, and the sandbox with it. */
  Rpc.make("Finish", { payload: { exitCode: Schema.Int }, success: Termination }),
  Rpc.make("Wait", { success: Termination })
).merge(KeeperFiles, KeeperStats) {}

export type KeeperAddress = Address<RpcGroup.Rpcs<typeof KeeperProtocol>>
