/**
 * The supervisor's part of published ports: adds and takes away single ones, in the definition and in a VM that runs. Listens on none
 * (see keeper/publishedPorts.ts).
 */

import { Effect } from "effect"
import { Rpc } from "effect/rpc"
import { InvalidSpec, SupervisorUnreachable } from "../../domain/errors/vm.ts"
import { formatPort } from "../../domain/sandbox/ports.ts"
import { isLive, type PublishedPort, type SandboxInfo } from "../../domain/sandbox/sandbox.ts"
import { sandboxProblem } from "../../domain/sandbox/validation.ts"
import type { SandboxRecord } from "../../store/database/sandboxes.ts"
import { Paths } from "../../store/files/Paths.ts"
import { withPorts } from "../keeper/network/publishedPorts.ts"
import type { KeeperAddress } from "../keeper/protocol.ts"
import { saveDefinition } from "./saveDefinition.ts"

interface Removal {
  readonly name: string
  readonly guestPort: number
  readonly hostPort?: number
}

export const portHandlers = <E, K>(
  find: (name: string) => Effect.Effect<SandboxRecord, E>,
  keeperOf: (info: SandboxInfo) => Effect.Effect<KeeperAddress, K>
) =>
  Effect.gen(function* () {
    const paths = yield* Paths
    const save = yield* saveDefinition

    /** Those of the definition, in its order, with the host ports that were picked where it runs. */
    const held = (info: SandboxInfo): ReadonlyArray<PublishedPort> => {
      const asked = info.config.ports ?? []
      const now = withPorts(paths, info).ports ?? []
      return now.length === asked.length ? now : asked
    }

    /** Listens on `wanted` first, and then writes down what was `asked` for. */
    const set = Effect.fnUntraced(function* (
      info: SandboxInfo,
      asked: ReadonlyArray<PublishedPort>,
      wanted: ReadonlyArray<PublishedPort>
    ) {
      const config = { ...info.config, ports: asked }
      const problem = sandboxProblem(config, info.ephemeral)
      if (problem !== undefined) return yield* new InvalidSpec(problem)
      const found = isLive(info.status)
        ? yield* (yield* keeperOf(info))
            .Ports({ ports: wanted })
            .pipe(
              Effect.catchTag("RpcClientError", (error) =>
                Effect.fail(new SupervisorUnreachable({ sandbox: info.name, reason: error.message }))
              )
            )
        : asked
      yield* save(info, config)
      return found
    })

    const add = Effect.fn("VmSupervisor.portAdd")(function* (name: string, port: PublishedPort) {
      const { info } = yield* find(name)
      const found = yield* set(info, [...(info.config.ports ?? []), port], [...held(info), port])
      return found.at(-1) ?? port
    })

    const remove = Effect.fn("VmSupervisor.portRemove")(function* ({ name, guestPort, hostPort }: Removal) {
      const { info } = yield* find(name)
      const now = held(info)
      const stays = (_: PublishedPort, index: number) => {
        const port = now[index]
        return port?.guestPort !== guestPort || (hostPort !== undefined && port.hostPort !== hostPort)
      }
      const left = now.filter(stays)
      if (left.length === now.length) {
        const all = now.map(formatPort).join(", ")
        return yield* new InvalidSpec({
          field: "guest_port",
          reason: `it publishes no such port; those that it does: ${all === "" ? "none" : all}`
        })
      }
      yield* set(info, (info.config.ports ?? []).filter(stays), left)
    })

    return {
      PortAdd: ({ name, ...port }: { readonly name: string } & PublishedPort) => Rpc.fork(add(name, port)),
      PortRemove: (request: Removal) => Rpc.fork(remove(request))
    }
  })
