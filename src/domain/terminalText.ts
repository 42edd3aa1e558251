/**
 * Makes text harmless for a terminal: what one would obey is shown in place of being sent. The one place that knows which characters
 * these are; every line of ours goes through it (cli/terminal/output.ts). Pure; leaves the bytes of a command's own output alone.
 */

/** Characters that terminals obey: controls, and those that turn the direction of text around (Unicode "Bidirectional Algorithm"). */
const obeyed = /[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g

/** `\x1b` below the printable characters; `\u009b` above, which JSON knows, too. */
const shown = (char: string): string => {
  const code = char.charCodeAt(0)
  return code < 0x7f ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`
}

/** Text from elsewhere (a guest, a registry, a session) as a part of one line. */
export const harmless = (text: string): string =>
  text.replace(obeyed, (char) => (char === "\n" || char === "\t" ? " " : shown(char)))

/** Whole lines: line ends and tabs stay. Of JSON, where the others are escaped already, the value stays what it is. */
export const harmlessLines = (text: string): string =>
  text.replace(obeyed, (char) => (char === "\n" || char === "\t" ? char : shown(char)))
