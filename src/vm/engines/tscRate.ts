/**
 * Measures how fast the host's time stamp counter runs, once per boot of the machine.
 * An emulated guest reads the host's counter; told its rate, it skips a calibration that a busy host makes fail. Tunes
 * nothing else and never fails: without a trustworthy counter the answer is undefined.
 */
import fs from "node:fs"
import path from "node:path"
import { timeStampCounter } from "../../ffi/tsc.ts"
import { currentBootId } from "../../store/processes/processes.ts"
import { publish } from "./publish.ts"

const WINDOW_MS = 20

/** kHz of the host's counter, from the cache of this boot or a measurement of 20 ms during which the thread sleeps. */
export const tscRateKhz = (bootCacheDir: string): number | undefined => {
  const file = path.join(bootCacheDir, "tsc.json")
  const boot = currentBootId()
  try {
    const known = JSON.parse(fs.readFileSync(file, "utf8")) as { readonly boot?: unknown; readonly khz?: unknown }
    if (known.boot === boot) return typeof known.khz === "number" ? known.khz : undefined
  } catch {}
  const khz = measure()
  try {
    publish(file, JSON.stringify({ boot, khz: khz ?? null }))
  } catch {}
  return khz
}

const measure = (): number | undefined => {
  const flags =
    fs
      .readFileSync("/proc/cpuinfo", "utf8")
      .match(/^flags\s*:.*$/m)?.[0]
      .split(" ") ?? []
  if (!flags.includes("constant_tsc")) return undefined
  const counter = timeStampCounter()
  if (counter === undefined) return undefined
  const first = sample(counter)
  Bun.sleepSync(WINDOW_MS)
  const second = sample(counter)
  const khz = Math.round(((second.ticks - first.ticks) / (second.ns - first.ns)) * 1e6)
  return khz > 100_000 && khz < 20_000_000 ? khz : undefined
}

/** Counter and clock at the same moment: the closest of several tries, for a preempted one lies far apart. */
const sample = (counter: () => bigint): { readonly ticks: number; readonly ns: number } => {
  let best = { apart: Number.POSITIVE_INFINITY, ticks: 0, ns: 0 }
  for (let tries = 0; tries < 50; tries += 1) {
    const before = Bun.nanoseconds()
    const ticks = Number(counter())
    const after = Bun.nanoseconds()
    if (after - before < best.apart) best = { apart: after - before, ticks, ns: (before + after) / 2 }
  }
  return best
}
