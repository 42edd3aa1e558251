/**
 * Computes the internet checksum (RFC 1071) over parts of one buffer. Checks none that comes in: a guest's may be unfinished.
 */

/** Adds big-endian 16-bit words; exact up to 2^37 words. `views` are of the buffer that is summed. */
export class Checksum {
  private readonly words: Uint16Array
  constructor(private readonly bytes: Buffer) {
    this.words = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length >> 1)
  }

  /** The sum of a part as if it began on an even byte, not yet folded; adds to `initial`. */
  sum(start: number, end: number, initial: number): number {
    const { bytes, words } = this
    let at = start
    let odd = 0
    if (at & 1 && at < end) odd = bytes[at++]! << 8
    let even = 0
    const last = (end - (end & 1)) >> 1
    let word = at >> 1
    // Native order: swapped once at the end. 32,768 words of 16 bits stay a small integer.
    for (const stop = last - 7; word < stop; word += 8)
      even +=
        words[word]! +
        words[word + 1]! +
        words[word + 2]! +
        words[word + 3]! +
        words[word + 4]! +
        words[word + 5]! +
        words[word + 6]! +
        words[word + 7]!
    for (; word < last; word++) even += words[word]!
    let tail = 0
    if (end & 1 && at < end) tail = bytes[end - 1]!
    even = fold(even)
    // Words that begin on an odd byte of the buffer come out as they are read on a little-endian machine, else swapped.
    if (start & 1) return initial + odd + even + tail
    return initial + (((even & 255) << 8) | (even >> 8)) + (tail << 8)
  }
}

const fold = (sum: number): number => {
  let folded = sum
  while (folded > 0xffff) folded = (folded & 0xffff) + Math.floor(folded / 0x10000)
  return folded
}

/** The field's value for a sum. */
export const finish = (sum: number): number => ~fold(sum) & 0xffff

/** The sum of whole addresses, for pseudo headers. */
export const sumOf = (bytes: Uint8Array): number => {
  let sum = 0
  for (let at = 0; at < bytes.length; at += 2) sum += (bytes[at]! << 8) | bytes[at + 1]!
  return sum
}
