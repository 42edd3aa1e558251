/**
 * Reads heads of HTTP/1.1 messages strictly (RFC 9112): what two programs could read in two ways is refused. Text is latin-1. Moves no
 * bytes (see http1Relay.ts).
 */

/** Most bytes of a head, and of the fields behind a chunked body. */
export const headBytesMax = 64 * 1024
const fieldsMax = 512

export type Fields = ReadonlyArray<readonly [name: string, value: string]>

/** How the end of a body is known. */
export type Framing =
  | { readonly kind: "length"; readonly bytes: number }
  | { readonly kind: "chunked" }
  | { readonly kind: "untilEnd" }

export interface RequestHead {
  readonly method: string
  readonly target: string
  readonly version: "1.0" | "1.1"
  readonly fields: Fields
  readonly framing: Framing
  /** `host[:port]`, of the target where it has one. */
  readonly authority: string | undefined
  /** True where the connection may become another protocol's. */
  readonly upgrade: boolean
  /** True where the connection is to end behind this request. */
  readonly close: boolean
}

export interface ResponseHead {
  readonly status: number
  readonly fields: Fields
}

/** A message that is refused; its text says why. */
export class MessageError extends Error {}

const token = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/

const fieldOf = (line: string): readonly [name: string, value: string] => {
  const colon = line.indexOf(":")
  const name = line.slice(0, Math.max(0, colon))
  const value = line.slice(colon + 1).replace(/^[ \t]+|[ \t]+$/g, "")
  if (!token.test(name)) throw new MessageError("a header field has no proper name")
  if (/[^\t\x20-\x7e\x80-\xff]/.test(value)) throw new MessageError(`the header field ${name} has control characters`)
  return [name, value]
}

/** Fields of lines that each end with CRLF, with or without the empty line behind them. */
export const parseFields = (text: string): Fields => {
  const lines = text.replace(/(?:^|\r\n)(?:\r\n)?$/, "").split("\r\n")
  if (lines.length === 1 && lines[0] === "") return []
  if (lines.length > fieldsMax) throw new MessageError("there are too many header fields")
  return lines.map(fieldOf)
}

const valuesOf = (fields: Fields, name: string): ReadonlyArray<string> =>
  fields.filter(([each]) => each.toLowerCase() === name).map(([, value]) => value)

const tokensOf = (fields: Fields, name: string): ReadonlyArray<string> =>
  valuesOf(fields, name).flatMap((value) =>
    value
      .toLowerCase()
      .split(",")
      .map((each) => each.trim())
  )

const lengthOf = (values: ReadonlyArray<string>): number => {
  const [text = ""] = values
  if (values.length !== 1 || !/^\d{1,15}$/.test(text)) throw new MessageError("its content-length is not one number")
  return Number(text)
}

const requestFraming = (fields: Fields, version: string): Framing => {
  const lengths = valuesOf(fields, "content-length")
  const codings = tokensOf(fields, "transfer-encoding")
  if (codings.length === 0) return { kind: "length", bytes: lengths.length === 0 ? 0 : lengthOf(lengths) }
  if (lengths.length > 0) throw new MessageError("it has both a content-length and a transfer-encoding")
  if (version === "1.0" || codings.length !== 1 || codings[0] !== "chunked") {
    throw new MessageError("its transfer-encoding is not chunked")
  }
  return { kind: "chunked" }
}

const splitHead = (head: string): readonly [first: string, fields: Fields] => {
  const end = head.indexOf("\r\n")
  const first = head.slice(0, end)
  if (/[\r\n]/.test(head.replaceAll("\r\n", ""))) throw new MessageError("a line of it does not end with CR LF")
  return [first, parseFields(head.slice(end + 2))]
}

/** Fields without those that ask for HTTP/2 on this connection, which a server may leave unanswered (RFC 7540, 3.2). */
const withoutH2c = (fields: Fields): Fields =>
  tokensOf(fields, "upgrade").includes("h2c")
    ? fields.filter(([name]) => !["upgrade", "http2-settings"].includes(name.toLowerCase()))
    : fields

/** A request's head, from its first byte to the end of its last field's line. */
export const parseRequest = (head: string): RequestHead => {
  const [first, all] = splitHead(head)
  const [, method = "", target = "", version = ""] =
    /^([^ ]+) ([\x21-\x7e\x80-\xff]+) HTTP\/(1\.[01])$/.exec(first) ?? []
  if (!token.test(method)) throw new MessageError("it does not begin with a request line of HTTP/1.1")
  const fields = withoutH2c(all)
  const hosts = valuesOf(fields, "host")
  if (hosts.length > 1) throw new MessageError("it has more than one host field")
  const absolute = /^https?:\/\/([^/?#]*)/i.exec(target)
  if (absolute === null && !target.startsWith("/") && target !== "*") throw new MessageError("its target is no path")
  if (absolute !== null && hosts[0] !== undefined && absolute[1]?.toLowerCase() !== hosts[0].toLowerCase()) {
    throw new MessageError("its target and its host field differ")
  }
  const connection = tokensOf(fields, "connection")
  return {
    method,
    target,
    version: version as "1.0" | "1.1",
    fields,
    framing: requestFraming(fields, version),
    authority: absolute?.[1] ?? hosts[0],
    upgrade: connection.includes("upgrade") && valuesOf(fields, "upgrade").length > 0,
    close: connection.includes("close") || (version === "1.0" && !connection.includes("keep-alive"))
  }
}

/** A response's head. Servers are read leniently: what their fields hold is for the guest. */
export const parseResponse = (head: string): ResponseHead => {
  const [first = "", ...lines] = head.split(/\r?\n/)
  const status = /^HTTP\/1\.[01] (\d{3})(?: |$)/.exec(first)
  if (status === null) throw new MessageError("it is no response of HTTP/1.1")
  const fields = lines
    .filter((line) => line.includes(":"))
    .map((line) => [line.slice(0, line.indexOf(":")).trim(), line.slice(line.indexOf(":") + 1).trim()] as const)
  return { status: Number(status[1]), fields }
}

/** How the body of a response ends (RFC 9112, 6.3). */
export const responseFraming = ({ fields, status }: ResponseHead, method: string): Framing => {
  if (method === "HEAD" || status < 200 || status === 204 || status === 304) return { kind: "length", bytes: 0 }
  const codings = tokensOf(fields, "transfer-encoding")
  if (codings.length > 0) return codings.at(-1) === "chunked" ? { kind: "chunked" } : { kind: "untilEnd" }
  const lengths = valuesOf(fields, "content-length")
  return lengths.length === 0 ? { kind: "untilEnd" } : { kind: "length", bytes: lengthOf(lengths) }
}

export const formatHead = (first: string, fields: Fields): Buffer =>
  Buffer.from(`${[first, ...fields.map(([name, value]) => `${name}: ${value}`)].join("\r\n")}\r\n\r\n`, "latin1")
