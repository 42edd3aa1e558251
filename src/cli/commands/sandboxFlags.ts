/** The flags by which `run` and `create` describe a sandbox, and what they make of them. */
import { Effect, Option, Schema } from "effect"
import { Argument, Flag } from "effect/cli"
import { InvalidSpec } from "../../domain/errors/vm.ts"
import { EngineKind, type SandboxConfig, SandboxConfig as SandboxConfigSchema } from "../../domain/sandbox/sandbox.ts"
import { sandboxProblem } from "../../domain/sandbox/validation.ts"
import { parseMebibytes, readEnvironment, readLabels, readMounts } from "../arguments.ts"
import { Session } from "../context.ts"
import { checkFlags, checkProblem, readLimits, readPorts } from "../ioFlags.ts"
import { networkFlagOf, networkFlags, readNetwork, valuedNetworkFlags } from "./network/networkFlags.ts"
import { type GivenSecrets, secretFlags, valuedSecretFlags } from "./network/secretFlags.ts"
import { type ParsedPolicies, policyFlags, readPolicies, valuedPolicyFlags } from "./policyFlags.ts"

const optionalText = (name: string, description: string) =>
  Flag.String(name).pipe(Flag.withDescription(description), Flag.optional)
const repeated = (name: string, description: string) =>
  Flag.String(name).pipe(Flag.withDescription(description), Flag.atLeast(0))
const off = (name: string, description: string) =>
  Flag.Boolean(name).pipe(Flag.withDescription(description), Flag.withDefault(false))

const imageFlags = {
  pull: Flag.Literals("pull", ["if-missing", "missing", "always", "never"]).pipe(
    Flag.withDescription("When to fetch the image; default if-missing"),
    Flag.map((policy) => (policy === "missing" ? "if-missing" : policy)),
    Flag.withDefault("if-missing" as const)
  ),
  platform: optionalText("platform", "os/architecture[/variant] of the image; default: this machine's"),
  insecure: off("insecure", "Allow plain HTTP to the registry"),
  quiet: off("quiet", "No progress").pipe(Flag.withAlias("q"))
}

/** Flags of the command that is run: the same for run, create and exec. */
export const commandFlags = {
  env: repeated("env", "KEY=value, or KEY to pass yours on").pipe(Flag.withAlias("e")),
  envFile: repeated("env-file", "File of KEY=value lines"),
  workdir: optionalText("workdir", "Working directory in the guest").pipe(Flag.withAlias("w")),
  user: optionalText("user", "name, uid, name:group or uid:gid").pipe(Flag.withAlias("u"))
}

export const timeoutFlag = optionalText(
  "timeout",
  "Kill the command and end with 124 after this time: 30s, 5m or seconds"
)

/** `--rlimit`, for run, create and exec. */
export const rlimitFlag = repeated("rlimit", "NAME=SOFT[:HARD], like nofile=1024:2048, for commands")

export const terminalFlags = {
  interactive: off("interactive", "Pass stdin to the command").pipe(Flag.withAlias("i")),
  tty: off("tty", "Give the command a terminal").pipe(Flag.withAlias("t"))
}

export const sandboxFlags = {
  ...imageFlags,
  ...commandFlags,
  name: optionalText("name", "Name of the sandbox; default: made up"),
  cpus: Flag.Int("cpus").pipe(Flag.withDescription("vCPUs, 1 to 16; default 1"), Flag.withDefault(1)),
  memory: Flag.String("memory").pipe(
    Flag.withAlias("m"),
    Flag.withDescription("Memory: 512m, 2g or MiB, at least 64m; default 512m"),
    Flag.withDefault("512m")
  ),
  disk: Flag.String("disk").pipe(
    Flag.withDescription("Writable disk of a sandbox that is kept: 4g or MiB, sparse; default 4g"),
    Flag.withDefault("4g")
  ),
  entrypoint: optionalText("entrypoint", "Program in place of the image's entrypoint"),
  hostname: optionalText("hostname", "Host name in the guest; default: the sandbox's name").pipe(Flag.withAlias("h")),
  session: optionalText("session", "Agent session that the sandbox works for; shown by inspect"),
  volume: repeated("volume", "HOST:GUEST[:ro], a directory or file of this machine").pipe(Flag.withAlias("v")),
  tmpfs: repeated("tmpfs", "/path[:size=64m], a directory in the guest's memory"),
  publish: repeated(
    "publish",
    "[HOST_IP:]HOST_PORT:GUEST_PORT, tcp, ranges too (8000-8010:80-90); 0 takes a free host port"
  ).pipe(Flag.withAlias("p")),
  ...networkFlags,
  ...secretFlags,
  rlimit: rlimitFlag,
  model: repeated("model", "NAME[:/path], a model of the cache, read-only; default /models/NAME"),
  label: repeated("label", "KEY=value, for your own use").pipe(Flag.withAlias("l")),
  ...policyFlags,
  engine: Flag.String("engine").pipe(
    Flag.withDescription("auto, krun (KVM) or qemu (emulation, slower); default BUNKER_ENGINE, else auto"),
    Flag.optional
  )
}

