/** `bunker serve`. Decides nothing: sends its messages and prints what comes back. */
import fs from "node:fs"
import path from "node:path"
import { Effect, Option, Schedule } from "effect"
import { Command, Flag } from "effect/cli"
import { version } from "../../../../package.json"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { Session, withBunker } from "../../context.ts"
import { ExitWith, say } from "../../terminal/output.ts"

/** How often a server looks after sandboxes whose keeper was killed. */
const recoverEvery = "5 seconds"

const recovering = Effect.repeat(Effect.ignore(VmSupervisor.use((vms) => vms.Recover())), Schedule.spaced(recoverEvery))

export const serve = Command.make(
  "serve",
  {
    listen: Flag.String("listen").pipe(
      Flag.withDescription(
        "unix:PATH, or HOST:PORT for whoever has the token in the home directory; default: unix, bunker.sock in the home"
      ),
      Flag.optional
    ),
    tlsCert: Flag.String("tls-cert").pipe(
      Flag.withDescription("HTTPS with this certificate and its chain, in PEM; for HOST:PORT"),
      Flag.optional
    ),
    tlsKey: Flag.String("tls-key").pipe(Flag.withDescription("Its private key, in PEM"), Flag.optional)
  },
  Effect.fn("Cli.serve")(function* ({ listen, tlsCert, tlsKey }) {
    const { settings } = yield* Session
    const given = Option.getOrElse(listen, () => `unix:${settings.home}/bunker.sock`)
    const { parseListen, serveHttp } = yield* Effect.promise(() => import("../../../http/server.ts"))
    const socket = given.startsWith("unix:") ? given.slice("unix:".length) : undefined
    const place =
      socket === undefined ? parseListen(given) : socket === "" ? undefined : { socket: path.resolve(socket) }
    if (place === undefined) {
      yield* say(`bunker: --listen takes unix:PATH or HOST:PORT, not "${given}"`)
      return yield* new ExitWith({ code: 125 })
    }
    const tls = yield* readTls(Option.getOrUndefined(tlsCert), Option.getOrUndefined(tlsKey), "socket" in place)
    const body = Effect.gen(function* () {
      yield* Effect.forkScoped(recovering)
      const where = yield* serveHttp({ listen: place, version, tls })
      if (!("socket" in place) && !isLoopback(place.host)) yield* sayExposed(tls !== undefined)
      yield* say(`bunker ${version} listens on ${where}`)
      return yield* untilSignal
    })
    return yield* withBunker(Effect.scoped(body), { plugins: "all" })
  })
).pipe(
  Command.withDescription(
    'Serve HTTP until SIGINT or SIGTERM: on a unix socket that only you can open, or on an address of the network for whoever sends the token in the home directory\'s file "token".'
  ),
  Command.withShortDescription("Serve HTTP")
)

const isLoopback = (host: string): boolean => /^(localhost|127\..*|::1)$/i.test(host)

const sayExposed = (secured: boolean) =>
  say(
    `bunker: other machines reach this address. Whoever has the token can run programs, read and write files of yours through mounts, and open ports${
      secured
        ? ""
        : "; it crosses the network as plain HTTP, for all on its way to read: give --tls-cert FILE and --tls-key FILE, or listen on 127.0.0.1 behind a proxy with TLS"
    }`
  )

/** Certificate and key of a network address, both or none. */
const readTls = Effect.fnUntraced(function* (cert: string | undefined, key: string | undefined, onSocket: boolean) {
  if (cert === undefined && key === undefined) return undefined
  const refuse = (words: string) => Effect.andThen(say(`bunker: ${words}`), Effect.fail(new ExitWith({ code: 125 })))
  if (cert === undefined || key === undefined) return yield* refuse("--tls-cert and --tls-key belong together")
  if (onSocket) return yield* refuse("--tls-cert and --tls-key are for --listen HOST:PORT; a unix socket needs no TLS")
  const read = (flag: string, file: string) =>
    Effect.try({
      try: () => fs.readFileSync(file, "utf8"),
      catch: (cause) => `${flag} ${file} can not be read: ${(cause as NodeJS.ErrnoException).code ?? "an error"}`
    }).pipe(Effect.catch(refuse))
  return { cert: yield* read("--tls-cert", cert), key: yield* read("--tls-key", key) }
})

const untilSignal: Effect.Effect<void> = Effect.callback((resume) => {
  const done = () => resume(Effect.void)
  process.once("SIGINT", done)
  process.once("SIGTERM", done)
  return Effect.sync(() => {
    process.off("SIGINT", done)
    process.off("SIGTERM", done)
  })
})
