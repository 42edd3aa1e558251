/** A person's terminal, as tmux draws it. */
import { expect, test } from "bun:test"
import type { Home } from "./bunker.ts"

/** What tests at a terminal need of a machine, for `mustSkip`. */
export const screenMissing = Bun.which("tmux") === null ? ["tmux (apt-get install tmux)"] : []

/** One terminal with the host's shell in it. */
export class Screen {
  private readonly server = `bk-${crypto.randomUUID().slice(0, 8)}`

  constructor(home: Home) {
    const env = home.environment({ TERM: "xterm-256color", PS1: "host$ ", ENV: "" })
    this.tmux(env, "new-session", "-d", "-x", "100", "-y", "30", "sh")
  }

  keys(...keys: ReadonlyArray<string>): void {
    this.tmux(undefined, "send-keys", ...keys)
  }

  /** Types a line and Enter. */
  line(text: string): void {
    this.tmux(undefined, "send-keys", "-l", text)
    this.keys("Enter")
  }

  /** Presses a key until the screen shows it: a shell that has not started its command yet takes the key for itself. */
  async press(key: string, what: RegExp): Promise<void> {
    for (let tries = 0; tries < 100 && !what.test(this.text()); tries += 1) {
      this.keys(key)
      await Bun.sleep(300)
    }
    await this.sees(what)
  }

  /** Pastes what a file holds, in brackets when a program has asked for them (xterm's ctlseqs, "Bracketed Paste Mode"). */
  paste(file: string): void {
    this.tmux(undefined, "load-buffer", file)
    this.tmux(undefined, "paste-buffer", "-p", "-r")
  }

  text(...flags: ReadonlyArray<string>): string {
    return this.tmux(undefined, "capture-pane", "-p", "-J", ...flags)
  }

  ask(format: string): string {
    return this.tmux(undefined, "display-message", "-p", format).trim()
  }

  resize(cols: number, rows: number): void {
    this.tmux(undefined, "resize-window", "-x", String(cols), "-y", String(rows))
  }

  /** Waits until the screen shows it. */
  async sees(what: string | RegExp): Promise<string> {
    const deadline = Date.now() + 60_000
    while (Date.now() < deadline) {
      const text = this.text()
      if (typeof what === "string" ? text.includes(what) : what.test(text)) return text
      await Bun.sleep(50)
    }
    throw new Error(`the terminal does not show ${what}:\n${this.text()}`)
  }

  /** The host's shell is back, and its terminal as shells expect it. */
  async isWhole(): Promise<void> {
    const mark = `whole-${crypto.randomUUID().slice(0, 6)}`
    const settings = "stty -a | tr -s ' ;' '\\n\\n' | grep -c -x -E 'icanon|echo|isig|opost'"
    this.line(`${settings}; echo ${mark.slice(0, 6)}""${mark.slice(6)}`)
    const text = await this.sees(mark)
    expect(text).toMatch(/\n4\n/)
    expect({ alternate: this.ask("#{alternate_on}"), cursor: this.ask("#{cursor_flag}") }).toEqual({
      alternate: "0",
      cursor: "1"
    })
  }

  close(): void {
    this.tmux(undefined, "kill-server")
  }

  private tmux(env: Record<string, string> | undefined, ...words: ReadonlyArray<string>): string {
    const { stdout, stderr, exitCode } = Bun.spawnSync(["tmux", "-f", "/dev/null", "-L", this.server, ...words], {
      ...(env === undefined ? {} : { env }),
      stdout: "pipe",
      stderr: "pipe"
    })
    if (exitCode !== 0) throw new Error(`tmux ${words[0]}: ${stderr.toString()}`)
    return stdout.toString()
  }
}

/** Tests each of which has a terminal of its own. */
export const atTerminal =
  (home: () => Home, timeoutMs: number) =>
  (name: string, body: (screen: Screen) => Promise<void>): void =>
    test(
      name,
      async () => {
        const screen = new Screen(home())
        try {
          await body(screen)
        } finally {
          screen.close()
        }
      },
      timeoutMs
    )