export const imageArgument = Argument.String("image").pipe(
  Argument.withDescription("Image reference, like alpine:3.20")
)
export const commandArgument = Argument.String("command").pipe(
  Argument.withDescription("Command and its arguments; default: the image's"),
  Argument.variadic()
)

/** Words after which a value follows, for the search of the image in `run` and `create`. */
export const valuedFlags: ReadonlySet<string> = new Set([
  ...valuedPolicyFlags,
  ...valuedNetworkFlags,
  ...valuedSecretFlags,
  ..."--pull --platform --env -e --env-file --workdir -w --user -u --name --cpus --memory -m --disk --entrypoint --hostname -h --session --label -l --volume -v --tmpfs --model --publish -p --rlimit --timeout --engine --log-level".split(
    " "
  )
])

interface Parsed extends ParsedPolicies {
  readonly image: string
  readonly command: ReadonlyArray<string>
  readonly env: ReadonlyArray<string>
  readonly envFile: ReadonlyArray<string>
  readonly workdir: Option.Option<string>
  readonly user: Option.Option<string>
  readonly cpus: number
  readonly memory: string
  readonly disk: string
  readonly entrypoint: Option.Option<string>
  readonly hostname: Option.Option<string>
  readonly session: Option.Option<string>
  readonly volume: ReadonlyArray<string>
  readonly tmpfs: ReadonlyArray<string>
  readonly publish: ReadonlyArray<string>
  readonly allowNet: ReadonlyArray<string>
  readonly denyNet: ReadonlyArray<string>
  readonly allowHostPort: ReadonlyArray<string>
  readonly addHost: ReadonlyArray<string>
  readonly network: Option.Option<string>
  readonly inspect: ReadonlyArray<string>
  readonly rlimit: ReadonlyArray<string>
  readonly model: ReadonlyArray<string>
  readonly label: ReadonlyArray<string>
  readonly engine: Option.Option<string>
  readonly interactive: boolean
  readonly tty: boolean
}

const isEngine = Schema.is(EngineKind)

/** Flags by the field that they set. */
export const flagOf: Readonly<Record<string, string>> = {
  memory_mb: "--memory (MiB)",
  disk_mb: "--disk (MiB)",
  cpus: "--cpus",
  env: "--env",
  command: "command",
  entrypoint: "--entrypoint",
  workdir: "--workdir",
  cwd: "--workdir",
  argv: "command",
  user: "--user",
  hostname: "--hostname",
  session: "--session",
  mounts: "-v",
  tmpfs: "--tmpfs",
  ports: "-p",
  rlimits: "--rlimit",
  models: "--model",
  labels: "--label",
  network: "--allow-net",
  ...networkFlagOf,
  secrets: "--secret"
}

/** Checks every value and names the flag of the first that is out of bounds. */
export const toConfig = Effect.fnUntraced(function* (
  parsed: Parsed,
  { secrets }: Pick<GivenSecrets, "secrets">,
  endsWithCommand: boolean
) {
  const { settings } = yield* Session
  const engine = Option.getOrElse(parsed.engine, () => settings.engine ?? "auto")
  if (!isEngine(engine)) {
    return yield* new InvalidSpec({
      field: Option.isSome(parsed.engine) ? "--engine" : "BUNKER_ENGINE",
      reason: `"${engine}" is not an engine; choose auto, krun or qemu`
    })
  }
  const optional = <K extends string, V>(key: K, value: Option.Option<V>) =>
    Option.isSome(value) ? ({ [key]: value.value } as Record<K, V>) : {}
  const config = {
    image: parsed.image,
    ...(parsed.command.length > 0 ? { command: parsed.command } : {}),
    ...optional(
      "entrypoint",
      Option.map(parsed.entrypoint, (program) => (program === "" ? [] : [program]))
    ),
    env: yield* readEnvironment(parsed.env, parsed.envFile, process.env),
    ...optional("workdir", parsed.workdir),
    ...optional("user", parsed.user),
    ...optional("hostname", parsed.hostname),
    ...optional("session", parsed.session),
    cpus: parsed.cpus,
    memoryMb: yield* parseMebibytes("--memory", parsed.memory),
    diskMb: yield* parseMebibytes("--disk", parsed.disk),
    engine,
    endsWithCommand,
    labels: yield* readLabels(parsed.label),
    ...(yield* readPorts(parsed.publish)),
    ...(yield* readLimits(parsed.rlimit)),
    ...(yield* readMounts(parsed.volume, parsed.tmpfs, parsed.model, process.cwd())),
    ...(yield* readNetwork(parsed)),
    ...(secrets.length === 0 ? {} : { secrets }),
    ...(yield* readPolicies(parsed)),
    ...(parsed.tty ? { tty: true } : {}),
    ...(parsed.interactive ? { openStdin: true } : {})
  } satisfies SandboxConfig
  const checked = yield* checkFlags(SandboxConfigSchema, config, flagOf)
  yield* checkProblem(sandboxProblem(checked, false), flagOf)
  return checked
})
