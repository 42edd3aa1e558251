/** Waits until something in a sandbox is ready: a port, a line of its log, a command that succeeds. Starts nothing that stays. */
import { NotReady } from "../domain/errors/vm.ts"
import { thrown } from "./thrown.ts"

/** What is asked of a sandbox meanwhile. */
interface Sandbox {
  readonly name: string
  readonly files: { readonly read: (path: string) => Promise<Uint8Array> }
  readonly exec: (command: string | ReadonlyArray<string>) => Promise<{ readonly exitCode: number }>
  readonly logs: (options: {
    readonly follow: boolean
    readonly signal: AbortSignal
  }) => AsyncIterable<{ readonly text?: string | undefined }>
}

/** What says that a sandbox is ready for its work. */
export type Ready =
  | { readonly port: number; readonly timeoutMs?: number }
  | { readonly log: RegExp | string; readonly timeoutMs?: number }
  | { readonly command: string | ReadonlyArray<string>; readonly timeoutMs?: number }

export interface WaitOptions {
  /** Milliseconds until it rejects with `NotReady`; default 30,000. */
  readonly timeoutMs?: number
  /** Gives up the waiting; it rejects with the signal's reason. */
  readonly signal?: AbortSignal
}

const timeoutMsDefault = 30_000
/** Milliseconds between two looks. */
const lookMs = 100

/** True when a process of the guest listens on the TCP port, by its kernel's own list (proc_net_tcp). */
const listens = (table: string, port: number): boolean =>
  table.split("\n").some((line) => {
    const [, local = "", , state] = line.trim().split(/\s+/)
    return state === "0A" && Number.parseInt(local.split(":").at(-1) ?? "", 16) === port
  })

/** Asks again and again until the answer is true. */
const until = async (
  sandbox: Sandbox,
  what: string,
  { signal, timeoutMs = timeoutMsDefault }: WaitOptions,
  look: () => Promise<boolean>
): Promise<void> => {
  const end = performance.now() + timeoutMs
  while (true) {
    signal?.throwIfAborted()
    if (await look()) return
    if (performance.now() > end) {
      throw thrown(new NotReady({ sandbox: sandbox.name, what, reason: `${timeoutMs} ms are over` }))
    }
    await Bun.sleep(lookMs)
  }
}

/** Waits until the guest listens on a TCP port. */
export const waitForPort = (sandbox: Sandbox, port: number, options: WaitOptions): Promise<void> =>
  until(sandbox, `port ${port}`, options, async () => {
    const tables = await Promise.all(
      ["/proc/net/tcp", "/proc/net/tcp6"].map((file) =>
        sandbox.files.read(file).then(
          (bytes) => new TextDecoder().decode(bytes),
          (error: { readonly _tag?: string }) => {
            if (error._tag === "FileNotFound") return ""
            throw error
          }
        )
      )
    )
    return tables.some((table) => listens(table, port))
  })

/** Waits until a command ends with 0. */
const waitForCommand = (
  sandbox: Sandbox,
  command: string | ReadonlyArray<string>,
  options: WaitOptions
): Promise<void> => until(sandbox, "its command", options, async () => (await sandbox.exec(command)).exitCode === 0)

/** Waits for a line of its main command, also one that was said before; resolves with it. */
export const waitForLog = async (
  sandbox: Sandbox,
  pattern: RegExp | string,
  { signal, timeoutMs = timeoutMsDefault }: WaitOptions
): Promise<string> => {
  const what = `a line like ${String(pattern)}`
  const over = AbortSignal.timeout(timeoutMs)
  const notReady = (reason: string) => thrown(new NotReady({ sandbox: sandbox.name, what, reason }))
  let last = ""
  try {
    const signals = signal === undefined ? [over] : [over, signal]
    for await (const { text = "" } of sandbox.logs({ follow: true, signal: AbortSignal.any(signals) })) {
      const lines = `${last}${text}`.split("\n")
      const found = lines.find((line) =>
        typeof pattern === "string" ? line.includes(pattern) : line.search(pattern) >= 0
      )
      if (found !== undefined) return found
      last = (lines.at(-1) ?? "").slice(-65_536)
    }
  } catch (error) {
    if (over.aborted && signal?.aborted !== true) throw notReady(`${timeoutMs} ms are over`)
    throw error
  }
  throw notReady("it has ended")
}

/** Waits for what was said at its making. */
export const waitUntilReady = async (sandbox: Sandbox, ready: Ready, signal?: AbortSignal): Promise<void> => {
  const options: WaitOptions = {
    ...(ready.timeoutMs === undefined ? {} : { timeoutMs: ready.timeoutMs }),
    ...(signal === undefined ? {} : { signal })
  }
  if ("port" in ready) return waitForPort(sandbox, ready.port, options)
  if ("log" in ready) return void (await waitForLog(sandbox, ready.log, options))
  return waitForCommand(sandbox, ready.command, options)
}
