/**
 * Reads from the first bytes of a TLS client which name and protocols it asks for (RFC 8446, 4.1.2; RFC 6066, 3; RFC 7301, 3.1).
 * Answers no client and trusts nothing that it reads.
 */

export interface ClientHello {
  /** Lower case, without a dot at the end; undefined when the client names none. */
  readonly serverName: string | undefined
  /** Names of ALPN in the client's order. */
  readonly protocols: ReadonlyArray<string>
}

/** Most bytes of a ClientHello that is looked at; those with post-quantum keys have less than 4 KiB. */
const helloBytesMax = 64 * 1024

/** Reads forwards and never past the end. */
class Reader {
  private at = 0
  constructor(private readonly bytes: Buffer) {}

  get left(): number {
    return this.bytes.length - this.at
  }

  number(size: 1 | 2 | 3): number {
    const end = this.at + size
    if (end > this.bytes.length) throw new RangeError("short")
    const value = this.bytes.readUIntBE(this.at, size)
    this.at = end
    return value
  }

  take(length: number): Buffer {
    if (length > this.left) throw new RangeError("short")
    this.at += length
    return this.bytes.subarray(this.at - length, this.at)
  }

  vector(size: 1 | 2 | 3): Reader {
    return new Reader(this.take(this.number(size)))
  }

  text(): string {
    return this.bytes.toString("latin1")
  }
}

/** The handshake message inside the records; undefined while more bytes are needed, null when it is none. */
const handshakeOf = (bytes: Buffer): Buffer | undefined | null => {
  const parts: Array<Buffer> = []
  let length = 0
  for (let at = 0; ; ) {
    if (at >= 1 && length >= 4) {
      const joined = Buffer.concat(parts)
      const need = 4 + joined.readUIntBE(1, 3)
      if (joined[0] !== 1 || need > helloBytesMax) return null
      if (length >= need) return joined.subarray(0, need)
    }
    if (bytes.length > at && bytes[at] !== 0x16) return null
    if (bytes.length > at + 1 && bytes[at + 1] !== 3) return null
    if (bytes.length < at + 5) return undefined
    const size = bytes.readUInt16BE(at + 3)
    if (size === 0 || size > 16_384) return null
    if (bytes.length < at + 5 + size) return undefined
    parts.push(bytes.subarray(at + 5, at + 5 + size))
    length += size
    at += 5 + size
  }
}

const serverNameOf = (extension: Reader): string | undefined => {
  const list = extension.vector(2)
  while (list.left > 0) {
    const kind = list.number(1)
    const name = list.vector(2).text()
    if (kind === 0) return name.toLowerCase().replace(/\.$/, "")
  }
  return undefined
}

const protocolsOf = (extension: Reader): ReadonlyArray<string> => {
  const list = extension.vector(2)
  const names: Array<string> = []
  while (list.left > 0) names.push(list.vector(1).text())
  return names
}

const parse = (message: Buffer): ClientHello => {
  const reader = new Reader(message.subarray(4))
  reader.take(2 + 32)
  reader.vector(1)
  reader.vector(2)
  reader.vector(1)
  let serverName: string | undefined
  let protocols: ReadonlyArray<string> = []
  const extensions = reader.left > 0 ? reader.vector(2) : new Reader(Buffer.alloc(0))
  while (extensions.left > 0) {
    const type = extensions.number(2)
    const body = extensions.vector(2)
    if (type === 0) serverName = serverNameOf(body)
    else if (type === 16) protocols = protocolsOf(body)
  }
  return { serverName, protocols }
}

/** The ClientHello at the start of the bytes; undefined while it is incomplete, null when there is none or a broken one. */
export const readClientHello = (bytes: Buffer): ClientHello | undefined | null => {
  const message = handshakeOf(bytes)
  if (message === undefined) return bytes.length > helloBytesMax ? null : undefined
  if (message === null) return null
  try {
    return parse(message)
  } catch {
    return null
  }
}
