/** What is not ours can not steer a terminal: one function, through which every line goes. */
import { expect, test } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { harmless, harmlessLines } from "../../src/domain/terminalText.ts"

const root = path.join(import.meta.dir, "../..")
const hostile = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\u061c\u200f\u2028\u202e\u2066\r"
const raw = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/

test("controls, C1 controls and marks of direction are shown, other text stays", () => {
  expect(harmless(hostile)).toBe("\\x1b]0;owned\\x07\\x1b[2J\\u009b31m\\u007f\\u061c\\u200f\\u2028\\u202e\\u2066\\x0d")
  expect(harmless("a\tb\nc")).toBe("a b c")
  expect(harmlessLines("a\tb\nc\x9b")).toBe("a\tb\nc\\u009b")
  expect(harmless("ünï ☃ 👩‍👩‍👧 שלום")).toBe("ünï ☃ 👩‍👩‍👧 שלום")
})

test("JSON that is made harmless has the same value", () => {
  const value = { [hostile]: [hostile, "ü"] }
  const text = harmlessLines(JSON.stringify(value, null, 2))
  expect(text).not.toMatch(raw)
  expect(JSON.parse(text)).toEqual(value)
})

test("lines of data, words, errors and last words come out harmless", async () => {
  const program = `
    import { Effect, Schema } from "effect"
    import { lastWords, print, printJson, say, table } from "${root}/src/cli/terminal/output.ts"
    const text = ${JSON.stringify(hostile)}
    lastWords(text)
    await Effect.runPromise(Effect.all([
      say(text), print(table(["HEAD"], [[text]])), printJson(Schema.Struct({ label: Schema.String }), { label: text })
    ]))`
  const child = Bun.spawn([process.execPath, "-e", program], { cwd: root, stdout: "pipe", stderr: "pipe" })
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  expect(await child.exited).toBe(0)
  expect(stdout).toContain("HEAD\n\\x1b]0;owned")
  expect(stderr.match(/\\u009b31m/g)).toHaveLength(2)
  expect(stdout + stderr).not.toMatch(raw)
}, 30_000)

/** Files that write bytes as they are, and what. */
const writers: Readonly<Record<string, string>> = {
  "cli/terminal/output.ts": "the functions that make text harmless",
  "cli/terminal/terminal.ts": "bytes of a command",
  "cli/terminal/progress.ts": "movements of the cursor, over text that is made harmless",
  "cli/terminal/prompt.ts": "a question that is made harmless",
  "cli/byteStreams.ts": "bytes of a download",
  "cli/copy.ts": "bytes of a tar",
  "cli/keeper.ts": "a report for the process that started it",
  "cli/app.ts": "a version",
  "cli/completion/answer.ts": "names that are plain, others are left out",
  "cli/enter.ts": "a version",
  "cli/commands/logs/logs.ts": "bytes of a command",
  "cli/commands/models/models.ts": "movements of the cursor",
  "http/server.ts": "words that are made harmless",
  "cli/commands/network/network.ts": "lines that are made harmless; it has to know whether somebody reads",
  "net/process/netProcess.ts": "a word for the process that started it"
}
const writing =
  /\bwriteAll\((?:[12]|fd)\b|(?<![.\w])console\.\w+\(|\bprocess\.std(?:out|err)\.write\(|\bfs\.writeSync\([12],/

test("nothing else writes to a terminal", () => {
  const source = path.join(root, "src")
  const files = fs.readdirSync(source, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ts"))
  const writes = files.filter((file) => {
    const text = fs.readFileSync(path.join(source, file), "utf8").replace(/^\s*(\/\*\*?|\*|\/\/).*$/gm, "")
    return writing.test(text)
  })
  expect(writes.filter((file) => writers[file] === undefined)).toEqual([])
})
