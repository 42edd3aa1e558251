/**
 * Brings host names into the one form in which rules and questions are compared: IDNA's ASCII form (RFC 5891), lower case, without the
 * dot at the end. Pure: resolves nothing.
 */

/** Longest name and label of DNS, in bytes (RFC 1035, 2.3.4), without the dot at the end. */
const nameBytesMax = 253
const labelBytesMax = 63

/** The ASCII form of a name with other letters; undefined for one that IDNA forbids. */
const toAscii = (name: string): string | undefined => {
  try {
    return new URL(`http://${name}/`).hostname
  } catch {
    return undefined
  }
}

const labelProblem = (label: string): string | undefined => {
  if (label === "") return "it has an empty label"
  if (label.length > labelBytesMax) return `a label of it has more than ${labelBytesMax} bytes`
  const other = /[^a-z0-9_-]/.exec(label)
  if (other !== null) return `${JSON.stringify(other[0])} can not be in a name`
  if (label.startsWith("-") || label.endsWith("-")) return `its label "${label}" begins or ends with "-"`
  return undefined
}

/** A name in the form in which it is compared, or what is wrong with it, as a phrase. */
export const normalizeName = (text: string): { readonly name: string } | string => {
  const bare = text.toLowerCase().replace(/\.$/, "")
  if (bare === "") return "it is empty"
  // Only what the parser of addresses can not take for something else goes through it: it decodes "%" and ends at "/".
  const foreign = /[^\0-\x7f]/.test(bare)
  if (foreign && !/^[a-z0-9._\-\u0080-\uffff]*$/.test(bare)) return "it mixes other letters with signs"
  const ascii = foreign || /(?:^|\.)xn--/.test(bare) ? toAscii(bare) : bare
  if (ascii === undefined) return "it is no name by the rules for international ones (IDNA)"
  const labels = ascii.split(".")
  const problem = labels.map(labelProblem).find((each) => each !== undefined)
  if (problem !== undefined) return problem
  if (ascii.length > nameBytesMax) return `it has more than ${nameBytesMax} bytes`
  // Programs read such a text as an address: 1.2.3, 0x7f000001, 017.1.
  if (/^(?:\d+|0x[0-9a-f]*)$/.test(labels.at(-1) ?? ""))
    return "it is neither an IP address nor a name: its last label is a number"
  return { name: ascii }
}
