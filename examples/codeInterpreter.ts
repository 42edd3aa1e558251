/** Keeps one interpreter running and feeds it piece by piece, so that what one piece sets the next one sees. */
import { Sandbox } from "bunker-sandbox"

const image = process.env["IMAGE"] ?? "alpine:3.20"

await using box = await Sandbox.create({ image, memoryMb: 256 })
await using interpreter = await box.spawn(["sh"], { openStdin: true })
const output = interpreter[Symbol.asyncIterator]()
const decoder = new TextDecoder()

/** Runs a piece, and returns what it printed. */
const run = async (source: string): Promise<string> => {
  const end = `end-${crypto.randomUUID()}`
  await interpreter.write(`${source}\necho ${end}\n`)
  let text = ""
  while (!text.includes(end)) {
    const next = await output.next()
    if (next.done === true) throw new Error(`the interpreter ended: ${text}`)
    text += decoder.decode(next.value.data, { stream: true })
  }
  return text.slice(0, text.indexOf(end)).trim()
}

await run("x=20")
await run("double() { echo $(($1 * 2)); }")
console.log(await run("double $((x + 1))"))
