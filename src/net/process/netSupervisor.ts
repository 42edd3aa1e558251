/**
 * Keeps the network process of one VM: starts it, tells it the policy, hears its events, and puts another one in its place when it
 * ends while the VM goes on. Runs in the VM's keeper; decides nothing about traffic.
 *
 * Invariants: the card's other end is open here as long as the VM is kept, so that the VM never sees its peer go; a process that
 * replaces another is told the flows that the guest still believes in.
 */
import fs from "node:fs"
import path from "node:path"
import type { NetworkConfig } from "../../domain/network/config.ts"
import type { NetworkEvent } from "../../domain/network/events.ts"
import { isHungUp, pidfdGetDescriptor, pidfdOpen, socketPair } from "../../ffi/posix.ts"
import type { ProxyVariables } from "../dial/proxy.ts"
import type { InterceptionState } from "../tls/interception.ts"
import {
  type FlowKey,
  LineReader,
  LineWriter,
  linkFd,
  type Message,
  type NetworkCounters,
  socketName
} from "./protocol.ts"

export interface NetSupervisorOptions {
  /** Program and first arguments, like `[bunker, "__net"]`. */
  readonly command: ReadonlyArray<string>
  readonly environment: Readonly<Record<string, string>>
  /** The run directory of the VM, mode 0700. */
  readonly directory: string
  readonly config: NetworkConfig
  /** Upstream proxies of the host; their values may hold a password. */
  readonly proxies: ProxyVariables
  /** Absent: no host is opened. */
  readonly interception?: InterceptionState
  readonly onEvent: (event: NetworkEvent) => void
  /** The card can not be served any more: the VM's process may spin, and has to be ended. */
  readonly onLost: (reason: string) => void
}

/** Longest time for a process to listen, and for an answer, in milliseconds; a loaded emulated machine needs seconds. */
const startMs = 60_000
const answerMs = 10_000
/** Waits before a process that ended is replaced: at once, then twice as long each time. A good life of `soundMs` resets it. */
const backOffMs = { first: 50, most: 5000 } as const
const soundMs = 10_000

const described = (reason: string): NetworkEvent => ({
  at: Date.now(),
  kind: "replaced",
  name: null,
  address: null,
  port: 0,
  protocol: "tcp",
  rule: null,
  reason,
  count: 1
})

export class NetSupervisor {
  private config: NetworkConfig
  private interception: InterceptionState | undefined
  private flows = new Set<FlowKey>()
  private names: Array<string> = []
  private writer: LineWriter | undefined
  private readonly answers = new Map<number, (message: Extract<Message, { re: number }>) => void>()
  private sequence = 0
  private closed = false
  private delayMs: number = backOffMs.first
  private startedAt = 0
  private child: Bun.Subprocess | undefined

  /** `link`: this process's copy of the card's other end, or -1; closed with the supervisor. */
  private constructor(
    private readonly options: NetSupervisorOptions,
    private link: number
  ) {
    this.config = options.config
    this.interception = options.interception
  }

  /** Starts a process for a card that is new. `card` is the VM's end, close-on-exec; the caller closes it once the VM has it. */
  static start(options: NetSupervisorOptions): { readonly card: number; readonly started: Promise<NetSupervisor> } {
    const [card, link] = socketPair()
    const supervisor = new NetSupervisor(options, link)
    const started = supervisor.launch(false).then(
      () => supervisor,
      (cause) => {
        supervisor.close()
        throw cause
      }
    )
    return { card, started }
  }

  /** Takes over the process that an earlier keeper started. */
  static async adopt(options: NetSupervisorOptions): Promise<NetSupervisor> {
    const supervisor = new NetSupervisor(options, -1)
    try {
      const hello = await supervisor.connect()
      supervisor.flows = new Set(hello.memory.flows)
      supervisor.names = [...hello.memory.names]
      supervisor.link = copyOf(hello.pid)
      if (hello.started) await supervisor.ask({ op: "policy", config: options.config })
      else supervisor.begin(false)
      if (hello.started && options.interception !== undefined) supervisor.intercept(options.interception)
      supervisor.startedAt = Date.now()
    } catch (cause) {
      supervisor.close()
      throw cause
    }
    return supervisor
  }

  /** Answers once the policy holds; one that is swapped while the process is replaced holds from its first frame. */
  async update(config: NetworkConfig): Promise<void> {
    this.config = config
    if (this.writer !== undefined) await this.ask({ op: "policy", config })
  }

  async counters(): Promise<NetworkCounters | undefined> {
    return this.writer === undefined ? undefined : (await this.ask({ op: "counters" })).counters
  }

  /** Lets go of the card; the process ends with the VM. */
  close(): void {
    this.closed = true
    if (this.link >= 0) fs.closeSync(this.link)
    this.link = -1
    this.socket?.end()
  }

