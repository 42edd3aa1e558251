/** Prints every named step of one warm run in the KVM lab, and the guest kernel's messages with their times. Compares nothing. */
import fs from "node:fs"
import path from "node:path"
import { inLab } from "../support/lab.ts"
import { environment, writeResult } from "../support/results.ts"

export const benchPhases = async (): Promise<void> => {
  const { out, seconds } = await inLab("phases/inside-phases.sh", {})
  const read = (name: string) => fs.readFileSync(path.join(out, name), "utf8").trimEnd().split("\n")
  const [steps, kernel] = [read("phases.txt"), read("dmesg.txt")]
  console.log(`\n   began     took\n${steps.join("\n")}\n\n${kernel.join("\n")}\n`)
  console.log(`wrote ${writeResult("phases", { environment: { ...environment(), seconds }, steps, kernel })}`)
  fs.rmSync(out, { recursive: true, force: true })
}
