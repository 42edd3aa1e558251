/** Runs pieces of a test in processes of their own: each script gets the home's layers, and what it prints is its answer. */
import path from "node:path"

const root = path.join(import.meta.dir, "../..")

/** Imports that every script may use. */
const prelude = `
  import { Effect, Layer } from "effect"
  import { LeaseManager, withLease } from ${JSON.stringify(path.join(root, "src/actors/leases/LeaseManager.ts"))}
  import { Sweeper } from ${JSON.stringify(path.join(root, "src/actors/sandboxes/Sweeper.ts"))}
  import { homeAt } from ${JSON.stringify(path.join(root, "test/support/home.ts"))}
  const say = (text) => process.stdout.write(String(text))
  const go = (home, options, body) => Effect.runPromise(body.pipe(
    Effect.provide(Sweeper.layer(options).pipe(Layer.provideMerge(LeaseManager.layer), Layer.provideMerge(homeAt(home))))))
`

/** Starts `body`, a program over `home`, `go` and `say`. */
export const startChild = (home: string, body: string, under: ReadonlyArray<string> = []) =>
  Bun.spawn([...under, process.execPath, "-e", `${prelude}\nconst home = ${JSON.stringify(home)}\n${body}`], {
    cwd: import.meta.dir,
    // Open until it ends: a script may wait for that.
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit"
  })

/** Runs it to its end and answers what it printed. */
export const runChild = async (home: string, body: string): Promise<string> => {
  const child = startChild(home, body)
  const text = await new Response(child.stdout).text()
  await child.exited
  return text
}
