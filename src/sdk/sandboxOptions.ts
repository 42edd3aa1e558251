/** Says what a program may ask for when it makes a sandbox, and turns it into a definition. Makes none (see Sandbox). */
import type { EngineKind, SandboxConfig } from "../domain/sandbox.ts"
import type { PlaceOptions } from "./runtime.ts"

export interface SandboxOptions extends PlaceOptions {
  /** Image reference, like `alpine:3.20`; pulled when it is missing. */
  readonly image: string
  /** Name; default: made up. */
  readonly name?: string
  /** vCPUs, 1 to 64; default 1. */
  readonly cpus?: number
  /** MiB, at least 64; default 512. */
  readonly memoryMb?: number
  /** Environment of every command, over the image's. */
  readonly env?: Readonly<Record<string, string>>
  /** Working directory; default: the image's. */
  readonly workdir?: string
  /** `name`, `uid`, `name:group` or `uid:gid`; default: the image's. */
  readonly user?: string
  /**
   * Its main command, which `attach` joins; it ends without ending the sandbox. Default: none, and the image's own is not run, either.
   */
  readonly command?: ReadonlyArray<string>
  /** Gives the main command a terminal; default false. */
  readonly tty?: boolean
  /** Keeps the main command's stdin open for `attach`; default false. */
  readonly openStdin?: boolean
  /** Directories or files of this machine: absolute paths here and in the guest. `readOnly`, default false, is enforced here. */
  readonly mounts?: ReadonlyArray<{ readonly source: string; readonly target: string; readonly readOnly?: boolean }>
  /** Directories in the guest's memory, each of at most `sizeMb` MiB; default: half of its memory. */
  readonly tmpfs?: ReadonlyArray<{ readonly target: string; readonly sizeMb?: number }>
  /** Models of the cache, read-only at `target`, default `/models/NAME`; what is missing is fetched as its pull policy says. */
  readonly models?: ReadonlyArray<{ readonly name: string; readonly target?: string }>
  /** Default `auto`: KVM where it boots guests, else emulation. */
  readonly engine?: EngineKind
  /** Agent session that it works for; default: none. */
  readonly session?: string
  /** For your own use; default: none. */
  readonly labels?: Readonly<Record<string, string>>
  /** Longest life in milliseconds, kept by the guest itself should this process hang; default: no end. */
  readonly maxDurationMs?: number
  /** Longest time without a command, a file operation and a `touch`, in milliseconds; default: no end. */
  readonly idleTimeoutMs?: number
}

/** `KEY=value` for each. */
export const pairs = (env: Readonly<Record<string, string>> = {}): ReadonlyArray<string> =>
  Object.entries(env).map(([key, value]) => `${key}=${value}`)

/** Fields that were given. */
const given = <Fields extends object>(fields: Fields): { [Key in keyof Fields]?: NonNullable<Fields[Key]> } =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as never

/** The definition of a sandbox. */
export const configOf = (options: SandboxOptions): SandboxConfig => ({
  image: options.image,
  env: pairs(options.env),
  cpus: options.cpus ?? 1,
  memoryMb: options.memoryMb ?? 512,
  diskMb: 4096,
  engine: options.engine ?? "auto",
  endsWithCommand: false,
  labels: options.labels ?? {},
  // An empty entrypoint keeps the image's own command from running.
  entrypoint: [],
  command: options.command ?? [],
  ...given({
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
