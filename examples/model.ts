/** Registers a model, fetches its files once, and shows them to a sandbox, read-only. The files come from a directory here. */
import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import path from "node:path"
import { Models, Sandbox } from "bunker-sandbox"

const image = process.env["IMAGE"] ?? "alpine:3.20"
const source = await mkdtemp(path.join(tmpdir(), "model-"))
await writeFile(path.join(source, "config.json"), '{ "hidden_size": 8 }\n')
try {
  await using models = new Models()
  await models.add({ name: "tiny", source: `dir:${source}`, revision: "1", task: "embedding", dimensions: 8 })
  await models.pull("tiny")
  await using box = await Sandbox.create({ image, memoryMb: 256, models: [{ name: "tiny" }] })
  console.log((await box.exec(["cat", "/models/tiny/config.json"])).stdout.trim())
} finally {
  await rm(source, { recursive: true })
}
