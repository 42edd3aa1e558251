/**
 * Starts a runner, hands it its configuration and listens to its report.
 * Knows nothing of libkrun or QEMU, keeps no record, and restarts nothing.
 */

import fs from "node:fs"
import path from "node:path"
import { Effect, Option, type Scope } from "effect"
import { StoreFailed } from "../../domain/errors/store.ts"
import { AlreadyRunning, EngineUnavailable, KrunCallFailed, MountRefused } from "../../domain/errors/vm.ts"
import { CallFailed } from "../../ffi/errno.ts"
import { pidfdOpen, pidfdSendSignal } from "../../ffi/posix.ts"
import { readTail } from "../../store/files/boundedFile.ts"
import { currentBootId, identify, type ProcessIdentity } from "../../store/processes/processes.ts"
import {
  CONFIG_BYTES_MAX,
  parseReportLine,
  REPORT_BYTES_MAX,
  type RunnerConfig,
  type RunnerReport
} from "./protocol.ts"

/** How a VM's process ended. The guest's own account comes over the channel; a code of 0 proves nothing. */
export interface VmExit {
  readonly code: number | undefined
  /** Name, like `SIGKILL`. */
  readonly signal: string | undefined
  /** The runner's last word, `entering` when the VM was started. */
  readonly report: RunnerReport | undefined
  /** What the process printed, at most the last 4 KiB: QEMU's and libkrun's own complaints. */
  readonly output: string
}

/** The process of a VM as its parent sees it. */
export interface RunnerProcess {
  readonly identity: ProcessIdentity
  /** Waits for the end; keeps this process alive while somebody waits. */
  readonly exited: Effect.Effect<VmExit>
  /** SIGKILL, then waits for the end. */
  readonly kill: Effect.Effect<void>
}

export interface StartRunner {
  /** Program and first arguments, like `[bun, main.ts, "__runner"]`. */
  readonly command: ReadonlyArray<string>
  /** Working directory of the runner; `runner.log` with its output is made there. */
  readonly runDir: string
  /** Open and locked descriptor of the lock file; the caller closes its copy afterwards. */
  readonly lockFd: number
  /** Open descriptor of the network card's end; the caller closes its copy. Absent: none. */
  readonly card?: number
  /** Who holds the lock, for the message when somebody else does. */
  readonly name: string
  readonly config: RunnerConfig
  /** Runs once the process is there and before it does anything. */
  readonly onProcess: (process: ProcessIdentity) => Effect.Effect<void, StoreFailed>
}

/** Longest time from the start of the process to its first report, in milliseconds. A loaded emulated machine needs seconds. */
const START_TIMEOUT_MS = 60_000
const OUTPUT_BYTES = 4096
const SIGKILL = 9
/** How long the end of a process waits for the end of its report, in milliseconds. */
const LAST_WORDS_MS = 250

/**
 * Starts the runner and answers once it has entered the VM: under krun when it says so, under qemu when its report closes
 * because the program was replaced. Closing the scope kills the process when `dieWithParent` is set and leaves it else.
 */
export const startRunner = Effect.fn("Engine.startRunner")(function* (
  options: StartRunner
): Effect.fn.Return<
  RunnerProcess,
  StoreFailed | AlreadyRunning | KrunCallFailed | MountRefused | EngineUnavailable,
  Scope.Scope
> {
  const { config } = options
  const text = JSON.stringify(config)
  if (Buffer.byteLength(text) > CONFIG_BYTES_MAX) {
    return yield* new StoreFailed({
      operation: "configure",
      path: options.runDir,
      reason: "the VM's description is too long"
    })
  }
  const child = yield* Effect.acquireRelease(
    Effect.try({
      try: () => new Child(options),
      catch: (cause) => new StoreFailed({ operation: "start", path: options.command[0] ?? "", reason: reasonOf(cause) })
    }),
    (child, exit) =>
      Effect.promise(async () => {
        if (config.dieWithParent || exit._tag === "Failure") child.end()
        child.release()
      })
  )
  // The runner waits for its document: nothing of the VM exists before whoever keeps records knows its process.
  yield* options.onProcess(child.identity)
  child.configure(text)
  const heard = yield* child.entered.pipe(
    Effect.timeoutOption(START_TIMEOUT_MS),
    Effect.onInterrupt(() => child.kill)
  )
  const first = Option.getOrUndefined(heard)
  if (first?.event !== "entering") {
    yield* child.kill
    const how = Option.isNone(heard)
      ? `said nothing for ${START_TIMEOUT_MS / 1000} s`
      : "ended before the VM was started"
    return yield* failure(options, first, how, child.output())
  }
  return { identity: child.identity, exited: child.exited, kill: child.kill }
})

const failure = (options: StartRunner, report: RunnerReport | undefined, how: string, output: string) => {
  if (report?.event === "already_running") {
    return new AlreadyRunning({ sandbox: options.name })
  }
  if (report?.event === "error" && report.call.startsWith("krun_")) {
    return new KrunCallFailed({ call: report.call, argument: report.argument, errno: report.errno })
  }
  if (report?.event === "error" && stageCalls.has(report.call)) return mountRefused(report)
  const engine = options.config.start.kind
  const reason =
    report?.event === "error"
      ? `${report.call}(${report.argument}) failed with ${report.errno}`
      : `the runner ${options.command[0]} ${how}${output === "" ? "" : `: ${output.trim()}`}`
  return new EngineUnavailable({ engine, reason, advice: "'bunker doctor' checks the engines" })
}

