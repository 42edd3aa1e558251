/** Starts a small VM, says its pid on stdout, and waits to be killed. Argument: `with` or `without` dying with its parent. */
import { Effect } from "effect"
import { engine, runDirectory, smallVm } from "./vm.ts"

await Effect.runPromise(
  Effect.scoped(
    Effect.gen(function* () {
      const runDir = yield* runDirectory
      const vm = yield* (yield* engine).spawn(smallVm(runDir, { dieWithParent: process.argv[2] === "with" }))
      console.log(JSON.stringify({ ...vm.identity, runDir }))
      return yield* Effect.never
    })
  )
)
