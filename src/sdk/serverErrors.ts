/** Turns the error documents of a server back into the errors that its actors failed with. Sends nothing. */
import { Option, Schema } from "effect"
import * as Errors from "../domain/errors.ts"
import { snakeCase } from "../domain/wire.ts"

/** An error of Bunker's own, as every door throws it. */
export type TypedError = Error & { readonly _tag: string }

type ErrorClass = Schema.Codec<TypedError, unknown> & { readonly fields: Readonly<Record<string, unknown>> }

const classes = Errors as unknown as Readonly<Record<string, ErrorClass>>

const text = (value: unknown): string => (typeof value === "string" ? value : "")

/** The error in `{"ok": false, "code", "error", "details"}`; `ServerRefused` for one that is not known here. */
export const errorOf = (status: number, document: unknown): TypedError => {
  const { code, error, details } = Object(document) as Readonly<Record<string, unknown>>
  const known = typeof code === "string" && Object.hasOwn(classes, code) ? classes[code] : undefined
  const given = Object(details) as Readonly<Record<string, unknown>>
  if (known !== undefined) {
    const fields = Object.keys(known.fields).flatMap((name) => {
      const value = given[snakeCase(name.replace(/_$/, ""))]
      return value === undefined ? [] : [[name, value] as const]
    })
    const decoded = Schema.decodeUnknownOption(Schema.toCodecJson(known))({ ...Object.fromEntries(fields), _tag: code })
    if (Option.isSome(decoded)) return decoded.value
  }
  return new Errors.ServerRefused({ status, code: text(code), reason: text(error) || "it says nothing more" })
}
