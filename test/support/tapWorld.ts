/**
 * A guest without a VM: a network namespace of this machine whose only card is a TAP device, with the network stack at its other end.
 * So the peer is Linux's own TCP. Programs run in it by `run`; its names are resolved by the stack.
 */
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { socketPair } from "../../src/ffi/posix.ts"
import { cardAddresses } from "../../src/net/addresses.ts"
import { makeDialer } from "../../src/net/dial/dialer.ts"
import { openStreamLink } from "../../src/net/link.ts"
import { makeStack, type Stack, type StackOptions } from "../../src/net/stack.ts"
import type { NetworkEvent } from "../../src/net/types.ts"
import { allowAll } from "./frames.ts"

const asRoot = process.getuid?.() === 0

/** What is missing for such a guest here, as a phrase; undefined when nothing is. */
export const missingForTap = (): string | undefined => {
  if (Bun.which("gcc") === null && Bun.which("musl-gcc") === null) return "a C compiler (apt-get install gcc libc6-dev)"
  if (Bun.which("ip") === null) return "ip (apt-get install iproute2)"
  for (const [tool, name] of [
    ["curl", "curl"],
    ["dig", "dnsutils"]
  ] as const)
    if (Bun.which(tool) === null) return `${tool} (apt-get install ${name})`
  const tried = Bun.spawnSync(
    ["unshare", ...(asRoot ? ["-n"] : ["-Urn"]), "ip", "tuntap", "add", "dev", "tried", "mode", "tap"],
    { stdout: "ignore", stderr: "ignore" }
  )
  return tried.exitCode === 0 ? undefined : "the right to make a TAP device in a network namespace"
}

let compiled: string | undefined

/** The program that carries frames; compiled once per process. */
const tapProgram = (): string => {
  if (compiled !== undefined) return compiled
  const file = path.join(fs.mkdtempSync(path.join(os.tmpdir(), "bunker-tap-")), "tap")
  const run = Bun.spawnSync(["gcc", "-O2", "-o", file, path.join(import.meta.dir, "tap.c")], { stderr: "pipe" })
  if (run.exitCode !== 0) throw new Error(run.stderr.toString())
  process.on("exit", () => fs.rmSync(path.dirname(file), { recursive: true, force: true }))
  compiled = file
  return file
}

export interface Ran {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface TapWorld extends AsyncDisposable {
  /** A process whose namespaces are the guest's. */
  readonly pid: number
  readonly stack: Stack
  readonly events: Array<NetworkEvent>
  /** Runs a program in the guest to its end. */
  readonly run: (command: ReadonlyArray<string>, stdin?: string) => Promise<Ran>
  readonly spawn: (command: ReadonlyArray<string>) => Bun.Subprocess<"pipe", "pipe", "pipe">
  /** Runs a piece of TypeScript in the guest and returns what it prints last, as JSON. */
  readonly script: (code: string) => Promise<unknown>
}

export interface TapOptions extends Partial<Omit<StackOptions, "link" | "addresses" | "events">> {
  /** Parts of 10,000 that are lost, overtaken, doubled; both directions. */
  readonly trouble?: {
    readonly loss: number
    readonly reorder: number
    readonly duplicate: number
    readonly seed: number
  }
  readonly resolve?: (name: string) => Promise<ReadonlyArray<string>>
}

/** Sets up the card; one line a step. */
const setUp = (mtu: number): string => `
ip link set lo up
ip link set tap0 address ${cardAddresses.guestMac} mtu ${mtu} up
ip addr add ${cardAddresses.guest4}/30 dev tap0
ip route add default via ${cardAddresses.gateway4}
ip -6 addr add ${cardAddresses.guest6}/64 dev tap0 nodad
ip -6 route add default via ${cardAddresses.gateway6}`

/** The largest that a TAP device takes. */
const mtu = 65_520

export const makeTapWorld = async (options: TapOptions = {}): Promise<TapWorld> => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "bunker-tap-"))
  const resolvConf = path.join(directory, "resolv.conf")
  fs.writeFileSync(resolvConf, `nameserver ${cardAddresses.gateway4}\n`)
  const [near, far] = socketPair()
  const { resolve, trouble, ...rest } = options
  const wear = trouble === undefined ? [] : [trouble.loss, trouble.reorder, trouble.duplicate, trouble.seed].map(String)
  const shell = `mount --bind ${resolvConf} /etc/resolv.conf && exec "$@"`
  const child = Bun.spawn(
    ["unshare", ...(asRoot ? ["-nm"] : ["-Urnm"]), "sh", "-c", shell, "sh", tapProgram(), "tap0", ...wear],
    { stdio: ["ignore", "pipe", "inherit", far] }
  )
  fs.closeSync(far)
  await child.stdout.getReader().read()
  const enter = [
    "nsenter",
    "-t",
    String(child.pid),
    "-n",
    "-m",
    ...(asRoot ? [] : ["-U", "--preserve-credentials"]),
    "--"
  ]
  const set = Bun.spawnSync([...enter, "sh", "-ec", setUp(mtu)], { stderr: "pipe" })
  if (set.exitCode !== 0) throw new Error(set.stderr.toString())
  const events: Array<NetworkEvent> = []
  const link = await openStreamLink({ fd: near, guestMac: cardAddresses.guestMac })
  const stack = makeStack({
    link,
    addresses: cardAddresses,
    policy: allowAll,
    dialer: makeDialer({ connectTimeoutMs: 5000, ...(resolve === undefined ? {} : { resolve }) }),
    events: (event) => void events.push(event),
    ...rest
  })
  const spawn = (command: ReadonlyArray<string>) =>
    Bun.spawn([...enter, ...command], {
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, http_proxy: undefined, https_proxy: undefined, BUN_CONFIG_DNS_TIME_TO_LIVE_SECONDS: "0" }
    })
  const run: TapWorld["run"] = async (command, stdin = "") => {
    const ran = spawn(command)
    ran.stdin.write(stdin)
    await ran.stdin.end()
    const [stdout, stderr] = await Promise.all([new Response(ran.stdout).text(), new Response(ran.stderr).text()])
    return { code: await ran.exited, stdout, stderr }
  }
  return {
    pid: child.pid,
    stack,
    events,
    run,
    spawn,
    script: async (code) => {
      const { stderr, stdout } = await run([process.execPath, "-e", code])
      if (stderr !== "") throw new Error(stderr)
      return JSON.parse(stdout.trim().split("\n").at(-1) ?? "null")
    },
    [Symbol.asyncDispose]: async () => {
      stack.close()
      await child.exited
      fs.rmSync(directory, { recursive: true, force: true })
    }
  }
}
