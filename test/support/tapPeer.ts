/**
 * What runs inside a tap world's guest: it sends and receives bytes that repeat, and prints what became of it as one line of JSON.
 * usage: tapPeer.ts up|down HOST PORT MIB
 */

/** The bytes of one MiB. */
export const pattern = (): Buffer => {
  const bytes = Buffer.alloc(1_048_576)
  for (let at = 0; at < bytes.length; at++) bytes[at] = (at * 7919) >> 3
  return bytes
}

/** What so many MiB hash to. */
export const patternHash = (mebibytes: number): string => {
  const hash = new Bun.CryptoHasher("sha256")
  const bytes = pattern()
  for (let count = 0; count < mebibytes; count++) hash.update(bytes)
  return hash.digest("hex")
}

interface Left {
  mebibytes: number
  at: number
}

/** Writes the pattern until the socket is full; true when all of it is written. */
export const writePattern = (bytes: Buffer, left: Left, socket: Bun.Socket<Left>): boolean => {
  while (left.mebibytes > 0) {
    const taken = socket.write(bytes, left.at, bytes.length - left.at)
    if (taken <= 0) return false
    left.at += taken
    if (left.at < bytes.length) return false
    left.at = 0
    left.mebibytes -= 1
  }
  return true
}

const main = async ([direction, hostname = "", port = "", mebibytes = ""]: ReadonlyArray<string>): Promise<void> => {
  const bytes = pattern()
  const hash = new Bun.CryptoHasher("sha256")
  const begun = performance.now()
  let received = 0
  let said = ""
  const tell = (error: unknown): void => {
    const ms = performance.now() - begun
    console.log(
      JSON.stringify({
        ms,
        received,
        said,
        hash: hash.digest("hex"),
        error: error === undefined ? null : String(error)
      })
    )
    process.exit(0)
  }
  const options: Bun.TCPSocketConnectOptions<Left> = {
    hostname,
    port: Number(port),
    allowHalfOpen: true,
    data: { mebibytes: Number(mebibytes), at: 0 },
    socket: {
      open: (socket) => {
        if (direction === "up" && writePattern(bytes, socket.data, socket)) socket.shutdown()
      },
      drain: (socket) => {
        if (direction === "up" && writePattern(bytes, socket.data, socket)) socket.shutdown()
      },
      data: (_, piece) => {
        received += piece.length
        if (direction === "up") said += piece.toString()
        else hash.update(piece)
      },
      end: (socket) => void socket.end(),
      close: (_, error) => tell(error)
    }
  }
  // Where frames are lost, all of the resolver's tries may be: a program asks again.
  for (let tries = 1; ; tries += 1) {
    try {
      await Bun.connect<Left>(options)
      return
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAI_AGAIN" || tries === 5) throw error
    }
  }
}

if (import.meta.main) await main(process.argv.slice(2))
