/**
 * Matches relative paths against shell patterns, as Hugging Face's `allow_patterns` and `ignore_patterns` mean them: `*` and `?`
 * match across `/`, `[…]` is a set, and a pattern that ends in `/` means everything below. Touches no files.
 */

/** Pattern by its compiled form; a pattern is used for every file of a model. */
const compile = (pattern: string): RegExp => {
  const whole = pattern.endsWith("/") ? `${pattern}*` : pattern
  let source = ""
  for (let at = 0; at < whole.length; at++) {
    const char = whole[at]!
    if (char === "*") {
      // A run of stars is one star: no pattern can make the matcher backtrack more than once for each.
      while (whole[at + 1] === "*") at += 1
      source += "[^]*"
    } else if (char === "?") source += "[^]"
    else if (char === "[") {
      const end = whole.indexOf("]", at + (whole[at + 1] === "!" || whole[at + 1] === "^" ? 3 : 2))
      if (end < 0) source += "\\["
      else {
        source += setOf(whole.slice(at + 1, end))
        at = end
      }
    } else source += char.replace(/[\\^$.|+(){}\]/-]/g, "\\$&")
  }
  return new RegExp(`^${source}$`, "u")
}

/** `[!a-c]` as a set of a regular expression; ranges that are backwards match nothing. */
const setOf = (inside: string): string => {
  const negated = inside.startsWith("!") || inside.startsWith("^")
  const body = (negated ? inside.slice(1) : inside).replace(/[\\\]^[&|~]/g, "\\$&")
  const set = `[${negated ? "^" : ""}${body}]`
  try {
    new RegExp(set)
    return set
  } catch {
    return "(?!)"
  }
}

/** Tells which files of a model are taken: those that an allow pattern matches (absent: all) and no ignore pattern does. */
export const fileFilter = (
  allow: ReadonlyArray<string> | undefined,
  ignore: ReadonlyArray<string> | undefined
): ((path: string) => boolean) => {
  const allowed = allow?.map(compile)
  const ignored = ignore?.map(compile) ?? []
  return (path) =>
    (allowed === undefined || allowed.some((each) => each.test(path))) && !ignored.some((each) => each.test(path))
}
