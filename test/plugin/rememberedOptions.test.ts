/** Which configs are remembered: only those whose options can depend on nothing but the file. */
import { expect, test } from "bun:test"
import fs from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { rememberedOptions, rememberOptions } from "../../src/plugin/rememberedOptions.ts"

const options = { images: { limits: { entries: 1 } } }

const isRemembered = (text: string): boolean => {
  const home = fs.mkdtempSync(path.join(tmpdir(), "bk-"))
  try {
    const config = path.join(home, "bunker.config.ts")
    fs.writeFileSync(config, text)
    rememberOptions(config, options)
    return Bun.deepEquals(rememberedOptions(config), options)
  } finally {
    fs.rmSync(home, { recursive: true })
  }
}

test("a config that says all itself is", () => {
  expect(isRemembered('import { defineConfig } from "bunker/plugin"\nexport default defineConfig({})')).toBe(true)
})

test("one that asks anything that may change is not", () => {
  for (const text of [
    "export default { options: { images: process.env.X } }",
    'import own from "./own.ts"\nexport default own',
    'const options = {}\nimport("./own.ts").then((own) => Object.assign(options, own))\nexport default { options }',
    'import { Config, Effect } from "effect"\nexport default Effect.runSync(Config.string("X"))',
    'import { Clock, Effect } from "effect"\nexport default Effect.runSync(Clock.currentTimeMillis)'
  ]) {
    expect({ text, remembered: isRemembered(text) }).toEqual({ text, remembered: false })
  }
})
