/**
 * The supervisor's part of sandboxes' networks: changes rules, in the definition and in a VM that runs, and reads what was told of
 * traffic. Reads the log that the keeper writes, so that the events of sandboxes that have ended are there, too.
 */

import { Effect, Schema, Stream } from "effect"
import { Rpc } from "effect/rpc"
import { InvalidSpec, SupervisorUnreachable } from "../../domain/errors/vm.ts"
import { mergeNetwork, type NetworkConfig } from "../../domain/network/config.ts"
import { NetworkEvent } from "../../domain/network/events.ts"
import { suggestRules } from "../../domain/network/suggest.ts"
import { isLive, type SandboxInfo } from "../../domain/sandbox/sandbox.ts"
import { sandboxProblem } from "../../domain/sandbox/validation.ts"
import { Database } from "../../store/database/Database.ts"
import { findSandbox, type SandboxRecord } from "../../store/database/sandboxes.ts"
import { Paths } from "../../store/files/Paths.ts"
import type { KeeperAddress } from "../keeper/protocol.ts"
import { readLogs } from "./logs.ts"
import { saveDefinition } from "./saveDefinition.ts"

interface Update {
  readonly name: string
  readonly network: NetworkConfig
  readonly replace: boolean
}

const decode = Schema.decodeUnknownOption(Schema.fromJsonString(NetworkEvent))

export const networkHandlers = <E, K>(
  find: (name: string) => Effect.Effect<SandboxRecord, E>,
  keeperOf: (info: SandboxInfo) => Effect.Effect<KeeperAddress, K>
) =>
  Effect.gen(function* () {
    const db = yield* Database
    const paths = yield* Paths

    const save = yield* saveDefinition

    const update = Effect.fn("VmSupervisor.networkUpdate")(function* ({ name, network: given, replace }: Update) {
      const { info } = yield* find(name)
      const network = replace ? given : mergeNetwork(info.config.network ?? {}, given)
      const problem = sandboxProblem({ ...info.config, network }, info.ephemeral)
      if (problem !== undefined) return yield* new InvalidSpec(problem)
      // The rules hold before they are written down: what is recorded is what is.
      if (isLive(info.status)) {
        yield* (yield* keeperOf(info))
          .Network({ config: network })
          .pipe(
            Effect.catchTag("RpcClientError", (error) =>
              Effect.fail(new SupervisorUnreachable({ sandbox: info.name, reason: error.message }))
            )
          )
      }
      yield* save(info, { ...info.config, network })
      return network
    })

    const events = (name: string, follow: boolean) =>
      Stream.unwrap(
        Effect.map(find(name), ({ info }) => {
          const live = Effect.map(findSandbox(db, info.name), (record) => isLive(record?.info.status ?? "stopped"))
          return readLogs(
            paths.sandbox(info.name),
            { source: "network", follow },
            Effect.orElseSucceed(live, () => false)
          ).pipe(
            Stream.map(({ text = "" }) => decode(text)),
            Stream.flatMap((event) => (event._tag === "Some" ? Stream.succeed(event.value) : Stream.empty))
          )
        })
      )

    const suggest = Effect.fnUntraced(function* (name: string) {
      const { info } = yield* find(name)
      return suggestRules(yield* Stream.runCollect(events(name, false)), info.config.network ?? {})
    })

    return {
      NetworkUpdate: (request: Update) => Rpc.fork(update(request)),
      NetworkEvents: ({ name, follow }: { readonly name: string; readonly follow: boolean }) =>
        Rpc.fork(events(name, follow)),
      NetworkSuggest: ({ name }: { readonly name: string }) => Rpc.fork(suggest(name))
    }
  })
