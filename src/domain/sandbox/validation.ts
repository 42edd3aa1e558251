/**
 * Says what is wrong with a sandbox or a command that its schema can not say: fields that depend on each other, and what is known
 * to fail in the guest. One answer for every door and every file. Pure: looks at no path, port or image.
 */

import { isAddress } from "../network/address.ts"
import { networkProblem } from "../network/config.ts"
import { secretsProblem } from "../network/secrets.ts"
import { snakeCase } from "../wire.ts"
import type { ExecRequest } from "./exec.ts"
import { mountProblem } from "./mounts.ts"
import { portProblem } from "./ports.ts"
import { limits, type ResourceLimit, type SandboxConfig } from "./sandbox.ts"

export interface Problem {
  /** As on the wire. */
  readonly field: string
  /** One phrase. */
  readonly reason: string
}

/** Processors that the guests' kernel takes into use; it passes over more without a word. */
const kernelCpusMax = 16

/** MiB without which a guest of so many processors does not boot: each one past the fourth needs some of its own (measured). */
const memoryMbMin = (cpus: number): number => limits.memoryMbMin + 2 * Math.max(0, cpus - 4)

/** The start of a text, for a message. */
const shown = (text: string): string => (text.length > 64 ? `${text.slice(0, 64)}…` : text)

/** What is wrong with a size that is within the bounds, undefined for nothing. */
export const sizeProblem = ({ cpus, memoryMb }: Pick<SandboxConfig, "cpus" | "memoryMb">): Problem | undefined => {
  if (cpus > kernelCpusMax) {
    return {
      field: "cpus",
      reason: `the guests' kernel uses at most ${kernelCpusMax} processors; ask for fewer than ${cpus}`
    }
  }
  const least = memoryMbMin(cpus)
  return memoryMb >= least
    ? undefined
    : { field: "memory_mb", reason: `${memoryMb} MiB are too little for ${cpus} processors; the least is ${least} MiB` }
}

const environmentProblem = (env: ReadonlyArray<string>): Problem | undefined => {
  const nameless = env.find((entry) => entry.indexOf("=") < 1)
  return nameless === undefined ? undefined : { field: "env", reason: `"${shown(nameless)}" is not KEY=value` }
}

/** Longest path of Linux, in bytes without its end. */
const pathBytesMax = 4095
const userBytesMax = 256

const lengthProblem = (field: string, text: string, most: number): Problem | undefined =>
  Buffer.byteLength(text) > most ? { field, reason: `it has more than ${most} bytes` } : undefined

const directoryProblem = (field: string, directory = ""): Problem | undefined =>
  directory === "" || directory.startsWith("/")
    ? lengthProblem(field, directory, pathBytesMax)
    : { field, reason: `"${shown(directory)}" is not an absolute path in the guest` }

/** Bytes of words and variables beyond which no request for a command has room for them and what the image adds. */
const wordsBytesMax = 196_608
/** Bytes beyond which a definition might become longer than a file that is read (machines.ts). */
const definitionBytesMax = 524_288

const sumProblem = (field: string, ...lists: ReadonlyArray<ReadonlyArray<string> | undefined>): Problem | undefined => {
  const sum = lists.flatMap((list) => list ?? []).reduce((bytes, text) => bytes + Buffer.byteLength(text), 0)
  return sum > wordsBytesMax
    ? {
        field,
        reason: `with the variables it has more than ${wordsBytesMax / 1024} KiB; a file in the guest can hold more`
      }
    : undefined
}

/** True when every text can be written as UTF-8: JSON has halves of characters, files have none. */
const isText = (value: unknown): boolean => {
  if (typeof value === "string") return value.isWellFormed()
  return typeof value !== "object" || value === null || Object.entries(value).flat().every(isText)
}

const textProblem = (config: SandboxConfig): Problem | undefined => {
  const [field] = Object.entries(config).find(([, value]) => !isText(value)) ?? []
  return field === undefined
    ? undefined
    : { field: snakeCase(field), reason: "it has half of a character (a surrogate)" }
}

/** Names that the reader of the file takes for an attack on the program. */
const unsafeNames = ["__proto__", "constructor"]

