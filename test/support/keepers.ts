/** Finds and kills the processes that look after detached sandboxes of a test's home. */
import { expect } from "bun:test"
import fs from "node:fs"
import type { Home } from "./bunker.ts"

/** The state letter of a process (proc(5)), undefined when it is gone. */
export const processState = (pid: number): string | undefined => {
  try {
    return /\) (.) /.exec(fs.readFileSync(`/proc/${pid}/stat`, "utf8"))?.[1]
  } catch {
    return undefined
  }
}

export const lives = (pid: number): boolean => !["Z", "X", undefined].includes(processState(pid))

export const keepersOf = (home: Home, name: string): ReadonlyArray<number> =>
  fs
    .readdirSync("/proc")
    .filter((pid) => /^\d+$/.test(pid))
    .filter((pid) => {
      try {
        const words = fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0")
        const ours = fs.readFileSync(`/proc/${pid}/environ`, "utf8").includes(`BUNKER_HOME=${home.directory}\0`)
        return ours && words.includes("__keeper") && words.includes(name)
      } catch {
        return false
      }
    })
    .map(Number)

/** SIGKILL for the one keeper of a sandbox. */
export const killKeepers = (home: Home, name: string): void => {
  const keepers = keepersOf(home, name)
  expect(keepers).toHaveLength(1)
  for (const pid of keepers) {
    process.kill(pid, "SIGKILL")
    // One that is being killed still has its sockets for a moment.
    while (lives(pid)) Bun.sleepSync(10)
  }
}
