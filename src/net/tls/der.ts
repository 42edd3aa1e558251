/**
 * Writes the parts of ASN.1 DER (X.690) that certificates are made of. Reads none: what is hostile never gets here.
 */

const lengthOf = (bytes: number): Buffer => {
  if (bytes < 0x80) return Buffer.from([bytes])
  const hex = bytes.toString(16)
  const digits = Buffer.from(hex.length % 2 === 0 ? hex : `0${hex}`, "hex")
  return Buffer.concat([Buffer.from([0x80 | digits.length]), digits])
}

/** One element: tag, length, content. */
export const element = (tag: number, ...content: ReadonlyArray<Uint8Array>): Buffer => {
  const body = Buffer.concat([...content])
  return Buffer.concat([Buffer.from([tag]), lengthOf(body.length), body])
}

export const sequence = (...items: ReadonlyArray<Uint8Array>): Buffer => element(0x30, ...items)

/** `[tag]` of a constructed type. */
export const explicit = (tag: number, ...items: ReadonlyArray<Uint8Array>): Buffer => element(0xa0 | tag, ...items)

/** `[tag]` in place of a primitive type's own tag. */
export const implicit = (tag: number, content: Uint8Array): Buffer => element(0x80 | tag, content)

export const boolean = (value: boolean): Buffer => element(0x01, Buffer.from([value ? 0xff : 0]))

/** A number that is not negative, from its bytes. */
export const integer = (bytes: Uint8Array): Buffer => {
  let start = 0
  while (start < bytes.length - 1 && bytes[start] === 0) start += 1
  const digits = bytes.subarray(start)
  return element(0x02, ...((digits[0] ?? 0) >= 0x80 ? [Buffer.from([0]), digits] : [digits]))
}

/** `unused` bits at the end of the last byte do not count. */
export const bitString = (bytes: Uint8Array, unused = 0): Buffer => element(0x03, Buffer.from([unused]), bytes)

export const octetString = (bytes: Uint8Array): Buffer => element(0x04, bytes)

export const utf8String = (text: string): Buffer => element(0x0c, Buffer.from(text, "utf8"))

/** An object identifier from its dotted text. */
export const objectId = (dotted: string): Buffer => {
  const [first = 0, second = 0, ...rest] = dotted.split(".").map(Number)
  const bytes = [first * 40 + second, ...rest].flatMap((part) => {
    const groups = [part & 0x7f]
    for (let left = part >>> 7; left > 0; left >>>= 7) groups.unshift((left & 0x7f) | 0x80)
    return groups
  })
  return element(0x06, Buffer.from(bytes))
}

/** A time to the second; UTCTime until 2049, GeneralizedTime afterwards (RFC 5280, 4.1.2.5). */
export const time = (at: Date): Buffer => {
  const digits = at.toISOString().replace(/[-:T]|\.\d+/g, "")
  return at.getUTCFullYear() < 2050
    ? element(0x17, Buffer.from(digits.slice(2), "ascii"))
    : element(0x18, Buffer.from(digits, "ascii"))
}
