/** Serves a test's home with a real server: `bunker serve` on a socket, or on a free port with its token. */
import { readFileSync } from "node:fs"
import path from "node:path"
import type { ServerOptions } from "../../src/sdk/index.ts"
import { program } from "./bunker.ts"

export interface TestServer {
  readonly options: ServerOptions
  readonly pid: number
  readonly stop: (signal?: "SIGTERM" | "SIGKILL") => Promise<void>
}

export const startServer = async (home: string, kind: "tcp" | "unix"): Promise<TestServer> => {
  const socket = path.join(home, "s.sock")
  const child = Bun.spawn([program, "serve", "--listen", kind === "tcp" ? "127.0.0.1:0" : `unix:${socket}`], {
    env: { PATH: process.env["PATH"] ?? "/usr/bin:/bin", HOME: home, BUNKER_HOME: home },
    stdout: "ignore",
    stderr: "pipe"
  })
  let words = ""
  const decoder = new TextDecoder()
  for await (const chunk of child.stderr) {
    words += decoder.decode(chunk)
    if (/ listens on /.test(words)) break
  }
  const address = /127\.0\.0\.1:\d+/.exec(words)?.[0]
  const options =
    kind === "unix"
      ? { url: `unix:${socket}` }
      : { url: `http://${address}`, token: readFileSync(path.join(home, "token"), "utf8").trim() }
  return {
    options,
    pid: child.pid,
    stop: async (signal = "SIGTERM") => {
      child.kill(signal)
      await child.exited
    }
  }
}
