/** Templates of shell lines: a value is one word, whatever it holds. Judged by a real shell. */
import { expect, test } from "bun:test"
import { CommandFailed } from "../../src/sdk/index.ts"
import { escaped, failedCommand, lineOf, ShellLine, type ShellValue } from "../../src/sdk/shell.ts"

const line = (pieces: TemplateStringsArray, ...values: ReadonlyArray<ShellValue>) => lineOf(pieces, values)

const words = (text: string): ReadonlyArray<string> => {
  const { stdout } = Bun.spawnSync(["sh", "-c", `printf '%s\\0' ${text}`])
  return stdout.toString().split("\0").slice(0, -1)
}

test("a shell reads every value as one word, as it was", () => {
  const seed = Math.floor(Math.random() * 2 ** 31)
  console.log(`seed ${seed}`)
  let state = seed
  const next = (most: number) => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31
    return state % most
  }
  const alphabet = [..."ab '\"\\$`!*?[]{}()<>|&;#~=\n\t-é漢%"]
  const given = ["", "'", "''", "a b", "$(id)", "`id`", "-n", "~", "#x", "a\nb"]
  for (let turn = 0; turn < 40; turn += 1) {
    given.push(Array.from({ length: next(12) }, () => alphabet[next(alphabet.length)]).join(""))
  }
  expect(words(given.map(escaped).join(" "))).toEqual(given)
  expect(words(line`${given}`)).toEqual(given)
})

test("numbers are words, a list is several, raw text is left alone, and nothing else is taken", () => {
  expect(line`echo ${1} ${true} ${["a b", 2]} ${{ raw: "| wc -l" }}`).toBe("echo 1 true 'a b' 2 | wc -l")
  for (const wrong of [undefined, null, {}, Symbol("x"), () => 1, "a\0b"]) {
    expect(() => line`echo ${wrong as never}`).toThrow(
      expect.objectContaining({ _tag: "InvalidSpec", field: "command" })
    )
  }
})

test("a line runs once, rejects unless it ends with 0, and gives text, JSON and lines", async () => {
  const asked: Array<unknown> = []
  const run = async (text: string, options: object) => {
    asked.push({ text, ...options })
    return { exitCode: 0, stdout: '{"a":1}\n', stderr: "" }
  }
  const one = new ShellLine(run, "x")
  expect([await one.text(), await one.json()]).toEqual(['{"a":1}\n', { a: 1 }])
  expect(await Array.fromAsync(one.lines())).toEqual(['{"a":1}'])
  expect(asked).toEqual([{ text: "x", check: true }])
  await one.nothrow().env({ A: "b" }).cwd("/tmp")
  expect(asked[1]).toEqual({ text: "x", check: false, env: { A: "b" }, cwd: "/tmp" })
  const error = failedCommand({ exitCode: 3, stdout: "out", stderr: "one\ntwo\n" })
  expect(error).toBeInstanceOf(CommandFailed)
  expect(error).toMatchObject({ exitCode: 3, output: "one\ntwo", message: expect.stringContaining("two") })
  expect(failedCommand({ exitCode: 3, stdout: "x".repeat(5000), stderr: "\n" }).output.length).toBe(4096)
})
