/** Says on stderr what the network of a run in the foreground denies and fails at: one line for each destination. Changes nothing. */
import { Effect, Fiber, Stream } from "effect"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { formatEvent, type NetworkEvent } from "../../../domain/network/events.ts"
import { harmless } from "../../../domain/terminalText.ts"
import { say } from "../../terminal/output.ts"

/** What went well is for `network events`. */
const quiet: ReadonlyArray<string> = ["used", "secret", "request"]
/** Lines after which no more destinations are told apart. */
const linesMax = 200

/** A name is looked up before it is reached, in both families: for its reader that is one destination. */
const destinationOf = ({ kind, name, address, port, protocol, rule }: NetworkEvent): string =>
  [kind, name ?? address, name === null ? port : "", name === null ? protocol : "", rule].join(" ")

/** Begins to say what there is to say; `rest` says what is left, and ends it. `raw`: of a terminal that does not go back to the first column by itself. */
export const sayNetworkEvents = Effect.fnUntraced(function* (name: string, raw: boolean) {
  const vms = yield* VmSupervisor
  const seen = new Set<string>()
  const line = (text: string) => say(raw ? `${text}\r` : text)
  const one = (event: NetworkEvent) =>
    Effect.suspend(() => {
      const key = destinationOf(event)
      if (quiet.includes(event.kind) || seen.has(key) || seen.size > linesMax) return Effect.void
      seen.add(key)
      return seen.size > linesMax
        ? line(`bunker: network: there is more; 'bunker network events ${name}' has all of it`)
        : line(`bunker: ${harmless(formatEvent({ ...event, count: 1 }))}`)
    })
  const all = (follow: boolean) => Effect.ignore(Stream.runForEach(vms.NetworkEvents({ name, follow }), one))
  const following = yield* Effect.forkChild(all(true))
  return { rest: Effect.andThen(Fiber.interrupt(following), all(false)) }
})