/** Calls that only the program `stage` makes. */
const stageCalls: ReadonlySet<string> = new Set(
  "stage keep unshare mount open open_tree mount_setattr move_mount openat2 mkdir bind fork prctl".split(" ")
)

const mountRefused = ({ call, argument, errno }: Extract<RunnerReport, { event: "error" }>) =>
  call === "unshare"
    ? new MountRefused({
        source: "anything",
        reason: `this machine lets no process have mounts of its own (${argument}: ${errno}); allow user namespaces, or run as root`
      })
    : new MountRefused({ source: argument, reason: call === "open" ? errno : `${call} failed: ${errno}` })

const reasonOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause))

/** A started runner with the parent's ends of its descriptors. */
class Child {
  readonly process: Bun.Subprocess
  readonly identity: ProcessIdentity
  readonly entered: Effect.Effect<RunnerReport | undefined>
  readonly exited: Effect.Effect<VmExit>
  readonly kill: Effect.Effect<void>
  private readonly log: string
  private report: RunnerReport | undefined
  private reader: Bun.Socket | undefined
  private configFd = -1
  /** Bound to the process from its start: a signal through it can reach no other that got its number. */
  private pidfd = -1
  private released = false

  constructor(options: StartRunner) {
    const [program, ...rest] = options.command
    this.log = path.join(options.runDir, "runner.log")
    const fd = fs.openSync(
      this.log,
      fs.constants.O_RDWR | fs.constants.O_CREAT | fs.constants.O_TRUNC | fs.constants.O_APPEND,
      0o600
    )
    try {
      this.process = Bun.spawn([program!, ...rest], {
        cwd: options.runDir,
        env: { PATH: "/usr/local/bin:/usr/bin:/bin", LC_ALL: "C" },
        stdio: [
          ...(["ignore", fd, fd, "socket-fd", "socket-fd", options.lockFd] as const),
          ...(options.card === undefined ? [] : [options.card])
        ]
      }) as Bun.Subprocess
    } finally {
      fs.closeSync(fd)
    }
    // Both ends are ours to close.
    const [configFd, reportFd] = [this.process.stdio[3]!, this.process.stdio[4]!]
    this.configFd = configFd
    const { pid } = this.process
    this.identity = identify(pid) ?? { pid, startTicks: 0, bootId: currentBootId() }
    this.pidfd = pidfdOpen(pid)
    const decided = Promise.withResolvers<RunnerReport | undefined>()
    const closed = this.listen(reportFd, (report) => {
      // QEMU's program can still refuse to start after `entering`; the end of the report is the sign that it did not.
      if (report.event !== "entering" || options.config.start.kind === "krun") decided.resolve(report)
    })
    void closed.then(() => decided.resolve(this.report))
    const ended = this.process.exited.then(async (): Promise<VmExit> => {
      // The report is complete when its other end is closed, which the end of the process does; whoever might still hold
      // that end must not hold up the news.
      await Promise.race([closed, Bun.sleep(LAST_WORDS_MS)])
      const { exitCode, signalCode } = this.process
      return {
        code: exitCode ?? undefined,
        signal: signalCode === null ? undefined : String(signalCode),
        report: this.report,
        output: this.output()
      }
    })
    void ended.then(() => decided.resolve(this.report))
    this.process.unref()
    this.entered = Effect.promise(() => decided.promise)
    this.exited = Effect.promise(() => ended)
    this.kill = Effect.suspend(() => {
      this.end()
      return Effect.asVoid(this.exited)
    })
  }

  /** What the process printed so far, the end of it. */
  output(): string {
    return readTail(this.log, OUTPUT_BYTES)
  }

  /** Lets the runner go on. The document fits the socket's buffer, so writing it does not wait for the child. */
  configure(config: string): void {
    try {
      fs.writeSync(this.configFd, config)
    } catch {
      // The child is gone already; its report, or the lack of one, says why.
    }
    this.closeConfig()
  }

  /** SIGKILL; nothing when it has ended. */
  end(): void {
    if (this.pidfd < 0) return
    try {
      pidfdSendSignal(this.pidfd, SIGKILL)
    } catch (cause) {
      if (!(cause instanceof CallFailed && cause.errno === "ESRCH")) throw cause
    }
  }

  private closeConfig(): void {
    if (this.configFd >= 0) fs.closeSync(this.configFd)
    this.configFd = -1
  }

  /** Stops listening; a VM that goes on does not notice. */
  release(): void {
    this.closeConfig()
    if (this.pidfd >= 0) fs.closeSync(this.pidfd)
    this.pidfd = -1
    this.released = true
    this.reader?.end()
  }

  /** Reads report lines; the promise resolves when the other end is closed. */
  private async listen(fd: number, each: (report: RunnerReport) => void): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    let text = ""
    let total = 0
    const socket = (await Bun.connect({
      fd,
      socket: {
        data: (_socket: Bun.Socket, chunk: Buffer) => {
          total += chunk.length
          if (total > REPORT_BYTES_MAX) return
          const lines = (text + chunk.toString("utf8")).split("\n")
          text = lines.pop() ?? ""
          for (const line of lines) {
            const report = parseReportLine(line)
            if (report === undefined) continue
            this.report = report
            each(report)
          }
        },
        close: () => resolve(),
        error: () => resolve()
      }
    } as never)) as Bun.Socket
    this.reader = socket
    if (this.released) socket.end()
    socket.unref()
    return promise
  }
}
