/** Says what a program may ask for when it makes a sandbox, and turns it into a definition. Makes none (see Sandbox). */
import fs from "node:fs"
import { Effect, Redacted } from "effect"
import { InvalidSpec } from "../domain/errors/vm.ts"
import type { ImageEvent, PullPolicy } from "../domain/image/image.ts"
import type { Platform } from "../domain/image/platform.ts"
import type { NetworkLimits } from "../domain/network/config.ts"
import type { SecretBinding } from "../domain/network/secrets.ts"
import { defaultHostIp, type EngineKind, type NewSandboxConfig, type RestartPolicy } from "../domain/sandbox/sandbox.ts"
import { limitsOf, pairs, type Rlimit } from "./execOptions.ts"
import type { PlaceOptions } from "./runtime.ts"
import type { Ready } from "./waiting.ts"

/** A port of the guest that the host listens for, TCP. */
export interface Port {
  readonly guestPort: number
  /** Default 0: a free one, which `info().ports` tells. */
  readonly hostPort?: number
  /** IP address that is listened on; default `127.0.0.1`. */
  readonly hostIp?: string
}

/** What a guest may reach. Rules are `name`, `*.name`, an IP address or CIDR, with `:PORT[,PORT]` and `/udp` where wanted. */
export interface NetworkOptions {
  /** Every public address, and every name that leads to one; default false. */
  readonly public?: boolean
  readonly allow?: ReadonlyArray<string>
  /** Rules that win over everything else. */
  readonly deny?: ReadonlyArray<string>
  /** TCP ports of the host's loopback, which the guest reaches as `host.bunker.internal`. */
  readonly hostPorts?: ReadonlyArray<number>
  /** Addresses by name, in place of the host's own lookup; a rule must still allow the name. */
  readonly hosts?: Readonly<Record<string, string>>
  /** Bounds on connections, names and rates; see docs/network.md. */
  readonly limits?: NetworkLimits
}

export interface SandboxOptions extends PlaceOptions {
  /** Image reference, like `alpine:3.20`; pulled when it is missing. */
  readonly image: string
  /** `if-missing` (default) asks no network for an image that is here, `always` follows a tag that moved, `never` pulls nothing. */
  readonly pull?: PullPolicy
  /** Of the image that is pulled; default: linux on this machine's CPU. */
  readonly platform?: Platform
  /** Plain HTTP to a registry that is not on this machine; default false. */
  readonly insecure?: boolean
  /** Name; default: made up. */
  readonly name?: string
  /**
   * True: a machine with a disk of its own, which outlives this object, this process and its own end until it is removed; see
   * `Sandbox.get`, `start` and `remove`. Default false: it goes with its end.
   */
  readonly persistent?: boolean
  /** Boots it; default true. False: a persistent one is defined only, and `start` boots it. */
  readonly start?: boolean
  /** Stops and removes a sandbox of the same name once everything else was checked; default false. */
  readonly replace?: boolean
  /** vCPUs, 1 to 16; default 1. */
  readonly cpus?: number
  /** MiB, at least 64; default 512. */
  readonly memoryMb?: number
  /** MiB of a persistent sandbox's disk, sparse; default 4096. */
  readonly diskMb?: number
  /** Host name in the guest; default: the sandbox's name. */
  readonly hostname?: string
  /** Environment of every command, over the image's. */
  readonly env?: Readonly<Record<string, string>>
  /** Working directory; default: the image's. */
  readonly workdir?: string
  /** `name`, `uid`, `name:group` or `uid:gid`; default: the image's. */
  readonly user?: string
  /**
   * Its main command, which `attach` joins; it ends without ending the sandbox. Default: none, and the image's own is not run, either;
   * see `entrypoint`.
   */
  readonly command?: ReadonlyArray<string>
  /** What comes before `command`; default: nothing. `image`: what the image says, and without `command` also its own command. */
  readonly entrypoint?: ReadonlyArray<string> | "image"
  /** The sandbox ends with its main command, whose exit code `wait` tells; default false. */
  readonly endsWithCommand?: boolean
  /** Gives the main command a terminal; default false. */
  readonly tty?: boolean
  /** Keeps the main command's stdin open for `attach`; default false. */
  readonly openStdin?: boolean
  /** Directories or files of this machine: absolute paths here and in the guest. `readOnly`, default false, is enforced here. */
  readonly mounts?: ReadonlyArray<{ readonly source: string; readonly target: string; readonly readOnly?: boolean }>
  /** Directories in the guest's memory, each of at most `sizeMb` MiB; default: half of its memory. */
  readonly tmpfs?: ReadonlyArray<{ readonly target: string; readonly sizeMb?: number }>
  /** Ports of the guest that this machine, or the server, listens for; default: none. */
  readonly ports?: ReadonlyArray<Port>
  /** Secrets that requests get on their way out; default: none. */
  readonly secrets?: ReadonlyArray<Secret>
  /** What its guest may reach; default: no network at all. */
  readonly network?: NetworkOptions
  /** Limits of its commands; default: those of the guest. */
  readonly rlimits?: ReadonlyArray<Rlimit>
  /** What happens when a persistent sandbox ends without being asked to: `{ policy: "on-failure", attemptsMax: 5 }`; default: nothing. */
  readonly restart?: RestartPolicy
  /** Models of the cache, read-only at `target`, default `/models/NAME`; what is missing is fetched as its pull policy says. */
  readonly models?: ReadonlyArray<{ readonly name: string; readonly target?: string }>
  /** Default: `BUNKER_ENGINE` of the process that makes it, else `auto`: KVM where it boots guests, else emulation. */
  readonly engine?: EngineKind
  /** Agent session that it works for; default: none. */
  readonly session?: string
  /** For your own use; default: none. */
  readonly labels?: Readonly<Record<string, string>>
  /** Longest life in milliseconds, kept by the guest itself should this process hang; default: no end. */
  readonly maxDurationMs?: number
  /** Longest time without a command, a file operation and a `touch`, in milliseconds; default: no end. */
  readonly idleTimeoutMs?: number
  /**
   * What `create` waits for before it resolves: `{ port: 3000 }`, `{ log: /ready/ }` or `{ command: "…" }`, each for `timeoutMs`, default
   * 30,000. It rejects with `NotReady` and leaves no sandbox when that does not come; default: commands can be run.
   */
  readonly ready?: Ready
  /** Told of each step of the image's pull: layers as they move, then the image. */
  readonly onProgress?: (event: ImageEvent) => void
  /** Gives the making up; nothing of the sandbox is left, and `create` rejects with the signal's reason. */
  readonly signal?: AbortSignal
}

