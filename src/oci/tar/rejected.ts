/** What the byte-level code of this folder throws on input that it refuses; exported operations turn it into `LayerRejected`. */

export class RejectedInput extends Error {
  override readonly name = "RejectedInput"
  constructor(
    readonly reason: string,
    /** Path of the entry, a binary string. */
    readonly entry?: string
  ) {
    super(reason)
  }
}

/** Binary string to readable text, control characters escaped, at most 300 characters. */
export const readable = (name: string): string => {
  const text = Buffer.from(name, "latin1").toString("utf8")
  const safe = text.replace(
    /[\u0000-\u001f\u007f-\u009f]/g,
    (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`
  )
  return safe.length > 300 ? `${safe.slice(0, 300)}...` : safe
}
