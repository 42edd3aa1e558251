/** Chooses which sandboxes `ps` shows, and says in words how each is. Pure. */
import { Effect } from "effect"
import { formatDuration } from "../domain/duration.ts"
import { isAhead } from "../domain/elapsed.ts"
import { InvalidSpec } from "../domain/errors/vm.ts"
import { delayMsMax } from "../domain/sandbox/restart.ts"
import { isLive, type SandboxInfo } from "../domain/sandbox/sandbox.ts"

type Filter = (info: SandboxInfo) => boolean

const filters: Readonly<Record<string, (value: string) => Filter>> = {
  /** `KEY`, or `KEY=value`. */
  label: (value) => (info) => {
    const [key = "", ...rest] = value.split("=")
    const found = Object.hasOwn(info.config.labels, key) ? info.config.labels[key] : undefined
    return found !== undefined && (rest.length === 0 || found === rest.join("="))
  },
  status: (value) => (info) => info.status === value,
  /** A part of it. */
  name: (value) => (info) => info.name.includes(value),
  image: (value) => (info) => info.config.image.includes(value)
}

/** One filter of `KEY=value` texts: those of one key are alternatives, but for labels, which must all fit. */
export const parseFilters = Effect.fnUntraced(function* (
  texts: ReadonlyArray<string>
): Effect.fn.Return<Filter, InvalidSpec> {
  const groups = new Map<string, Array<Filter>>()
  for (const text of texts) {
    const at = text.indexOf("=")
    const make = Object.hasOwn(filters, text.slice(0, at)) ? filters[text.slice(0, at)] : undefined
    if (at < 1 || make === undefined) {
      return yield* new InvalidSpec({
        field: "--filter",
        reason: `"${text}" is no filter; write label=KEY, label=KEY=value, status=running, name=PART or image=PART`
      })
    }
    // Each label is a group of its own.
    const group = text.startsWith("label=") ? text : text.slice(0, at)
    groups.set(group, [...(groups.get(group) ?? []), make(text.slice(at + 1))])
  }
  return (info) => [...groups.values()].every((group) => group.some((fits) => fits(info)))
})

const describeEnd = (info: SandboxInfo): string => {
  const limited = info.terminationReason === "max_duration_exceeded" || info.terminationReason === "idle_timeout"
  if (limited) return ` (${info.terminationReason})`
  if (info.exitCode !== null) return ` (${info.exitCode})`
  if (info.exitSignal !== null) return ` (${info.exitSignal})`
  return info.status === "crashed" && info.terminationReason !== null ? ` (${info.terminationReason})` : ""
}

/** What its restart policy has done and will do. */
const describeRestarts = (info: SandboxInfo, nowMs: number): string => {
  const { restartAt, restartCount: count } = info
  const most = info.config.restart?.attemptsMax
  if (restartAt !== null) {
    const left = isAhead(restartAt, delayMsMax, nowMs) ? Math.ceil((restartAt - nowMs) / 1000) : 0
    return `, restart ${count}${most === undefined ? "" : `/${most}`} in ${formatDuration(left * 1000)}`
  }
  if (count === 0) return ""
  if (isLive(info.status)) return `, restart ${count}`
  return count === most ? `, gave up after ${count} restart${count === 1 ? "" : "s"}` : ""
}

/** `crashed (1), restart 2/5 in 4s`. */
export const describeStatus = (info: SandboxInfo, nowMs: number): string =>
  `${info.status}${isLive(info.status) ? "" : describeEnd(info)}${describeRestarts(info, nowMs)}`
