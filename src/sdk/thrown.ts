/** Puts an error into the words of the SDK before a program gets it. Changes nothing but its message. */
import { saidBy } from "../domain/errors/terms.ts"

/** The error itself; one of Bunker's own says what to do in terms of methods and options. */
export const thrown = <E>(error: E): E => {
  const { _tag: tag } = Object(error) as { readonly _tag?: unknown }
  if (error instanceof Error && typeof tag === "string") {
    const value = saidBy("program", error.message)
    Object.defineProperty(error, "message", { value, configurable: true, writable: true })
  }
  return error
}
