/** Tells what a guest speaks by its first bytes, and leaves them in the stream. Waits for no guest whose server speaks first. */
import type { Duplex } from "node:stream"
import { type ClientHello, readClientHello } from "./clientHello.ts"

export type Spoken =
  | { readonly kind: "tls"; readonly hello: ClientHello }
  /** TLS whose first message can not be read. */
  | { readonly kind: "broken" }
  /** HTTP without TLS. */
  | { readonly kind: "http" }
  /** Something else, nothing, or the server spoke first. */
  | { readonly kind: "other" }

const requestLine = /^[A-Z]{3,20} /
/** Bytes within which a request line shows. */
const methodBytesMax = 24

const classify = (bytes: Buffer, ended: boolean): Spoken | undefined => {
  if (bytes.length === 0) return ended ? { kind: "other" } : undefined
  if (bytes[0] === 0x16) {
    const hello = readClientHello(bytes)
    if (hello === undefined) return ended ? { kind: "broken" } : undefined
    return hello === null ? { kind: "broken" } : { kind: "tls", hello }
  }
  const text = bytes.toString("latin1", 0, methodBytesMax)
  if (requestLine.test(text)) return { kind: "http" }
  return /^[A-Z]+$/.test(text) && text.length < methodBytesMax && !ended ? undefined : { kind: "other" }
}

/** Resolves when it is known; rejects when the guest's side breaks first. */
export const firstBytes = (guest: Duplex, server: Duplex): Promise<Spoken> =>
  new Promise((resolve, reject) => {
    let bytes: Buffer = Buffer.alloc(0)
    let ended = false
    const settle = (result: Spoken | Error) => {
      guest.off("readable", look)
      guest.off("end", look)
      guest.off("close", closed)
      guest.off("error", settle)
      server.off("readable", serverSpoke)
      if (bytes.length > 0 && !guest.destroyed) guest.unshift(bytes)
      if (result instanceof Error) reject(result)
      else resolve(result)
    }
    const serverSpoke = () => settle({ kind: "other" })
    const closed = () => settle(new Error("the guest has gone"))
    const look = () => {
      for (;;) {
        const piece = guest.read() as Buffer | null
        if (piece === null) break
        bytes = bytes.length === 0 ? piece : Buffer.concat([bytes, piece])
      }
      ended = guest.readableEnded
      const result = classify(bytes, ended)
      if (result !== undefined) settle(result)
    }
    guest.on("readable", look)
    guest.on("end", look)
    guest.on("close", closed)
    guest.on("error", settle)
    server.on("readable", serverSpoke)
  })
