/** `port add|rm|ls`: published ports of a sandbox, also while it runs. */
import { Effect } from "effect"
import { Argument, Command } from "effect/cli"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { InvalidSpec } from "../../../domain/errors/vm.ts"
import { formatAddress, formatPort, parsePort } from "../../../domain/sandbox/ports.ts"
import { withBunker } from "../../context.ts"
import { print } from "../../terminal/output.ts"

const name = Argument.String("name").pipe(Argument.withDescription("Sandbox"))

const add = Command.make(
  "add",
  {
    name,
    port: Argument.String("port").pipe(
      Argument.withDescription("[HOST_IP:]HOST_PORT:GUEST_PORT, or GUEST_PORT for a free host port")
    )
  },
  Effect.fn("Cli.portAdd")(function* ({ name: sandbox, port: text }) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const port = parsePort(text)
      if (typeof port === "string") return yield* new InvalidSpec({ field: "port", reason: port })
      const { hostIp, hostPort } = yield* vms.PortAdd({ name: sandbox, ...port })
      yield* print(formatAddress(hostIp, hostPort))
    })
    yield* withBunker(body)
  })
).pipe(
  Command.withDescription("Publish a port of a sandbox, at once where it runs, and print where it is reached."),
  Command.withShortDescription("Publish a port")
)

const remove = Command.make(
  "rm",
  {
    name,
    port: Argument.String("port").pipe(
      Argument.withDescription("GUEST_PORT, or HOST_PORT:GUEST_PORT for one of several")
    )
  },
  Effect.fn("Cli.portRemove")(function* ({ name: sandbox, port: text }) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const port = parsePort(text)
      if (typeof port === "string") return yield* new InvalidSpec({ field: "port", reason: port })
      const { guestPort, hostPort } = port
      yield* vms.PortRemove({ name: sandbox, guestPort, ...(hostPort === 0 ? {} : { hostPort }) })
    })
    yield* withBunker(body)
  })
).pipe(
  Command.withDescription("Publish a port of a sandbox no more. Connections that are open go on."),
  Command.withShortDescription("Publish a port no more")
)

const list = Command.make(
  "ls",
  { name },
  Effect.fn("Cli.portList")(function* ({ name: sandbox }) {
    const body = Effect.gen(function* () {
      const vms = yield* VmSupervisor
      const info = yield* vms.Inspect({ name: sandbox })
      for (const port of info.ports ?? info.config.ports ?? []) yield* print(formatPort(port))
    })
    yield* withBunker(body)
  })
).pipe(
  Command.withDescription("Print the published ports of a sandbox."),
  Command.withShortDescription("Published ports")
)

export const portGroup = Command.make("port").pipe(
  Command.withDescription("Published ports of a sandbox, also while it runs."),
  Command.withSubcommands([add, remove, list])
)
