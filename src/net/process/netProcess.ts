/**
 * The process behind one sandbox's network card: no rights but its user's, one policy, one stack. Is told everything by the sandbox's
 * keeper over a socket in the run directory, and lives as long as the VM: a keeper that is gone takes nothing along.
 *
 * Invariants: no frame is read before a policy is there; the process ends when the VM closes its end of the card.
 */
import fs from "node:fs"
import { formatGroups } from "../../domain/network/address.ts"
import type { NetworkConfig } from "../../domain/network/config.ts"
import { compilePolicy, type NetworkPolicy } from "../../domain/network/policy.ts"
import {
  allowInspection,
  dropRights,
  execve,
  getLimit,
  RLIMIT_CORE,
  RLIMIT_NOFILE,
  setCloseOnExec,
  setLimit
} from "../../ffi/posix.ts"
import { Access } from "../access.ts"
import { cardAddresses } from "../addresses.ts"
import { makeDialer } from "../dial/dialer.ts"
import { parseProxies } from "../dial/proxy.ts"
import { resolveName } from "../dial/resolve.ts"
import { openStreamLink } from "../link.ts"
import { makeStack, type Stack } from "../stack.ts"
import { stackPolicy } from "../stackPolicy.ts"
import type { Interception, InterceptionState } from "../tls/interception.ts"
import {
  type Dialer,
  defaultLimits,
  type NetworkEvent as StackEvent,
  type NetworkLimits as StackLimits
} from "../types.ts"
import { eventOf, eventOfSecret, flowOf, previousFlow } from "./eventOf.ts"
import { EventTeller } from "./eventTeller.ts"
import {
  type FlowKey,
  LineReader,
  LineWriter,
  linkFd,
  type Message,
  type NetworkCounters,
  type Request,
  readyLine,
  socketName
} from "./protocol.ts"

/** Last word of the command line of a process that has given up its rights. */
const confinedWord = "--confined"

/** A user without rights beyond their own has nothing to give up but the way to them. */
const hasRights = (): boolean => !/^CapPrm:\s*0+$/m.test(fs.readFileSync("/proc/self/status", "latin1"))

/** Gives rights up, in all threads: those that are there already keep theirs until the program starts anew. */
const confine = (): void => {
  const again = hasRights() && process.argv.at(-1) !== confinedWord
  dropRights()
  if (again) {
    const words = fs.readFileSync("/proc/self/cmdline", "utf8").split("\0").slice(0, -1)
    setCloseOnExec(linkFd, false)
    const env = Object.entries(process.env).map(([key, value]) => `${key}=${value}`)
    execve(process.execPath, [...words, confinedWord], env)
  }
  setCloseOnExec(linkFd, true)
  // A core dump would write what the guest sent to the host's disk.
  setLimit(RLIMIT_CORE, 0n, 0n)
  const files = getLimit(RLIMIT_NOFILE)
  setLimit(RLIMIT_NOFILE, files.hard, files.hard)
  // The next keeper of the VM takes its copy of the card from here.
  allowInspection()
}

/** Flows that are remembered for a successor. */
const flowsMax = 65_536

/** Bounds of a definition in the words of the stack. */
const stackLimits = (limits: NetworkConfig["limits"] = {}): Partial<StackLimits> => {
  const { flows, halfOpen, udpFlows, names, newFlowsPerSecond, bytesPerSecondUp, bytesPerSecondDown } = limits
  const asked = {
    tcpFlows: flows,
    tcpHalfOpen: halfOpen,
    udpFlows,
    names,
    newFlowsPerSecond,
    bytesUpPerSecond: bytesPerSecondUp,
    bytesDownPerSecond: bytesPerSecondDown
  }
  return Object.fromEntries(Object.entries(asked).filter(([, value]) => value !== undefined))
}

class NetProcess {
  private policy: NetworkPolicy | undefined
  private stack: Stack | undefined
  private flows = new Set<FlowKey>()
  private names: Array<string> = []
  private readonly writers = new Set<LineWriter>()
  private readonly bytes = { up: 0, down: 0 }
  private dialer: Dialer | undefined
  private opening: Promise<void> | undefined
  private access: Access | undefined
  private interception: Interception | undefined
  private readonly teller = new EventTeller((event) => this.send({ event }))

  listen(): void {
    fs.rmSync(socketName, { force: true })
    Bun.listen<{ reader: LineReader<Request>; writer: LineWriter }>({
      unix: socketName,
      socket: {
        open: (socket) => {
          const writer = new LineWriter(socket)
          const reader = new LineReader<Request>(
            (request) => void this.answer(request, writer),
            () => socket.terminate()
          )
          socket.data = { reader, writer }
          this.writers.add(writer)
          const memory = { flows: [...this.flows], names: this.names }
          writer.send({ hello: 1, pid: process.pid, started: this.policy !== undefined, memory })
        },
        data: (socket, bytes) => socket.data.reader.push(bytes),
        drain: (socket) => socket.data.writer.drain(),
        close: (socket) => void this.writers.delete(socket.data.writer)
      }
    })
    fs.writeSync(1, readyLine)
    fs.closeSync(1)
  }

