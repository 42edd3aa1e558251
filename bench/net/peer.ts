/**
 * What runs in the guest of the bench: it moves bytes without looking at them and prints milliseconds.
 * usage: peer.ts up HOST PORT BYTES | down HOST PORT | first HOST PORT TIMES
 */
const [what = "", hostname = "", port = "", amount = "0"] = process.argv.slice(2)
const to = { hostname, port: Number(port) }

const up = (bytes: number): Promise<void> =>
  new Promise((resolve) => {
    const piece = Buffer.alloc(1_048_576)
    let left = bytes
    const go = (socket: Bun.Socket): void => {
      while (left > 0) {
        const taken = socket.write(piece, 0, Math.min(left, piece.length))
        if (taken <= 0) return
        left -= taken
      }
      socket.shutdown()
    }
    void Bun.connect({
      ...to,
      allowHalfOpen: true,
      socket: { open: go, drain: go, data: () => {}, close: () => resolve() }
    })
  })

/** Until the server ends. */
const down = (): Promise<void> =>
  new Promise((resolve) => {
    void Bun.connect({ ...to, socket: { data: () => {}, close: () => resolve() } })
  })

const begun = performance.now()
if (what === "up") await up(Number(amount))
else if (what === "down") await down()
else for (let left = Number(amount); left > 0; left -= 1) await down()
console.log((performance.now() - begun) / (what === "first" ? Number(amount) : 1))
