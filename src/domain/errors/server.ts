/** Names the ways in which a server that a program talks to fails beside the errors of its actors. Holds no behaviour. */
import { Schema } from "effect"
import { advised } from "./advice.ts"
import { taggedError } from "./base.ts"

/** Nobody answers, or the connection broke before the answer was whole. */
export class ServerUnreachable extends taggedError<ServerUnreachable>()("ServerUnreachable", {
  url: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `the server at ${this.url} can not be reached: ${this.reason}; 'bunker serve' starts one`
  }
}

/** The server answered with something that is none of Bunker's own errors: no token, another version, a proxy. */
export class ServerRefused extends taggedError<ServerRefused>()("ServerRefused", {
  /** HTTP status. */
  status: Schema.Int,
  /** The answer's code, empty when it has none. */
  code: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    const before = `the server answered ${this.status}${this.code === "" ? "" : ` ${this.code}`}: `
    return advised(before, this.reason, "check its address and its token")
  }
}
