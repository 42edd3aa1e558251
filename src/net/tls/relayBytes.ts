/** Relays bytes both ways with back pressure and half-close. Looks at none. */
import type { Duplex } from "node:stream"
import { ByteReader, write } from "./streams.ts"

const oneWay = async (from: Duplex, to: Duplex): Promise<void> => {
  const reader = new ByteReader(from)
  for (;;) {
    const bytes = await reader.next()
    if (bytes === undefined) break
    await write(to, bytes)
  }
  to.end()
}

/** Resolves when both sides have ended; rejects when one broke. */
export const relayBytes = async (a: Duplex, b: Duplex): Promise<void> => {
  await Promise.all([oneWay(a, b), oneWay(b, a)])
}
