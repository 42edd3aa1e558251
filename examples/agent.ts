/** An agent's loop: a model asks for tools, the tools act in a sandbox. The model is a script here; put your own in its place. */
import { Sandbox } from "bunker-sandbox"

const image = process.env["IMAGE"] ?? "alpine:3.20"

type Call =
  | { readonly tool: "write"; readonly path: string; readonly text: string }
  | { readonly tool: "run"; readonly command: string }
  | { readonly tool: "answer"; readonly text: string }

/** Stands in for a model: sees what tools said so far, and asks for the next one. */
const model = (seen: ReadonlyArray<string>): Call => {
  if (seen.length === 0) return { tool: "write", path: "/root/sum.sh", text: 'echo "$(($1 + $2))"\n' }
  if (seen.length === 1) return { tool: "run", command: "sh /root/sum.sh 19 23" }
  return { tool: "answer", text: `the sum is ${seen.at(-1)}` }
}

await using box = await Sandbox.create({ image, memoryMb: 256 })
const seen: Array<string> = []
for (let turns = 0; turns < 10; turns += 1) {
  const call = model(seen)
  if (call.tool === "answer") {
    console.log(call.text)
    break
  }
  if (call.tool === "write") {
    await box.files.write(call.path, call.text)
    seen.push("written")
  } else {
    const { stdout, stderr } = await box.exec(["sh", "-c", call.command], { timeoutMs: 30_000 })
    seen.push((stdout + stderr).trim())
  }
}
