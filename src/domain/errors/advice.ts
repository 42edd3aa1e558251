/** Ends a message with what to do next. Knows no error. */

/** The text, and the advice unless its reason has some of its own, which comes after a semicolon. */
export const advised = (before: string, reason: string, advice: string): string =>
  reason.includes("; ") ? `${before}${reason}` : `${before}${reason}; ${advice}`