  private async launch(successor: boolean): Promise<void> {
    const { command, directory, environment } = this.options
    const log = fs.openSync(path.join(directory, "net.log"), "a", 0o600)
    try {
      this.child = Bun.spawn([...command], {
        cwd: directory,
        // Bun looks for garbage by a timer of its own else: a process at rest would wake twice a second.
        env: { BUN_GC_TIMER_DISABLE: "1", ...environment },
        stdio: ["ignore", "pipe", log, this.link],
        detached: true
      }) as Bun.Subprocess
    } finally {
      fs.closeSync(log)
    }
    this.child.unref()
    await within(startMs, ready(this.child), "it did not start")
    await this.connect()
    this.startedAt = Date.now()
    this.begin(successor)
  }

  /** Hands over secrets, now and to each process that takes this one's place. */
  intercept(state: InterceptionState): void {
    this.interception = state
    this.writer?.send({ op: "secrets", state })
  }

  private begin(successor: boolean): void {
    if (this.interception !== undefined) this.writer?.send({ op: "secrets", state: this.interception })
    const memory = { flows: [...this.flows], names: this.names }
    this.writer?.send({ op: "start", config: this.config, successor, memory, proxies: this.options.proxies })
    this.flows = new Set()
  }

  private socket: Bun.Socket | undefined

  /** Connects to the process that listens in the run directory and waits for its first line. */
  private async connect(): Promise<Extract<Message, { hello: 1 }>> {
    const hello = Promise.withResolvers<Extract<Message, { hello: 1 }>>()
    // Read also where nobody waits for it any more.
    hello.promise.catch(() => {})
    const reader = new LineReader<Message>(
      (message) => ("hello" in message ? hello.resolve(message) : this.hear(message)),
      () => this.socket?.terminate()
    )
    const socket = await Bun.connect({
      unix: socketPath(this.options.directory),
      socket: {
        data: (_socket, bytes) => reader.push(bytes),
        drain: () => this.writer?.drain(),
        close: () => {
          hello.reject(new Error("the network process ended"))
          if (this.socket === socket) this.ended()
        },
        error: () => {}
      }
    })
    this.socket = socket
    this.writer = new LineWriter(socket)
    socket.unref()
    return within(startMs, hello.promise, "it does not answer")
  }

  private hear(message: Exclude<Message, { hello: 1 }>): void {
    if ("event" in message) return void this.options.onEvent(message.event)
    if ("opened" in message) return void this.flows.add(message.opened)
    if ("named" in message) return void this.names.push(message.named)
    if ("closed" in message) return void this.flows.delete(message.closed)
    this.answers.get(message.re)?.(message)
  }

  private ask(
    request: { readonly op: "policy"; readonly config: NetworkConfig } | { readonly op: "counters" }
  ): Promise<Extract<Message, { re: number }>> {
    const id = (this.sequence += 1)
    const answer = Promise.withResolvers<Extract<Message, { re: number }>>()
    this.answers.set(id, answer.resolve)
    this.writer?.send({ ...request, id })
    return within(answerMs, answer.promise, "it does not answer").finally(() => this.answers.delete(id))
  }

  /** The connection to the process is gone, and so is the process. */
  private ended(): void {
    this.socket = undefined
    this.writer = undefined
    if (this.closed) return
    this.child?.kill(9)
    if (this.link < 0) return void this.options.onLost("its network process ended, and the card's other end with it")
    // The VM has ended, and its network process with it.
    if (isHungUp(this.link)) return void this.close()
    if (Date.now() - this.startedAt > soundMs) this.delayMs = backOffMs.first
    const wait = this.delayMs
    this.delayMs = Math.min(backOffMs.most, wait * 2)
    setTimeout(() => void this.replace(), wait)
  }

  private async replace(): Promise<void> {
    if (this.closed) return
    const open = this.flows.size
    try {
      await this.launch(true)
      const lost = open === 0 ? "" : `; ${open} connections that were open are gone`
      this.options.onEvent(described(`the process behind the card ended and was replaced${lost}`))
    } catch {
      if (this.socket === undefined) this.ended()
    }
  }
}

/** A unix socket's path has at most 107 bytes; the run directory leaves room for this name. */
const socketPath = (directory: string): string => path.join(directory, socketName)

/** A copy of the card's other end out of the process that has it; -1 where the kernel does not let us. */
const copyOf = (pid: number): number => {
  let pidfd = -1
  try {
    pidfd = pidfdOpen(pid)
    return pidfdGetDescriptor(pidfd, linkFd)
  } catch {
    return -1
  } finally {
    if (pidfd >= 0) fs.closeSync(pidfd)
  }
}

/** Waits until the process says that it listens; fails when it ends before. */
const ready = async (child: Bun.Subprocess): Promise<void> => {
  for await (const _ of child.stdout as ReadableStream<Uint8Array>) return
  throw new Error(`the network process ended with ${(await child.exited) ?? child.signalCode}`)
}

const within = async <A>(ms: number, work: Promise<A>, reason: string): Promise<A> => {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`the network process can not be used: ${reason}`)), ms)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}
