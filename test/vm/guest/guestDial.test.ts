/** Connections to services inside the guest, through a real agent process on this machine: its loopback is ours. */
import { describe, expect } from "bun:test"
import { Deferred, Effect, Exit, Scope, Stream } from "effect"
import { it } from "../../support/it.ts"
import { nativeAgent } from "../../support/nativeAgent.ts"
import { service } from "../../support/service.ts"

const textOf = (pieces: ReadonlyArray<Uint8Array | "End">) =>
  pieces.map((piece) => (piece === "End" ? "<end>" : Buffer.from(piece).toString())).join("")

describe("a connection to a port of the guest", () => {
  it.live("carries bytes both ways and half-closes in either order", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const port = yield* service((socket) => {
        let heard = ""
        socket.on("data", (data) => void (heard += data.toString()))
        socket.on("end", () => socket.end(`heard ${heard}`))
      })
      const one = yield* guest.dial(port)
      yield* one.write(Buffer.from("hello"))
      yield* one.end
      expect(textOf(yield* Stream.runCollect(one.incoming))).toBe("heard hello<end>")

      const heard = yield* Deferred.make<string>()
      const first = yield* service((socket) => {
        let said = ""
        socket.on("data", (data) => void (said += data.toString()))
        socket.on("end", () => Deferred.doneUnsafe(heard, Effect.succeed(said)))
        socket.end("bye")
      })
      const other = yield* guest.dial(first)
      const answer = Stream.tap(other.incoming, (piece) =>
        piece === "End" ? Effect.andThen(other.write(Buffer.from("still here")), other.end) : Effect.void
      )
      expect(textOf(yield* Stream.runCollect(answer))).toBe("bye<end>")
      expect(yield* Deferred.await(heard)).toBe("still here")
    })
  )

  it.live("finds a service that listens on ::1 only", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const port = yield* service((socket) => socket.end("six"), "::1")
      const dialed = yield* guest.dial(port)
      yield* dialed.end
      expect(textOf(yield* Stream.runCollect(dialed.incoming))).toBe("six<end>")
    })
  )

  it.live("is refused where nobody listens", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const port = yield* Effect.scoped(service(() => {}))
      expect((yield* Effect.flip(guest.dial(port)))._tag).toBe("PortRefused")
    })
  )

  it.live("fails when the service resets it", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const port = yield* service((socket) => socket.once("data", () => socket.resetAndDestroy()))
      const dialed = yield* guest.dial(port)
      yield* dialed.write(Buffer.from("x"))
      const error = yield* Effect.flip(Stream.runDrain(dialed.incoming))
      expect(error.message).toContain("reset")
    })
  )

  it.live("shows the service a reset when its scope closes early", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const seen = yield* Deferred.make<string>()
      const port = yield* service((socket) => {
        socket.write("hi")
        socket.on("error", (error: NodeJS.ErrnoException) =>
          Deferred.doneUnsafe(seen, Effect.succeed(error.code ?? ""))
        )
      })
      const scope = yield* Scope.make()
      const dialed = yield* guest.dial(port).pipe(Scope.provide(scope))
      yield* Stream.runHead(dialed.incoming)
      yield* Scope.close(scope, Exit.void)
      expect(yield* Deferred.await(seen)).toBe("ECONNRESET")
    })
  )

  it.live("carries 20 MB both ways at once unchanged, and a stalled one stalls only itself", () =>
    Effect.gen(function* () {
      const { guest } = yield* nativeAgent
      const echo = yield* service((socket) => void socket.pipe(socket))
      const stalled = yield* guest.dial(yield* service((socket) => void socket.end(Buffer.alloc(5_000_000))))
      const dialed = yield* guest.dial(echo)
      const bytes = new Uint8Array(20_000_000)
      for (let at = 0; at < bytes.length; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536))
      yield* Effect.forkScoped(Effect.andThen(dialed.write(bytes), dialed.end))
      const hash = new Bun.CryptoHasher("sha256")
      yield* Stream.runForEach(dialed.incoming, (piece) => Effect.sync(() => piece !== "End" && hash.update(piece)))
      expect(hash.digest("hex")).toBe(new Bun.CryptoHasher("sha256").update(bytes).digest("hex"))
      yield* stalled.end
      let count = 0
      yield* Stream.runForEach(stalled.incoming, (piece) => Effect.sync(() => void (count += piece.length)))
      expect(count).toBe(5_000_003)
    })
  )
})
