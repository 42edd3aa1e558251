/** Serves what a server in a sandbox says, through Bun.serve: the guest's port is one of this machine's loopback. */
import { Sandbox } from "bunker-sandbox"

const image = process.env["IMAGE"] ?? "alpine:3.20"

await using box = await Sandbox.create({ image, memoryMb: 256, ports: [{ guestPort: 8000 }] })
const answer = "HTTP/1.1 200 OK\\r\\nContent-Length: 15\\r\\nConnection: close\\r\\n\\r\\nfrom the guest\\n"
await using _server = await box.spawn(["sh", "-c", `while true; do printf '${answer}' | nc -l -p 8000; done`])
const port = (await box.info()).ports?.[0]?.hostPort

using door = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  fetch: async ({ url }) => {
    for (let tries = 0; ; tries += 1) {
      try {
        return await fetch(`http://127.0.0.1:${port}${new URL(url).pathname}`)
      } catch (error) {
        // Not listening yet.
        if (tries === 50) throw error
        await Bun.sleep(100)
      }
    }
  }
})
console.log((await (await fetch(door.url)).text()).trim())
