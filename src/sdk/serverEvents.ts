/** Reads server-sent events (WHATWG HTML, "Server-sent events") from the body of an answer. Knows no event's meaning. */

export interface ServerEvent {
  readonly event: string
  readonly data: string
}

/** Longest event, in characters: a piece of output is far below. */
const eventMax = 64 * 1024 * 1024

/** The events of a body, at the pace of whoever takes them; leaving the loop cancels the body. */
export async function* serverEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent, void, void> {
  const decoder = new TextDecoder()
  let pieces: Array<string> = []
  let held = 0
  for await (const bytes of body) {
    let text = decoder.decode(bytes, { stream: true })
    for (let at = endOf(pieces, text); at >= 0; at = endOf(pieces, text)) {
      pieces.push(text.slice(0, at))
      const event = parse(pieces.join(""))
      if (event !== undefined) yield event
      pieces = []
      held = 0
      text = text.slice(at)
    }
    pieces.push(text)
    held += text.length
    if (held > eventMax) throw new Error(`an event has more than ${eventMax} characters`)
  }
}

/** Where the first event that `text` completes ends, behind its empty line; -1 when none does. */
const endOf = (before: ReadonlyArray<string>, text: string): number => {
  if (text.startsWith("\n") && before.at(-1)?.endsWith("\n")) return 1
  const at = text.indexOf("\n\n")
  return at < 0 ? -1 : at + 2
}

/** Undefined for one without data, which is none: comments keep connections alive. */
const parse = (text: string): ServerEvent | undefined => {
  let event = "message"
  const data: Array<string> = []
  for (const line of text.split("\n")) {
    const colon = line.indexOf(":")
    const value = line.slice(colon + 1).replace(/^ /, "")
    if (line.slice(0, colon) === "event") event = value
    else if (line.slice(0, colon) === "data") data.push(value)
  }
  return data.length === 0 ? undefined : { event, data: data.join("\n") }
}
