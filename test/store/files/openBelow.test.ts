/** Copies out of trees of this machine while a directory in them is swapped for a link that leads out of them. */
import { afterAll, beforeAll, describe, expect } from "bun:test"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { Effect } from "effect"
import { directorySource } from "../../../src/models/directory.ts"
import { directoryTar } from "../../../src/oci/archive/rootfs.ts"
import { readHostTree } from "../../../src/vm/trees/hostTree.ts"
import { it } from "../../support/it.ts"

const secret = "bytes of a file outside of the source"
const names = Array.from({ length: 8 }, (_, index) => `file${index}`)
const place = fs.mkdtempSync(path.join(os.tmpdir(), "swapped-"))
const [source, outside] = [path.join(place, "source"), path.join(place, "outside")]

/** Exchanges the directory and the link again and again, and says so at the first time. */
const swapping = `
  const fs = require("node:fs")
  const [link, directory, aside] = process.argv.slice(1)
  for (let first = true; ; first = false) {
    fs.renameSync(directory, aside)
    fs.symlinkSync(link, directory)
    fs.unlinkSync(directory)
    fs.renameSync(aside, directory)
    for (const until = performance.now() + 0.5; performance.now() < until; );
    if (first) fs.writeSync(1, "swapping")
  }`

let swapper: Bun.Subprocess<"ignore", "pipe", "inherit">

beforeAll(async () => {
  for (const directory of [path.join(source, "swapped"), outside]) fs.mkdirSync(directory, { recursive: true })
  for (const name of names) {
    fs.writeFileSync(path.join(source, "swapped", name), "x".repeat(secret.length))
    fs.writeFileSync(path.join(outside, name), secret)
  }
  const command = [process.execPath, "-e", swapping, outside, path.join(source, "swapped"), path.join(place, "aside")]
  swapper = Bun.spawn(command, { stdio: ["ignore", "pipe", "inherit"] })
  await swapper.stdout.getReader().read()
})
afterAll(async () => {
  swapper.kill("SIGKILL")
  await swapper.exited
  fs.rmSync(place, { recursive: true, force: true })
})

const tries = 500

/** Collects pieces until they end or fail: a tree that changes may be refused. */
const collect = async (pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<string> => {
  const all: Array<Uint8Array> = []
  try {
    for await (const piece of pieces) all.push(Uint8Array.from(piece))
  } catch {
    // What came before counts.
  }
  return Buffer.concat(all).toString("latin1")
}

/** How many of many walks met the directory with its files, and how many gave away what is outside. */
const walked = async (walk: (attempt: number) => Promise<string>) => {
  let [whole, leaked] = [0, 0]
  for (let attempt = 0; attempt < tries; attempt++) {
    const text = await walk(attempt)
    if (text.includes("x".repeat(secret.length))) whole += 1
    if (text.includes(secret)) leaked += 1
  }
  return { some: whole > 0, leaked }
}
const sound = { some: true, leaked: 0 }

describe("a directory that is swapped for a link out of the source while it is read", () => {
  it.live(
    "gives a copy into a sandbox nothing from outside",
    () =>
      Effect.promise(async () => {
        const options = { follow: false, skipped: () => {} }
        expect(await walked(() => collect(readHostTree(source, "", options)))).toEqual(sound)
      }),
    30_000
  )

  it.live(
    "gives an imported root file system nothing from outside",
    () =>
      Effect.promise(async () => {
        expect(await walked(() => collect(directoryTar(source)))).toEqual(sound)
      }),
    30_000
  )

  it.live(
    "gives a model nothing from outside",
    () =>
      Effect.promise(async () => {
        const copied = async (attempt: number) => {
          const payload = path.join(place, `payload${attempt}`)
          const pull = Effect.gen(function* () {
            const opened = yield* directorySource(source, { revision: "main", takes: () => true })
            yield* (yield* opened.resolve).fetch(payload, () => {})
          })
          await Effect.runPromiseExit(pull)
          const files = fs.existsSync(payload) ? fs.readdirSync(payload, { recursive: true, withFileTypes: true }) : []
          const texts = files.filter((file) => file.isFile()).map((file) => path.join(file.parentPath, file.name))
          const text = texts.map((file) => fs.readFileSync(file, "utf8")).join("\n")
          fs.rmSync(payload, { recursive: true, force: true })
          return text
        }
        let found = { some: false, leaked: 0 }
        for (let round = 0; round < tries / 5; round++) {
          const text = await copied(round)
          const some = found.some || text.includes("x".repeat(secret.length))
          found = { some, leaked: found.leaked + (text.includes(secret) ? 1 : 0) }
        }
        expect(found).toEqual(sound)
      }),
    30_000
  )
})
