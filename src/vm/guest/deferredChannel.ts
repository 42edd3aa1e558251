/**
 * A channel to a guest that can not answer yet, because its VM stands still: each request waits for the guest's own channel. Connects
 * nothing by itself.
 */
import { Effect } from "effect"
import type { GuestChannelFailed } from "../../domain/errors/vm.ts"
import { type GuestChannel, type GuestRequests, streamsMaxOf } from "./GuestChannel.ts"
import type { GuestTransport } from "./transport.ts"

export const channelLater = (
  transport: GuestTransport,
  channel: Effect.Effect<GuestChannel, GuestChannelFailed>
): GuestRequests => {
  const then = <A, E, R>(ask: (found: GuestChannel) => Effect.Effect<A, E, R>) => Effect.flatMap(channel, ask)
  return {
    boot: (request) => then((found) => found.boot(request)),
    exec: (spec) => then((found) => found.exec(spec)),
    keeps: then((found) => found.keeps),
    reattach: (name, from) => then((found) => found.reattach(name, from)),
    file: (operation) => then((found) => found.file(operation)),
    dial: (port) => then((found) => found.dial(port)),
    poweroff: (options) => then((found) => found.poweroff(options)),
    streamsMax: streamsMaxOf(transport),
    ping: then((found) => found.ping),
    stats: then((found) => found.stats),
    syncClock: then((found) => found.syncClock),
    sync: then((found) => found.sync)
  }
}
