/**
 * Reads DNS questions and writes answers (RFC 1035, RFC 6891). Follows no compression pointers: a question needs none, and so nothing
 * loops.
 */
import type { DnsRecord } from "../types.ts"

export const types = { A: 1, PTR: 12, MX: 15, TXT: 16, AAAA: 28, SRV: 33, OPT: 41 } as const

export const noError = 0
const formatError = 1
export const serverFailure = 2
const notImplemented = 4
export const refused = 5

const headerBytes = 12
const classInternet = 1
const ttlSeconds = 60
/** What a question without EDNS may get over UDP, and what we give at most. */
const udpBytesMin = 512
const udpBytesMax = 4096
const truncated = 0x0200

export interface Question {
  readonly id: number
  readonly recursion: boolean
  /** Lower case, without a trailing dot; undefined for what is no host name (other characters than letters, digits, `-`, `_`). */
  readonly name: string | undefined
  readonly type: number
  /** Name, type and class as they came. */
  readonly echo: Buffer
  /** Bytes that an answer may have over UDP. */
  readonly sizeMax: number
  readonly edns: boolean
}

/** A question; the code to answer with when there is none; undefined for what gets no answer at all. */
export const readQuestion = (bytes: Buffer): Question | { readonly id: number; readonly code: number } | undefined => {
  if (bytes.length < headerBytes) return undefined
  const id = bytes.readUInt16BE(0)
  const flags = bytes.readUInt16BE(2)
  // An answer; answering one could go on for ever.
  if (flags & 0x8000) return undefined
  if ((flags >> 11) & 15) return { id, code: notImplemented }
  if (bytes.readUInt16BE(4) !== 1) return { id, code: formatError }
  const labels: Array<string> = []
  let at = headerBytes
  for (;;) {
    const length = bytes[at]
    if (length === undefined || length > 63 || at + 1 + length > bytes.length || at - headerBytes > 254) {
      return { id, code: formatError }
    }
    at += 1
    if (length === 0) break
    labels.push(bytes.toString("latin1", at, at + length))
    at += length
  }
  if (at + 4 > bytes.length) return { id, code: formatError }
  const type = bytes.readUInt16BE(at)
  if (bytes.readUInt16BE(at + 2) !== classInternet) return { id, code: refused }
  const echo = bytes.subarray(headerBytes, at + 4)
  const name = labels.join(".").toLowerCase()
  const edns = readEdns(bytes, at + 4)
  return {
    id,
    recursion: (flags & 0x0100) !== 0,
    name: labels.length > 0 && labels.every((label) => /^[a-z0-9_-]+$/i.test(label)) ? name : undefined,
    type,
    echo,
    sizeMax: Math.min(udpBytesMax, Math.max(udpBytesMin, edns ?? 0)),
    edns: edns !== undefined
  }
}

/** The size that an OPT record right behind the question asks for; other records are not looked at. */
const readEdns = (bytes: Buffer, at: number): number | undefined => {
  if (bytes.readUInt16BE(6) !== 0 || bytes.readUInt16BE(8) !== 0 || bytes.readUInt16BE(10) === 0) return undefined
  if (at + 11 > bytes.length || bytes[at] !== 0 || bytes.readUInt16BE(at + 1) !== types.OPT) return undefined
  return bytes.readUInt16BE(at + 3)
}

const header = (id: number, code: number, recursion: boolean): Buffer => {
  const bytes = Buffer.alloc(headerBytes)
  bytes.writeUInt16BE(id, 0)
  // An answer; recursion is available.
  bytes.writeUInt16BE(0x8080 + (recursion ? 0x0100 : 0) + code, 2)
  return bytes
}

/** An answer to what was no question. */
export const writeError = (id: number, code: number): Buffer => header(id, code, false)

/** The data of one record: bytes of an address, or what the host resolved. */
export type Answer = Uint8Array | DnsRecord

/** An answer. `overUdp`: cut to what the question allows. */
export const writeAnswer = (
  question: Question,
  code: number,
  answers: ReadonlyArray<Answer>,
  overUdp: boolean
): Buffer => {
  const head = header(question.id, code, question.recursion)
  head.writeUInt16BE(1, 4)
  const parts: Array<Buffer> = [head, question.echo]
  let size = headerBytes + question.echo.length + (question.edns ? 11 : 0)
  let count = 0
  for (const answer of answers) {
    const data = dataOf(answer)
    // A name by a pointer to the question, type and class as asked.
    const fixed = Buffer.from([0xc0, headerBytes, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    fixed.writeUInt16BE(question.type, 2)
    fixed.writeUInt16BE(classInternet, 4)
    fixed.writeUInt32BE(ttlSeconds, 6)
    fixed.writeUInt16BE(data.length, 10)
    size += fixed.length + data.length
    if (size > (overUdp ? question.sizeMax : 65_535)) {
      head.writeUInt16BE(head.readUInt16BE(2) | truncated, 2)
      break
    }
    parts.push(fixed, data)
    count += 1
  }
  head.writeUInt16BE(count, 6)
  if (question.edns) {
    head.writeUInt16BE(1, 10)
    const edns = Buffer.alloc(11)
    edns.writeUInt16BE(types.OPT, 1)
    edns.writeUInt16BE(udpBytesMax, 3)
    parts.push(edns)
  }
  return Buffer.concat(parts)
}

const dataOf = (answer: Answer): Buffer => {
  if (answer instanceof Uint8Array) return Buffer.from(answer)
  if (answer.type === "TXT") {
    return Buffer.concat(
      answer.texts.map((text) => {
        const bytes = Buffer.from(text, "latin1").subarray(0, 255)
        return Buffer.concat([Buffer.from([bytes.length]), bytes])
      })
    )
  }
  const name = nameBytes(answer.name)
  if (answer.type === "PTR") return name
  const numbers = answer.type === "MX" ? [answer.priority] : [answer.priority, answer.weight, answer.port]
  return Buffer.concat([Buffer.from(numbers.flatMap((number) => [(number >> 8) & 255, number & 255])), name])
}

/** A name uncompressed; labels that are too long are cut. */
const nameBytes = (name: string): Buffer => {
  const labels = name.split(".").filter((label) => label !== "")
  const parts = labels.map((label) => {
    const bytes = Buffer.from(label, "latin1").subarray(0, 63)
    return Buffer.concat([Buffer.from([bytes.length]), bytes])
  })
  return Buffer.concat([...parts, Buffer.alloc(1)])
}