/** Which sandboxes to list. */
export interface ListOptions extends PlaceOptions {
  /** Those that have all of these; default: any. */
  readonly labels?: Readonly<Record<string, string>>
  /** Most of them; default: all. */
  readonly limit?: number
  /** How many to pass over; default 0. */
  readonly offset?: number
}

/** Where the value of a secret is: a variable of this process, a file, or a secret of the store of that name. */
export type SecretFrom = { readonly env: string } | { readonly file: string } | { readonly store: string }

/** A value that goes into requests to some hosts, and that the guest never has: it has a placeholder in the variable `name`. */
export interface Secret {
  readonly name: string
  /** Names, without wildcards; the network must allow them. */
  readonly hosts: readonly [string, ...ReadonlyArray<string>]
  /** Where in a request: `header`, `basic`, or `query` for all three; default: header fields, plain and inside Basic. */
  readonly use?: "header" | "basic" | "query"
  /** The value itself; kept encrypted with the sandbox. */
  readonly value?: string
  /** In place of `value`; default: the secret `name` of the store. */
  readonly from?: SecretFrom
}

/** Fields that were given. */
const given = <Fields extends object>(fields: Fields): { [Key in keyof Fields]?: NonNullable<Fields[Key]> } =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as never

const isOwn = ({ from, value }: Secret): boolean => value !== undefined || (from !== undefined && !("store" in from))

const bindingOf = (secret: Secret): SecretBinding => ({
  name: secret.name,
  hosts: secret.hosts,
  ...given({ use: secret.use }),
  ...(isOwn(secret)
    ? {}
    : { store: secret.from !== undefined && "store" in secret.from ? secret.from.store : secret.name })
})

/** Values that a sandbox is to have of its own, by name. */
export const secretValuesOf = Effect.fnUntraced(function* (
  secrets: ReadonlyArray<Secret> = []
): Effect.fn.Return<{ readonly secretValues?: Readonly<Record<string, Redacted.Redacted<string>>> }, InvalidSpec> {
  const values: Record<string, Redacted.Redacted<string>> = {}
  for (const { from, name, value } of secrets) {
    if (value !== undefined) values[name] = Redacted.make(value)
    else if (from !== undefined && !("store" in from)) values[name] = Redacted.make(yield* valueFrom(name, from))
  }
  return Object.keys(values).length === 0 ? {} : { secretValues: values }
})

const valueFrom = (name: string, from: { readonly env: string } | { readonly file: string }) =>
  Effect.try({
    try: () => {
      const found = "env" in from ? process.env[from.env] : fs.readFileSync(from.file, "utf8").replace(/\r?\n$/, "")
      if (found === undefined) throw new Error("it is not set")
      return found
    },
    catch: (cause) => {
      const { code, message } = cause as NodeJS.ErrnoException
      const where = "env" in from ? `the variable ${from.env}` : from.file
      return new InvalidSpec({
        field: "secrets",
        reason: `${where}, the value of ${name}, can not be read: ${code ?? message}`
      })
    }
  })

/** The definition of a sandbox. */
export const configOf = (options: SandboxOptions): NewSandboxConfig => ({
  image: options.image,
  env: pairs(options.env),
  cpus: options.cpus ?? 1,
  memoryMb: options.memoryMb ?? 512,
  diskMb: options.diskMb ?? 4096,
  endsWithCommand: options.endsWithCommand ?? false,
  labels: options.labels ?? {},
  ...(options.entrypoint === "image"
    ? given({ command: options.command })
    : // An empty entrypoint keeps the image's own command from running.
      { entrypoint: options.entrypoint ?? [], command: options.command ?? [] }),
  ...given({
    engine: options.engine,
    hostname: options.hostname,
    ports: options.ports?.map(({ guestPort, hostPort = 0, hostIp = defaultHostIp }) => ({
      hostIp,
      hostPort,
      guestPort
    })),
    network: options.network,
    secrets: options.secrets?.map(bindingOf),
    rlimits: options.rlimits === undefined ? undefined : limitsOf(options.rlimits),
    restart: options.restart,
    workdir: options.workdir,
    user: options.user,
    session: options.session,
    tty: options.tty,
    openStdin: options.openStdin,
    mounts: options.mounts?.map((mount) => ({ ...mount, readOnly: mount.readOnly ?? false })),
    tmpfs: options.tmpfs,
    models: options.models?.map(({ name, target = `/models/${name}` }) => ({ name, target })),
    maxDurationMs: options.maxDurationMs,
    idleTimeoutMs: options.idleTimeoutMs
  })
})