const labelProblem = ({ labels }: SandboxConfig): Problem | undefined => {
  const unsafe = unsafeNames.find((name) => Object.hasOwn(labels, name))
  return unsafe === undefined ? undefined : { field: "labels", reason: `"${unsafe}" can not be the name of a label` }
}

const definitionProblem = (config: SandboxConfig): Problem | undefined =>
  Buffer.byteLength(JSON.stringify(config)) > definitionBytesMax
    ? { field: "labels", reason: `the whole definition has more than ${definitionBytesMax / 1024} KiB; shorten it` }
    : undefined

/** True for limits that setrlimit(2) takes; -1 is above every number. */
export const isSoundLimit = ({ soft, hard }: Pick<ResourceLimit, "soft" | "hard">): boolean =>
  hard === -1 || (soft !== -1 && soft <= hard)

const limitsProblem = (rlimits: ReadonlyArray<ResourceLimit> = []): Problem | undefined => {
  const unsound = rlimits.find((limit) => !isSoundLimit(limit))
  if (unsound === undefined) return undefined
  const { resource, soft, hard } = unsound
  return { field: "rlimits", reason: `the soft limit of ${resource}, ${soft}, is above the hard one, ${hard}` }
}

/** Longest host name of Linux is 64 bytes; the characters of RFC 1123 and "_". */
const hostnameProblem = (hostname: string | undefined): Problem | undefined =>
  hostname === undefined || /^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$/.test(hostname)
    ? undefined
    : {
        field: "hostname",
        reason: `"${shown(hostname)}" is not a host name: 1 to 64 of A-Z a-z 0-9 . _ -, and a letter or digit first`
      }

const addressProblem = ({ ports = [] }: Pick<SandboxConfig, "ports">): Problem | undefined => {
  const other = ports.find(({ hostIp }) => !isAddress(hostIp))
  if (other !== undefined) {
    return { field: "ports", reason: `"${shown(other.hostIp)}" is not an IP address of this machine; write 127.0.0.1` }
  }
  const clash = portProblem(ports)
  return clash === undefined ? undefined : { field: "ports", reason: clash }
}

const placeProblem = (config: SandboxConfig): Problem | undefined => {
  const reason = mountProblem(config)
  return reason === undefined ? undefined : { field: "mounts", reason }
}

const keepingProblem = ({ restart }: SandboxConfig, ephemeral: boolean): Problem | undefined => {
  if (restart?.policy === "no" && restart.attemptsMax !== undefined) {
    return { field: "restart", reason: 'attempts_max is for "on-failure" and "always"' }
  }
  return ephemeral && restart !== undefined && restart.policy !== "no"
    ? {
        field: "restart",
        reason: "a sandbox that goes with its end can not start again; leave --rm away, or the restart policy"
      }
    : undefined
}

const networkOf = ({ network }: SandboxConfig): Problem | undefined => {
  const problem = network === undefined ? undefined : networkProblem(network)
  return problem === undefined ? undefined : { ...problem, field: `network.${problem.field}` }
}

/** What would fail only once the sandbox boots or runs its first command, undefined for nothing. */
export const sandboxProblem = (config: SandboxConfig, ephemeral: boolean): Problem | undefined =>
  sizeProblem(config) ??
  environmentProblem(config.env) ??
  sumProblem("command", config.entrypoint, config.command, config.env) ??
  directoryProblem("workdir", config.workdir) ??
  lengthProblem("user", config.user ?? "", userBytesMax) ??
  hostnameProblem(config.hostname) ??
  limitsProblem(config.rlimits) ??
  placeProblem(config) ??
  addressProblem(config) ??
  networkOf(config) ??
  secretsProblem(config.secrets, config.network) ??
  keepingProblem(config, ephemeral) ??
  labelProblem(config) ??
  textProblem(config) ??
  definitionProblem(config)

/** What the guest would refuse without saying which field, undefined for nothing. */
export const commandProblem = (
  request: Pick<ExecRequest, "argv" | "env" | "cwd" | "user" | "rlimits">
): Problem | undefined =>
  (request.argv[0] === "" ? { field: "argv", reason: "the command has no name" } : undefined) ??
  environmentProblem(request.env) ??
  directoryProblem("cwd", request.cwd) ??
  lengthProblem("user", request.user ?? "", userBytesMax) ??
  sumProblem("argv", request.argv, request.env) ??
  limitsProblem(request.rlimits)
