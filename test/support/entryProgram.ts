/**
 * The entry program alone: beside it a `bunker-main` that only says how it was started, and a keeper that the test plays. Compiled
 * under the address and undefined-behaviour sanitizers where clang is there.
 */
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { encodeAck, encodeFrame, encodeJson, type Frame, FrameDecoder, FrameType } from "../../src/vm/guest/frames.ts"

const source = path.join(import.meta.dir, "../../native/fastpath")
const clang = Bun.which("clang")

/** Compiles it to `out`. */
const compile = (out: string): void => {
  const sanitized = [
    ...[clang ?? "", "-std=c11", "-g", "-O1", "-D_GNU_SOURCE", '-DVERSION="test"', "-Wall", "-Wextra", "-Werror"],
    ...["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o", out, "main.c", "call.c", "talk.c"],
    ...["frame", "json", "text"].map((name) => `../common/${name}.c`)
  ]
  const command = clang === null ? ["sh", "build.sh", out] : sanitized
  const { exitCode, stderr } = Bun.spawnSync(command, { cwd: source, stdout: "pipe", stderr: "pipe" })
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr}`)
}

export interface Said {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** How `bunker-main` was started: its words, and the option of the JavaScript engine that it was given. */
export interface HandedOver {
  readonly words: ReadonlyArray<string>
  readonly lateCompiling: string
}

/** Words apart by a byte that stands in none of them. */
const main = `#!/bin/sh
printf 'main %s' "$BUN_JSC_thresholdForJITAfterWarmUp"
for word in "$@"; do printf '\\034%s' "$word"; done
exit 125
`

let program: string | undefined

/** One keeper's end of a connection. */
export interface Connection {
  readonly request: unknown
  readonly socket: Bun.Socket<undefined>
  /** The next frame of the other side; undefined at its end. */
  readonly next: () => Promise<Frame | undefined>
}

export class EntryProgram {
  readonly directory = mkdtempSync(path.join(tmpdir(), "bk-entry-"))
  readonly home: string

  constructor(home = "home") {
    this.home = path.join(this.directory, home)
    if (program === undefined) {
      program = path.join(mkdtempSync(path.join(tmpdir(), "bk-entry-")), "bunker")
      compile(program)
      const built = program
      process.on("exit", () => rmSync(path.dirname(built), { recursive: true, force: true }))
    }
    mkdirSync(path.join(this.directory, "bin"))
    mkdirSync(path.join(this.home, "sandboxes"), { recursive: true })
    copyFileSync(program, this.file("bunker"))
    writeFileSync(this.file("bunker-main"), main)
    chmodSync(this.file("bunker-main"), 0o755)
  }

  file(name: string): string {
    return path.join(this.directory, "bin", name)
  }

  start(words: ReadonlyArray<string>, stdin: "ignore" | "pipe" = "ignore", env: Readonly<Record<string, string>> = {}) {
    return Bun.spawn([this.file("bunker"), ...words], {
      env: { PATH: process.env["PATH"] ?? "", BUNKER_HOME: this.home, ...env },
      stdin,
      stdout: "pipe",
      stderr: "pipe"
    })
  }

  async run(words: ReadonlyArray<string>, env: Readonly<Record<string, string>> = {}): Promise<Said> {
    return outcome(this.start(words, "ignore", env))
  }

  /** Serves the sandbox of this name; the test says what its keeper does with each connection. */
  keeper(name: string, serve: (connection: Connection) => Promise<void> | void): void {
    const directory = path.join(this.home, "sandboxes", name)
    mkdirSync(directory, { recursive: true })
    // As a real one: a link, for which the length of the way to it does not count.
    const socket = path.join(this.directory, `${name.slice(0, 8)}.sock`)
    symlinkSync(socket, path.join(directory, "entry.sock"))
    const states = new Map<unknown, { readonly push: (bytes: Uint8Array) => void; readonly end: () => void }>()
    Bun.listen<undefined>({
      unix: socket,
      socket: {
        open: (opened) => {
          const frames: Array<Frame | undefined> = []
          let wake = () => {}
          const decoder = new FrameDecoder()
          const offer = (frame: Frame | undefined) => {
            frames.push(frame)
            wake()
          }
          const next = async () => {
            while (frames.length === 0) await new Promise<void>((resolve) => (wake = resolve))
            return frames.shift()
          }
          states.set(opened, {
            push: (bytes) =>
              void decoder.push(bytes, (frame) => offer({ ...frame, payload: new Uint8Array(frame.payload) })),
            end: () => offer(undefined)
          })
          void next().then(async (frame) => {
            if (frame?.type !== FrameType.Request) return
            const request = JSON.parse(new TextDecoder().decode(frame.payload))
            await serve({ request, socket: opened, next })
          })
        },
        data: (opened, bytes) => states.get(opened)!.push(bytes),
        end: (opened) => states.get(opened)!.end(),
        close: (opened) => states.get(opened)!.end()
      }
    }).unref()
  }

  dispose(): void {
    rmSync(this.directory, { recursive: true, force: true })
  }
}

export const outcome = async (child: Bun.Subprocess<"ignore" | "pipe", "pipe", "pipe">): Promise<Said> => {
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  return { code: await child.exited, stdout, stderr }
}

/** What the fake `bunker-main` said, undefined when something else did. */
export const handedOver = ({ stdout }: Said): HandedOver | undefined => {
  const at = stdout.lastIndexOf("main ")
  if (at < 0) return undefined
  const [lateCompiling = "", ...words] = stdout.slice(at + 5).split("\x1c")
  return { words, lateCompiling }
}

export const agree = encodeJson(FrameType.Response, { ok: true })
export const refuse = encodeJson(FrameType.Response, { ok: false })
export const exit = (code: number) => encodeJson(FrameType.Exit, { code })
export const output = (stream: number, text: string) => encodeFrame(FrameType.Data, stream, Buffer.from(text))
export const acknowledge = (bytes: number) => encodeAck(0, bytes)
