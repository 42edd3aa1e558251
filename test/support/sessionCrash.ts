/**
 * A program that does one thing to a session's file and is killed before its nth statement: `FILE NTH commit|collect`.
 * Prints `done` when it was not.
 */
import type { Commit } from "../../src/domain/session/session.ts"
import { collect } from "../../src/store/database/session/collect.ts"
import { commit } from "../../src/store/database/session/commit.ts"
import { nodes } from "./sessionData.ts"
import { observed, openFile } from "./sessionFile.ts"

export const crashTurn = (checkpoint: string, artifact: string): Commit => ({
  turnId: "crash",
  expectedRevision: 1,
  nodes: nodes(...Array.from({ length: 11 }, (_, index) => `c${index}:${index === 0 ? "a" : `c${index - 1}`}`)),
  checkpoint,
  artifacts: [
    { artifactRef: "kept", blobRef: artifact, kind: "module" },
    { artifactRef: "old", blobRef: null, kind: "module" }
  ]
})

if (import.meta.main) {
  const [place = "", nth = "", what = "", checkpoint = "", artifact = ""] = process.argv.slice(2)
  let count = 0
  const file = observed(openFile(place), () => {
    count += 1
    if (count === Number(nth)) process.kill(process.pid, "SIGKILL")
  })
  const result = what === "commit" ? commit(file, crashTurn(checkpoint, artifact), 5) : collect(file, 0, 5)
  // Not flushed, not closed: what is done is done.
  if (result._tag === "Success") process.stdout.write("done")
  process.kill(process.pid, "SIGKILL")
}
