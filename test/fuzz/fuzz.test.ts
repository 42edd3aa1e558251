/** Every input of the corpus, and a few hundred new ones; `bun run fuzz` goes on for as long as it is told. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { seedOf } from "../support/random.ts"
import { fuzz } from "./fuzz.ts"
import { targets } from "./targets.ts"

setDefaultTimeout(60_000)

let place: string
beforeAll(() => {
  place = fs.mkdtempSync(path.join(os.tmpdir(), "bk-fuzz-"))
})
afterAll(() => fs.rmSync(place, { recursive: true, force: true }))

describe("hostile input is taken or refused, and nothing else:", () => {
  for (const target of targets) {
    test(target.name, async () => {
      const until = Date.now() + 2_000
      const { findings, outcomes } = await fuzz(target, seedOf(target.name), place, () => Date.now() < until)
      expect(findings.map(({ reason }) => reason)).toEqual([])
      expect(outcomes.size).toBeGreaterThan(2)
    })
  }
})