  private send(message: Message): void {
    for (const writer of this.writers) writer.send(message)
  }

  private async answer(request: Request, writer: LineWriter): Promise<void> {
    switch (request.op) {
      case "start":
        if (this.policy === undefined) await this.start(request)
        return
      case "policy":
        this.setPolicy(request.config)
        return void writer.send({ re: request.id })
      case "secrets":
        this.opening = this.setSecrets(request.state)
        return this.opening
      case "counters":
        return void writer.send({ re: request.id, counters: this.counters() })
    }
  }

  /** A state that can not be used opens nothing: the guest's connections to these hosts fail by their certificates. */
  private async setSecrets(state: InterceptionState): Promise<void> {
    // Loaded by sandboxes with secrets alone.
    const { Interception } = await import("../tls/interception.ts")
    const { hostTrust } = await import("../tls/hostTrust.ts")
    this.interception ??= new Interception({
      dialer: { tcp: async (...flow) => this.dialer?.tcp(...flow) ?? { _tag: "unreachable", reason: "not started" } },
      allow: (to) => (address) => this.access?.address(to, address) ?? { allow: false },
      trust: () => hostTrust(process.env),
      onEvent: (event) => this.teller.add(eventOfSecret(event, Date.now()))
    })
    this.interception.update(state)
  }

  private async start({ config, memory, proxies, successor }: Extract<Request, { op: "start" }>): Promise<void> {
    this.policy = compilePolicy(config)
    this.access = new Access(stackPolicy(this.policy))
    this.dialer = makeDialer({
      connectTimeoutMs: defaultLimits.connectTimeoutMs,
      proxies: parseProxies(proxies),
      resolve: (name) => this.resolve(name)
    })
    this.names = [...memory.names]
    // No flow shall pass a host by that is to be opened.
    await this.opening
    const link = await openStreamLink({ fd: linkFd, guestMac: cardAddresses.guestMac, successor })
    this.stack = makeStack({
      link,
      addresses: cardAddresses,
      policy: stackPolicy(this.policy),
      dialer: this.dialer,
      intercept: (to) => this.interception?.intercept(to),
      events: (event) => this.hear(event),
      limits: stackLimits(config.limits),
      names: { initial: memory.names, added: (name) => this.addName(name) },
      previous: memory.flows.map(previousFlow)
    })
  }

  /** A host entry takes the place of the host's own lookup. */
  private async resolve(name: string): Promise<ReadonlyArray<string>> {
    const entry = this.policy?.hosts.get(name)
    return entry === undefined ? resolveName(name) : [formatGroups(entry)]
  }

  private addName(name: string): void {
    this.names.push(name)
    this.send({ named: name })
  }

  private setPolicy(config: NetworkConfig): void {
    this.policy = compilePolicy(config)
    const policy = stackPolicy(this.policy)
    if (this.access !== undefined) this.access.policy = policy
    this.stack?.setPolicy(policy)
  }

  private hear(event: StackEvent): void {
    // The VM has ended, or its card has: nothing is left to do.
    if (event.kind === "link") return void this.end()
    const flow = flowOf(event)
    if (flow !== undefined && event.kind === "opened" && this.flows.size < flowsMax) {
      this.flows.add(flow)
      this.send({ opened: flow })
    } else if (flow !== undefined && event.kind === "closed" && this.flows.delete(flow)) {
      this.send({ closed: flow })
    }
    this.bytes.up += event.bytesUp ?? 0
    this.bytes.down += event.bytesDown ?? 0
    const told = this.policy === undefined ? undefined : eventOf(this.policy, event, Date.now())
    if (told !== undefined) this.teller.add(told)
  }

  private end(): void {
    this.teller.flush()
    setTimeout(() => process.exit(0), farewellMs)
  }

  private counters(): NetworkCounters {
    const stats = this.stack?.stats()
    return {
      denied: stats?.events.denied ?? 0,
      limited: stats?.events.limit ?? 0,
      bytesUp: this.bytes.up,
      bytesDown: this.bytes.down,
      framesIn: stats?.framesIn ?? 0,
      framesOut: stats?.framesOut ?? 0,
      tcpFlows: stats?.tcpFlows ?? 0,
      udpFlows: stats?.udpFlows ?? 0
    }
  }
}

/** Time for the last events to leave, in milliseconds. */
const farewellMs = 50

/** Runs the process; its working directory is the run directory of the VM. */
export const runNet = (): void => {
  confine()
  process.on("SIGINT", () => {})
  process.on("SIGHUP", () => {})
  new NetProcess().listen()
}
