/** Maps over inputs, each in a sandbox of its own, a few at a time. */
import { Sandbox } from "bunker-sandbox"

const image = process.env["IMAGE"] ?? "alpine:3.20"
const count = Number(process.env["COUNT"] ?? 20)
const atOnce = Number(process.env["AT_ONCE"] ?? 4)

const square = async (input: number): Promise<number> => {
  await using box = await Sandbox.create({ image, memoryMb: 128 })
  const { stdout } = await box.exec(["sh", "-c", `echo $((${input} * ${input}))`])
  return Number(stdout)
}

const inputs = Array.from({ length: count }, (_, at) => at + 1)
const results: Array<number> = []
const work = async (): Promise<void> => {
  for (let input = inputs.shift(); input !== undefined; input = inputs.shift()) results[input - 1] = await square(input)
}
await Promise.all(Array.from({ length: atOnce }, work))
console.log(results.join(" "))
