/**
 * Decodes header blocks of HTTP/2 (HPACK, RFC 7541), and encodes them without the dynamic table, so that blocks may be left out or put
 * in between. Knows nothing of frames and of what fields mean. Text is latin-1: one character a byte.
 *
 * Invariants: the dynamic table takes at most `tableBytesMax`; a block gives at most `listBytesMax` and `fieldsMax`, whatever its size.
 */
import { huffmanLengths, staticTable } from "./hpackTables.ts"

export interface HeaderField {
  readonly name: string
  readonly value: string
  /** Never to be put into a table by who sends it on (RFC 7541, 7.1.3). */
  readonly sensitive: boolean
}

/** A block that is no HPACK, or beyond the bounds; the connection can not go on. */
export class HpackError extends Error {}

/** Most bytes of the dynamic table, by its own measure (RFC 7541, 4.1); more is not announced to the guest. */
export const tableBytesMax = 64 * 1024
const tableBytesDefault = 4096
/** Most bytes of the fields of one block by the same measure, and most fields. */
const listBytesMax = 256 * 1024
const fieldsMax = 1024
const fieldOverhead = 32

const endOfString = 256

/** Children of each node: a node's index, or minus one minus the symbol; 0 for none. */
let tree: Int32Array | undefined

const huffmanTree = (): Int32Array => {
  if (tree !== undefined) return tree
  const nodes = new Int32Array(2 * (huffmanLengths.length + 1))
  let [next, code, length] = [1, 0, 0]
  const symbols = huffmanLengths
    .map((bits, symbol) => ({ bits, symbol }))
    .sort((a, b) => a.bits - b.bits || a.symbol - b.symbol)
  for (const { bits, symbol } of symbols) {
    code = length === 0 ? 0 : (code + 1) * 2 ** (bits - length)
    length = bits
    let node = 0
    for (let bit = bits - 1; bit > 0; bit -= 1) {
      const child = node * 2 + (Math.floor(code / 2 ** bit) & 1)
      if (nodes[child] === 0) nodes[child] = next++
      node = nodes[child] ?? 0
    }
    nodes[node * 2 + (code & 1)] = -1 - symbol
  }
  tree = nodes
  return nodes
}

const decodeHuffman = (bytes: Buffer): string => {
  const nodes = huffmanTree()
  const out = Buffer.allocUnsafe(Math.floor((bytes.length * 8) / 5))
  let [length, node, padding, ones] = [0, 0, 0, true]
  for (const byte of bytes) {
    for (let bit = 7; bit >= 0; bit -= 1) {
      const one = (byte >> bit) & 1
      const child = nodes[node * 2 + one] ?? 0
      padding += 1
      ones &&= one === 1
      if (child > 0) {
        node = child
        continue
      }
      if (child === 0 || child === -1 - endOfString) throw new HpackError("a string is no Huffman code")
      out[length++] = -1 - child
      ;[node, padding, ones] = [0, 0, true]
    }
  }
  if (padding > 7 || !ones) throw new HpackError("a string ends within a Huffman code")
  return out.toString("latin1", 0, length)
}

const sizeOf = (name: string, value: string): number => name.length + value.length + fieldOverhead

export class HpackDecoder {
  private readonly dynamic: Array<readonly [name: string, value: string]> = []
  private dynamicBytes = 0
  private capacity = tableBytesDefault
  private block: Buffer = Buffer.alloc(0)
  private at = 0

  /** The fields of a whole block, in its order. Throws `HpackError`, after which the decoder can not be used. */
  decode(block: Buffer): ReadonlyArray<HeaderField> {
    this.block = block
    this.at = 0
    const fields: Array<HeaderField> = []
    let bytes = 0
    while (this.at < block.length) {
      const first = block[this.at] ?? 0
      if ((first & 0xe0) === 0x20) {
        if (fields.length > 0) throw new HpackError("the table changes its size within a block")
        this.resize(this.number(5))
        continue
      }
      const field = this.field(first)
      bytes += sizeOf(field.name, field.value)
      if (bytes > listBytesMax || fields.length >= fieldsMax) throw new HpackError("a header has too many fields")
      fields.push(field)
    }
    return fields
  }

  private field(first: number): HeaderField {
    if ((first & 0x80) !== 0) {
      const [name, value] = this.entry(this.number(7))
      return { name, value, sensitive: false }
    }
    const indexed = (first & 0x40) !== 0
    const index = this.number(indexed ? 6 : 4)
    const name = index === 0 ? this.string() : this.entry(index)[0]
    const value = this.string()
    if (indexed) this.add(name, value)
    return { name, value, sensitive: !indexed && (first & 0x10) !== 0 }
  }

  private entry(index: number): readonly [name: string, value: string] {
    const found = index <= staticTable.length ? staticTable[index - 1] : this.dynamic[index - staticTable.length - 1]
    if (found === undefined) throw new HpackError("an index is beyond the table")
    return found
  }

  private add(name: string, value: string): void {
    this.dynamic.unshift([name, value])
    this.dynamicBytes += sizeOf(name, value)
    this.evict()
  }

  private resize(capacity: number): void {
    if (capacity > tableBytesMax) throw new HpackError("the table is larger than allowed")
    this.capacity = capacity
    this.evict()
  }

  private evict(): void {
    while (this.dynamicBytes > this.capacity) {
      const [name, value] = this.dynamic.pop() ?? ["", ""]
      this.dynamicBytes -= sizeOf(name, value)
    }
  }

  /** An integer with a prefix of so many bits (RFC 7541, 5.1). */
  private number(prefix: number): number {
    const most = 2 ** prefix - 1
    let value = (this.next() & most) >>> 0
    if (value < most) return value
    for (let shift = 0; ; shift += 7) {
      if (shift > 21) throw new HpackError("a number is too large")
      const byte = this.next()
      value += (byte & 0x7f) * 2 ** shift
      if ((byte & 0x80) === 0) return value
    }
  }

  private string(): string {
    const huffman = ((this.block[this.at] ?? 0) & 0x80) !== 0
    const length = this.number(7)
    if (length > this.block.length - this.at) throw new HpackError("a string is longer than its block")
    const bytes = this.block.subarray(this.at, this.at + length)
    this.at += length
    return huffman ? decodeHuffman(bytes) : bytes.toString("latin1")
  }

  private next(): number {
    const byte = this.block[this.at]
    if (byte === undefined) throw new HpackError("a block ends within a field")
    this.at += 1
    return byte
  }
}

const encodeNumber = (value: number, prefix: number, flags: number): Buffer => {
  const most = 2 ** prefix - 1
  if (value < most) return Buffer.from([flags | value])
  const bytes = [flags | most]
  let left = value - most
  for (; left >= 0x80; left = Math.floor(left / 0x80)) bytes.push((left & 0x7f) | 0x80)
  return Buffer.from([...bytes, left])
}

const encodeString = (text: string): ReadonlyArray<Buffer> => [
  encodeNumber(text.length, 7, 0),
  Buffer.from(text, "latin1")
]

/** A block that neither uses nor changes the receiver's dynamic table, which it empties first when `reset`. */
export const encodeHeaders = (fields: ReadonlyArray<HeaderField>, reset = false): Buffer =>
  Buffer.concat([
    ...(reset ? [Buffer.from([0x20])] : []),
    ...fields.flatMap(({ name, sensitive, value }) => [
      Buffer.from([sensitive ? 0x10 : 0]),
      ...encodeString(name),
      ...encodeString(value)
    ])
  ])
