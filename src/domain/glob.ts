/**
 * Matches relative paths against shell patterns, as Hugging Face's `allow_patterns` and `ignore_patterns` mean them: `*` and `?`
 * match across `/`, `[…]` is a set, and a pattern that ends in `/` means everything below. Touches no files.
 *
 * Invariant: a match takes at most the product of both lengths in steps, whatever the pattern.
 */

/** One step of a pattern: any run of characters, or one character that fits. */
type Step = "run" | ((char: string) => boolean)

const setOf = (inside: string): ((char: string) => boolean) => {
  const negated = inside.startsWith("!") || inside.startsWith("^")
  const chars = [...(negated ? inside.slice(1) : inside)]
  const ranges: Array<readonly [string, string]> = []
  for (let at = 0; at < chars.length; at++) {
    const range = chars[at + 1] === "-" && at + 2 < chars.length
    ranges.push([chars[at]!, range ? chars[at + 2]! : chars[at]!])
    if (range) at += 2
  }
  return (char) => ranges.some(([first, last]) => first <= char && char <= last) !== negated
}

const compile = (pattern: string): ReadonlyArray<Step> => {
  const chars = [...(pattern.endsWith("/") ? `${pattern}*` : pattern)]
  const steps: Array<Step> = []
  for (let at = 0; at < chars.length; at++) {
    const char = chars[at]!
    if (char === "*") {
      if (steps.at(-1) !== "run") steps.push("run")
      continue
    }
    if (char === "?") {
      steps.push(() => true)
      continue
    }
    // A bracket right after the opening one belongs to the set.
    const first = at + 1 + (chars[at + 1] === "!" || chars[at + 1] === "^" ? 1 : 0)
    const end = char === "[" ? chars.indexOf("]", first + 1) : -1
    if (end < 0) steps.push((other) => other === char)
    else {
      steps.push(setOf(chars.slice(at + 1, end).join("")))
      at = end
    }
  }
  return steps
}

/** Goes back to the last run only: an earlier one could match no more than it did. */
const matches = (steps: ReadonlyArray<Step>, text: ReadonlyArray<string>): boolean => {
  let [at, step, runAt, runStep] = [0, 0, 0, -1]
  while (at < text.length) {
    const now = steps[step]
    if (now === "run") {
      runStep = step
      runAt = at
      step += 1
    } else if (now?.(text[at]!) === true) {
      at += 1
      step += 1
    } else if (runStep >= 0) {
      runAt += 1
      at = runAt
      step = runStep + 1
    } else return false
  }
  return steps.slice(step).every((rest) => rest === "run")
}

/** Tells which files of a model are taken: those that an allow pattern matches (absent: all) and no ignore pattern does. */
export const fileFilter = (
  allow: ReadonlyArray<string> | undefined,
  ignore: ReadonlyArray<string> | undefined
): ((path: string) => boolean) => {
  const allowed = allow?.map(compile)
  const ignored = ignore?.map(compile) ?? []
  return (path) => {
    const text = [...path]
    if (allowed?.some((steps) => matches(steps, text)) === false) return false
    return !ignored.some((steps) => matches(steps, text))
  }
}
