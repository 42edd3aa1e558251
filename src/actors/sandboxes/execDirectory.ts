/**
 * Remembers which keeper runs what was started through this process, so that its input need not look for it again: that takes
 * longer than to carry the bytes. Knows nothing of what others started.
 *
 * Invariant: an entry lives no longer than the stream whose `Started` made it.
 */

import { Effect, Stream } from "effect"
import type { KeeperAddress } from "../keeper/protocol.ts"

export interface Routes {
  /** The keeper of what runs under this number for a sandbox, as the sender called it. */
  readonly find: (name: string, number: number) => KeeperAddress | undefined
  /** The stream, which is known by the number that `numberOf` reads from its first event. */
  readonly follow: <A, E, R>(
    name: string,
    keeper: KeeperAddress,
    stream: Stream.Stream<A, E, R>,
    numberOf: (event: A) => number | undefined
  ) => Stream.Stream<A, E, R>
}

export const makeRoutes = (): Routes => {
  const keepers = new Map<string, KeeperAddress>()
  const keyOf = (name: string, number: number) => `${number} ${name}`
  return {
    find: (name, number) => keepers.get(keyOf(name, number)),
    follow: (name, keeper, stream, numberOf) =>
      Stream.suspend(() => {
        let key: string | undefined
        const notice = <A extends ReadonlyArray<unknown>>(events: A): A => {
          if (key !== undefined) return events
          const number = numberOf(events[0] as never)
          // Nothing of it comes first, or nothing of it will take input.
          key = number === undefined ? "" : keyOf(name, number)
          if (key !== "") keepers.set(key, keeper)
          return events
        }
        return stream.pipe(
          Stream.mapArray(notice),
          Stream.ensuring(
            Effect.sync(() => {
              // Another watcher of the same command may have come through a newer keeper.
              if (key !== undefined && keepers.get(key) === keeper) keepers.delete(key)
            })
          )
        )
      })
  }
}
