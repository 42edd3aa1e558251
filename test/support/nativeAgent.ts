/** Starts the real guest agent as an ordinary process of this machine, connected over a unix socket. Mounts nothing. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, type Scope } from "effect"
import type { GuestChannelFailed } from "../../src/domain/errors/vm.ts"
import { connectGuest, type GuestChannel } from "../../src/vm/guest/GuestChannel.ts"
import { type GuestTransport, unixListenerTransport } from "../../src/vm/guest/transport.ts"

const guestDirectory = join(import.meta.dir, "../../native/guest")

/** An agent that was built elsewhere, such as one with sanitizers. */
const given = process.env["BUNKER_TEST_NATIVE_AGENT"]

/** Path of the agent; compiled once per test process. */
const agentPath: string = given ?? join(guestDirectory, "build/agent")

/** Reports of sanitizers go to files of this name; what is reachable at the end is no leak of a program that never ends. */
const reports = process.env["BUNKER_TEST_REPORTS"]
const sanitizerOptions: Record<string, string> =
  reports === undefined
    ? {}
    : { ASAN_OPTIONS: `detect_leaks=0:log_path=${reports}`, UBSAN_OPTIONS: `log_path=${reports}` }

let built: string | undefined

/** Compiles the agent; answers why that is impossible here. */
const buildAgent = (): string => {
  if (given !== undefined) return ""
  if (built === undefined) {
    const run = Bun.spawnSync([join(guestDirectory, "build.sh")], { stdout: "pipe", stderr: "pipe" })
    built = run.exitCode === 0 ? "" : run.stderr.toString()
  }
  return built
}

/** A directory that goes with the scope. */
export const scratchDirectory: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "bunker-test-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

/** A running agent. */
export interface NativeAgent {
  readonly guest: GuestChannel
  readonly transport: GuestTransport
  readonly socketPath: string
  readonly process: Bun.Subprocess
}

/** Spawns an agent that connects to the socket. */
export const spawnAgent = (socketPath: string): Effect.Effect<Bun.Subprocess, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const failure = buildAgent()
      if (failure) throw new Error(failure)
      return Bun.spawn([agentPath], {
        env: { BUNKER_CHANNEL: `unix:${socketPath}`, ...sanitizerOptions },
        stdin: "ignore",
        stdout: "inherit",
        stderr: "inherit"
      })
    }),
    (child) =>
      Effect.promise(async () => {
        child.kill("SIGTERM")
        await child.exited
      })
  )

/** An agent with a connected channel. */
export const nativeAgent: Effect.Effect<NativeAgent, GuestChannelFailed, Scope.Scope> = Effect.gen(function* () {
  const socketPath = join(yield* scratchDirectory, "guest.sock")
  const transport = yield* unixListenerTransport(socketPath)
  const process = yield* spawnAgent(socketPath)
  return { guest: yield* connectGuest(transport), transport, socketPath, process }
})
