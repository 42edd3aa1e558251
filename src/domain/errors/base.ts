/**
 * Makes the classes of Bunker's errors: tagged, built from a schema, with what programs ask of every error. Names none of them.
 *
 * Invariants: no field is called `name`, `message`, `stack`, `cause`, `line` or `column`, which belong to `Error`; the JSON of an error
 * has its message.
 */
import { Schema } from "effect"
import { inTermsOf, parted } from "./terms.ts"

/** What every error has beside its own fields. */
export interface Explained {
  /** Its class, as `_tag`. */
  readonly tag: string
  /** What to do next, in the words of the SDK; empty where the message says all. */
  readonly suggestion: string
  /** Where the documentation describes it, below the root of the package. */
  readonly docs: string
  /** `_tag`, the fields, `message` and `suggestion`. */
  readonly toJSON: () => Readonly<Record<string, unknown>>
}

type Described = Error & { readonly _tag: string }

const explained: PropertyDescriptorMap & ThisType<Described & Explained> = {
  tag: {
    get() {
      return this._tag
    }
  },
  suggestion: {
    configurable: true,
    get() {
      return inTermsOf("program", parted(this.message)[1])
    }
  },
  docs: {
    get() {
      return `docs/errors.md#${this._tag.toLowerCase()}`
    }
  },
  toJSON: {
    value(this: Described & Explained) {
      const { fields = {} } = this.constructor as { readonly fields?: object }
      const own = Object.keys(fields).map((name) => [name, this[name as keyof Described]])
      return { ...Object.fromEntries(own), message: this.message, suggestion: this.suggestion }
    }
  }
}

/** As `Schema.TaggedError`, with what every error of Bunker has. */
export const taggedError = <Self>(): ReturnType<typeof Schema.TaggedError<Self, Explained>> => {
  const make = Schema.TaggedError<Self, Explained>() as (...given: ReadonlyArray<unknown>) => {
    readonly prototype: object
  }
  return ((...given: ReadonlyArray<unknown>) => {
    const made = make(...given)
    Object.defineProperties(made.prototype, explained)
    return made
  }) as never
}
