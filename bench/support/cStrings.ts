/** Texts and lists of texts as C takes them, for programs that become a VM: nothing of them is given back. */
import { type Pointer, ptr } from "bun:ffi"

/** Everything that C got a pointer to stays referenced until the end. */
const kept: Array<Buffer | BigUint64Array> = []

export const text = (of: string): Pointer => {
  const bytes = Buffer.from(`${of}\0`)
  kept.push(bytes)
  return ptr(bytes)
}

export const list = (of: ReadonlyArray<string>): Pointer => {
  const table = new BigUint64Array(of.length + 1)
  for (const [index, each] of of.entries()) table[index] = BigInt(text(each))
  kept.push(table)
  return ptr(table)
}
