/** Runs pieces of a test in processes of their own, over the session store of a home; what they print is their answer. */
import path from "node:path"

const root = path.join(import.meta.dir, "../..")

const prelude = `
  import { Effect } from "effect"
  import { SessionStore } from ${JSON.stringify(path.join(root, "src/actors/sessions/SessionStore.ts"))}
  import { sessionsAt } from ${JSON.stringify(path.join(root, "test/support/sessions.ts"))}
  const say = (text) => process.stdout.write(String(text))
  const go = (home, options, body) => Effect.runPromise(body.pipe(Effect.provide(sessionsAt(home, options))))
`

/** Starts `body`, a program over `home`, `go` and `say`. */
export const startSessions = (home: string, body: string) =>
  Bun.spawn([process.execPath, "-e", `${prelude}\nconst home = ${JSON.stringify(home)}\n${body}`], {
    cwd: import.meta.dir,
    stdout: "pipe",
    stderr: "inherit"
  })

/** Runs it to its end and answers what it printed. */
export const runSessions = async (home: string, body: string): Promise<string> => {
  const child = startSessions(home, body)
  const text = await new Response(child.stdout).text()
  await child.exited
  return text
}
