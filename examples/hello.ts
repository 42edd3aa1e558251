/** Boots a sandbox, runs a command in it, moves a file in and out. */
import { Sandbox } from "bunker-sandbox"

const image = process.env["IMAGE"] ?? "alpine:3.20"

await using box = await Sandbox.create({ image, memoryMb: 256 })
await box.files.write("/root/name.txt", "world")
const { stdout, exitCode } = await box.exec(["sh", "-c", 'echo "hello, $(cat /root/name.txt), from $(uname -s)"'])
console.log(stdout.trim(), exitCode)
