/**
 * Compares lists of kernel words by the guest's boot time in the KVM lab. BENCH_WORDS names a file of lines "name: words";
 * the name `initcalls` also prints the kernel's slowest steps. Changes nothing: bootWords (src/vm/engines/qemuArguments.ts) is edited by
 * hand with what was learnt.
 */
import fs from "node:fs"
import path from "node:path"
import { inLab } from "../support/lab.ts"
import { environment, writeResult } from "../support/results.ts"
import { summarize, table } from "../support/statistics.ts"

const standard = ["base:", "initcalls: initcall_debug loglevel=8 ignore_loglevel log_buf_len=1M"].join("\n")

export const benchKernel = async (): Promise<void> => {
  const given = process.env["BENCH_WORDS"]
  const words = given === undefined ? standard : fs.readFileSync(given, "utf8")
  const { out, seconds } = await inLab("kernel/inside-kernel.sh", {
    WORDS: words,
    RUNS: process.env["BENCH_RUNS"] ?? "2"
  })
  const raw = JSON.parse(fs.readFileSync(path.join(out, "boot.json"), "utf8")) as Record<string, ReadonlyArray<string>>
  const results = Object.entries(raw).map(([name, times]) => ({
    name,
    words: words.match(new RegExp(`^${name}:(.*)$`, "m"))?.[1]?.trim() ?? "",
    ms: summarize(times.map(Number).filter((ms) => ms > 0))
  }))
  const base = results.find(({ name }) => name === "base")?.ms?.median
  console.log(
    `\n${table([
      ["words", "ms to the agent's call", "against base"],
      ...results.map(({ name, ms }) => [
        name,
        ms?.median.toFixed(1) ?? "failed",
        ms === undefined || base === undefined ? "-" : (ms.median - base).toFixed(1)
      ])
    ])}\n`
  )
  const steps = slowest(path.join(out, "console-initcalls.txt"))
  if (steps.length > 0)
    console.log(`${table([["slowest initcalls", "ms"], ...steps.map(({ name, ms }) => [name, ms.toFixed(1)])])}\n`)
  console.log(
    `wrote ${writeResult("kernel", { environment: { ...environment(), seconds }, results, slowestInitcalls: steps })}`
  )
  if (process.env["BENCH_KEEP"] === undefined) fs.rmSync(out, { recursive: true, force: true })
  else console.log(`kept: ${out}`)
}

/** Of a console with initcall_debug: `initcall NAME+0x0/0x10 returned 0 after 1234 usecs`. */
const slowest = (file: string): ReadonlyArray<{ readonly name: string; readonly ms: number }> => {
  if (!fs.existsSync(file)) return []
  return [...fs.readFileSync(file, "utf8").matchAll(/initcall (\S+?)\+\S+ returned \S+ after (\d+) usecs/g)]
    .map(([, name, microseconds]) => ({ name: name!, ms: Number(microseconds) / 1000 }))
    .sort((a, b) => b.ms - a.ms)
    .slice(0, 25)
}
