/** Reads the environment variables that Bunker knows into one value. Pure: the doors call it once with `process.env`. */
import { Effect, Redacted } from "effect"
import { parseDuration } from "./duration.ts"
import { InvalidSpec } from "./errors/vm.ts"

/** Credentials for registries that the environment holds. */
export interface RegistryEnvironment {
  /** `BUNKER_REGISTRY`, `BUNKER_REGISTRY_USERNAME` and `BUNKER_REGISTRY_PASSWORD`: all three or nothing. */
  readonly login:
    | { readonly domain: string; readonly username: string; readonly password: Redacted.Redacted<string> }
    | undefined
  /** `DOCKER_AUTH_CONFIG`: the content of a Docker config.json. */
  readonly dockerAuth: Redacted.Redacted<string> | undefined
}

/** Values of the variables that name upstream proxies; a value may hold a password. */
export interface ProxySettings {
  readonly http?: string
  readonly https?: string
  readonly all?: string
  readonly no?: string
}

export interface Settings {
  /** Home directory: absolute path. `BUNKER_HOME`, default `~/.bunker`. */
  readonly home: string
  /** `BUNKER_LIBKRUN`: the library to use instead of a search. */
  readonly libkrun: string | undefined
  /** `BUNKER_LIBKRUNFW`: the kernel bundle to use instead of a search. */
  readonly libkrunfw: string | undefined
  /** `BUNKER_NATIVE`: directory of agent, launcher and libraries, instead of those that come with this build. */
  readonly native: string | undefined
  /** `BUNKER_QEMU`: the emulator to use instead of a search. */
  readonly qemu: string | undefined
  /** `BUNKER_AGENT`: the guest agent to use instead of the one that comes with this build. */
  readonly agent: string | undefined
  /** Directory of Docker's config.json: `DOCKER_CONFIG`, default `~/.docker`. */
  readonly dockerConfig: string
  readonly registry: RegistryEnvironment
  /** `BUNKER_IMAGES`: JSON of mirrors, registries without TLS and limits, see imageOptions.ts. */
  readonly images: string | undefined
  /** Directory of the cache of models: `BUNKER_MODELS`, default `models` in the home directory. */
  readonly models: string | undefined
  /** Hugging Face Hub to ask: `HF_ENDPOINT`, default `https://huggingface.co`. */
  readonly hubEndpoint: string
  /** True when the Hub must not be asked: `HF_HUB_OFFLINE`. */
  readonly hubOffline: boolean
  /** `BUNKER_ENGINE`: default of `--engine`. */
  readonly engine: string | undefined
  /** `BUNKER_AGENT_TIMEOUT`: how long the agent of a sandbox may be mute before the sandbox is ended, like `60s`, its default. */
  readonly agentTimeout: string | undefined
  readonly path: string
  /** `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, or the same in lower case: through which sandboxes reach the network. */
  readonly proxies: ProxySettings
  /** `SSL_CERT_FILE`: certificates by which servers are verified that get secrets; absent: the system's. */
  readonly certificates: string | undefined
  /** `BUN_JSC_…`: options of the JavaScript engine that this program runs on; none but for odd machines. */
  readonly runtime: Readonly<Record<string, string>>
}

/** Default of `BUNKER_AGENT_TIMEOUT`, in milliseconds. */
export const agentTimeoutMsDefault = 60_000
/** A busy machine is not a dead one. */
const agentTimeoutMsMin = 1000
const agentTimeoutMsMax = 86_400_000

/** Milliseconds of a duration for an agent's silence; fails naming the field. */
export const readAgentTimeout = (field: string, text: string | undefined): Effect.Effect<number, InvalidSpec> => {
  if (text === undefined) return Effect.succeed(agentTimeoutMsDefault)
  const ms = parseDuration(text)
  if (ms !== undefined && ms >= agentTimeoutMsMin && ms <= agentTimeoutMsMax) return Effect.succeed(ms)
  return Effect.fail(new InvalidSpec({ field, reason: `"${text}" is no time between 1s and 1d; write 30s or 5m` }))
}

type Environment = Readonly<Record<string, string | undefined>>

