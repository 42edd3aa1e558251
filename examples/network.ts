/** Lets a guest reach one server of this machine and nothing else. Without `network` it has no way out at all. */
import { Sandbox } from "bunker-sandbox"

const image = process.env["IMAGE"] ?? "alpine:3.20"

using server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("allowed\n") })
await using box = await Sandbox.create({ image, memoryMb: 256, network: { hostPorts: [server.port ?? 0] } })
const ask = (host: string, port: number) =>
  box.exec(["sh", "-c", `printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 ${host} ${port} | tail -n 1`])
console.log((await ask("host.bunker.internal", server.port ?? 0)).stdout.trim())
console.log((await ask("example.com", 80)).stdout.trim() === "" ? "refused" : "reached")
