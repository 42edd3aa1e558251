/** What suites that boot busybox through the compiled program need of a machine. */
import { existsSync } from "node:fs"
import { engine, program } from "./bunker.ts"
import { busyboxPath } from "./busyboxImage.ts"

/** A static busybox, undefined where there is none. */
export const busybox = busyboxPath()

/** True, and a word on stderr, where `suite` has to be skipped: something of the machine, or of `more`, is missing. */
export const mustSkip = (suite: string, more: ReadonlyArray<string> = []): boolean => {
  const missing = [
    ...(existsSync(program) ? [] : ["dist/bunker ('bun run build' makes it)"]),
    ...(busybox === undefined ? ["a static busybox (apt-get install busybox-static)"] : []),
    ...more,
    ...(engine === "qemu" && Bun.which("qemu-system-x86_64") === null
      ? ["qemu-system-x86_64 (apt-get install qemu-system-x86)"]
      : [])
  ]
  if (missing.length > 0) console.warn(`skipped: ${suite}; missing: ${missing.join(", ")}`)
  return missing.length > 0
}