const given = (value: string | undefined): string | undefined =>
  value === undefined || value === "" ? undefined : value

const readRegistry = (env: Environment): RegistryEnvironment => {
  const domain = given(env["BUNKER_REGISTRY"])
  const username = given(env["BUNKER_REGISTRY_USERNAME"])
  const password = given(env["BUNKER_REGISTRY_PASSWORD"])
  const dockerAuth = given(env["DOCKER_AUTH_CONFIG"])
  const whole = domain !== undefined && username !== undefined && password !== undefined
  return {
    login: whole ? { domain, username, password: Redacted.make(password) } : undefined,
    dockerAuth: dockerAuth === undefined ? undefined : Redacted.make(dockerAuth)
  }
}
const isOn = (value: string | undefined): boolean => /^(1|true|yes|on)$/i.test(value ?? "")

const proxyKinds = ["http", "https", "all", "no"] as const

const readProxies = (env: Environment): ProxySettings =>
  Object.fromEntries(
    proxyKinds.flatMap((kind) => {
      const value = given(env[`${kind}_proxy`]) ?? given(env[`${kind.toUpperCase()}_PROXY`])
      return value === undefined ? [] : [[kind, value]]
    })
  )

/** `fallbackHome` is the user's home directory for an environment that names none. */
export const readSettings = (env: Environment, cwd: string, fallbackHome: string): Settings => {
  const userHome = given(env["HOME"]) ?? fallbackHome
  const home = given(env["BUNKER_HOME"]) ?? `${userHome}/.bunker`
  const models = given(env["BUNKER_MODELS"])
  return {
    home: home.startsWith("/") ? home : `${cwd}/${home}`,
    models: models === undefined || models.startsWith("/") ? models : `${cwd}/${models}`,
    hubEndpoint: given(env["HF_ENDPOINT"]) ?? "https://huggingface.co",
    hubOffline: isOn(env["HF_HUB_OFFLINE"]),
    libkrun: given(env["BUNKER_LIBKRUN"]),
    libkrunfw: given(env["BUNKER_LIBKRUNFW"]),
    native: given(env["BUNKER_NATIVE"]),
    qemu: given(env["BUNKER_QEMU"]),
    agent: given(env["BUNKER_AGENT"]),
    dockerConfig: given(env["DOCKER_CONFIG"]) ?? `${userHome}/.docker`,
    registry: readRegistry(env),
    images: given(env["BUNKER_IMAGES"]),
    engine: given(env["BUNKER_ENGINE"]),
    agentTimeout: given(env["BUNKER_AGENT_TIMEOUT"]),
    proxies: readProxies(env),
    certificates: given(env["SSL_CERT_FILE"]),
    path: given(env["PATH"]) ?? "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    runtime: Object.fromEntries(
      Object.entries(env).flatMap(([key, value]) =>
        key.startsWith("BUN_JSC_") && value !== undefined ? [[key, value]] : []
      )
    )
  }
}

/** What a keeper process needs to read the same settings: nothing else of the environment is passed on. */
export const settingsEnvironment = (settings: Settings): Readonly<Record<string, string>> =>
  Object.fromEntries(
    Object.entries({
      ...settings.runtime,
      BUNKER_HOME: settings.home,
      BUNKER_LIBKRUN: settings.libkrun,
      BUNKER_LIBKRUNFW: settings.libkrunfw,
      BUNKER_NATIVE: settings.native,
      BUNKER_QEMU: settings.qemu,
      BUNKER_AGENT: settings.agent,
      BUNKER_IMAGES: settings.images,
      BUNKER_AGENT_TIMEOUT: settings.agentTimeout,
      DOCKER_CONFIG: settings.dockerConfig,
      BUNKER_MODELS: settings.models,
      ...Object.fromEntries(Object.entries(settings.proxies).map(([kind, value]) => [`${kind}_proxy`, value])),
      SSL_CERT_FILE: settings.certificates,
      PATH: settings.path,
      HOME: "/",
      LC_ALL: "C.UTF-8"
    }).flatMap(([key, value]) => (value === undefined ? [] : [[key, value]]))
  )
