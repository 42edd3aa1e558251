/** Says what every refusal looks like on the wire. Holds no behaviour. */

export interface Failure {
  readonly ok: false
  /** The error's tag. */
  readonly code: string
  readonly error: string
  /** The error's fields. */
  readonly details: Readonly<Record<string, unknown>>
}

export const failure = (code: string, error: string, details: Failure["details"] = {}): Failure => ({
  ok: false,
  code,
  error,
  details
})
