/** Drives the compiled program as a user would: each call is a process, in a home directory of the test's own. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"

export const program = process.env["BUNKER_TEST_BUNKER"] ?? path.join(import.meta.dir, "../../dist/bunker")

/** Engine under test: `krun` in the lab, `qemu` on a host without usable KVM. */
export const engine = process.env["BUNKER_TEST_ENGINE"] ?? "qemu"

/** Options of Bun's engine, which the lab sets. */
const runtime = Object.fromEntries(Object.entries(process.env).filter(([key]) => key.startsWith("BUN_JSC_"))) as Record<
  string,
  string
>

export interface Result {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface Options {
  readonly stdin?: string | Uint8Array
  readonly env?: Readonly<Record<string, string>>
}

export class Home {
  constructor(readonly directory: string = mkdtempSync(path.join(tmpdir(), "bk-"))) {
    mkdirSync(directory, { recursive: true })
  }

  environment(extra: Readonly<Record<string, string>> = {}): Record<string, string> {
    return {
      PATH: process.env["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin",
      HOME: this.directory,
      BUNKER_HOME: this.directory,
      BUNKER_ENGINE: engine,
      ...runtime,
      ...(process.env["LD_LIBRARY_PATH"] === undefined ? {} : { LD_LIBRARY_PATH: process.env["LD_LIBRARY_PATH"] }),
      ...extra
    }
  }

  start(args: ReadonlyArray<string>, options: Options = {}) {
    return Bun.spawn([program, ...args], {
      env: this.environment(options.env),
      stdin:
        options.stdin === undefined
          ? "ignore"
          : typeof options.stdin === "string"
            ? Buffer.from(options.stdin)
            : options.stdin,
      stdout: "pipe",
      stderr: "pipe"
    })
  }

  async bunker(args: ReadonlyArray<string>, options: Options = {}): Promise<Result> {
    const child = this.start(args, options)
    const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
    return { code: await child.exited, stdout, stderr }
  }

  /** The same, and an error with everything that was said unless it succeeds. */
  async must(args: ReadonlyArray<string>, options: Options = {}): Promise<string> {
    const { code, stdout, stderr } = await this.bunker(args, options)
    if (code !== 0) throw new Error(`bunker ${args.join(" ")} ended with ${code}: ${stdout}${stderr}`)
    return stdout
  }

  /** Commands of the processes that belong to this home, its keepers and VMs; a server is none of them. */
  processes(): ReadonlyArray<string> {
    return readdirSync("/proc")
      .filter((pid) => /^\d+$/.test(pid))
      .flatMap((pid) => {
        try {
          const command = readFileSync(`/proc/${pid}/cmdline`, "utf8")
          const environment = readFileSync(`/proc/${pid}/environ`, "utf8")
          const ours = command.includes(`${this.directory}/`) || environment.includes(`BUNKER_HOME=${this.directory}\0`)
          return ours && !command.includes("\0serve\0") ? [command.replaceAll("\0", " ").slice(0, 80)] : []
        } catch {
          return []
        }
      })
  }

  private server: Bun.Subprocess | undefined

  /** Serves this home until it is disposed of; where a process takes seconds to start, HTTP does not. */
  async serve(): Promise<void> {
    this.server = Bun.spawn([program, "serve"], { env: this.environment(), stdout: "ignore", stderr: "ignore" })
    while ((await this.http("GET", "/readyz").catch(() => undefined))?.status !== 200) await Bun.sleep(20)
  }

  get serverPid(): number {
    return this.server!.pid
  }

  async killServer(): Promise<void> {
    this.server?.kill("SIGKILL")
    await this.server?.exited
  }

  /** Status and body of one answer of the server. */
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every kind
  async http(method: string, where: string, body?: unknown): Promise<{ readonly status: number; readonly body: any }> {
    const answer = await fetch(`http://bunker${where}`, {
      method,
      unix: path.join(this.directory, "bunker.sock"),
      ...(body === undefined ? {} : { body: JSON.stringify(body) })
    })
    const text = await answer.text()
    return { status: answer.status, body: text === "" ? undefined : JSON.parse(text) }
  }

  /** A command in a sandbox, over HTTP, answered like a process of the CLI. */
  async execOverHttp(name: string, request: Readonly<Record<string, unknown>>): Promise<Result> {
    const { status, body } = await this.http("POST", `/v1/sandboxes/${name}/exec`, { request })
    if (status !== 200) return { code: 125, stdout: "", stderr: `bunker: ${body.error}\n` }
    const said = { Stdout: [] as Array<Buffer>, Stderr: [] as Array<Buffer> }
    let code = 125
    for (const event of body) {
      if (event._tag === "Exit") code = event.code
      else if (event._tag === "Signaled") code = 128 + event.signal
      else if (event._tag !== "Started") said[event._tag as "Stdout"].push(Buffer.from(event.data, "base64"))
    }
    return { code, stdout: Buffer.concat(said.Stdout).toString(), stderr: Buffer.concat(said.Stderr).toString() }
  }

  /** Ends every sandbox and removes the directory. */
  async dispose(): Promise<void> {
    this.server?.kill()
    await this.server?.exited
    const names = (await this.bunker(["ps", "-a", "-q"])).stdout.split("\n").filter((name) => name !== "")
    if (names.length > 0) await this.bunker(["rm", "-f", ...names])
    rmSync(this.directory, { recursive: true, force: true })
  }
}
