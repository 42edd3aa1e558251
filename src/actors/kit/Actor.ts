/**
 * Runs actors: a protocol is an `RpcGroup`, an address is a `Context.Service`, a place is a Layer.
 * Holds no state of any actor and knows none by name.
 *
 * Invariants of a local actor: one message at a time (streams marked with `Rpc.fork` leave the mailbox once started); at most
 * `capacity` messages wait, further senders wait; a defect fails its own message only, and restarts the behaviour with
 * fresh state before the next message; a payload that its schema refuses is not sent, and fails with `InvalidSpec` where the
 * message may fail so.
 */
import { Context, Effect, Layer, Queue, Schema, SchemaAST, type Scope, ScopedRef, Semaphore, Stream } from "effect"
import { Rpc, RpcClient, type RpcGroup, RpcSchema, RpcServer } from "effect/rpc"
import type { RpcClientError } from "effect/rpc/RpcClientError"
import { InvalidSpec } from "../../domain/errors/vm.ts"
import { firstIssue } from "../../domain/wire.ts"

/** What a message to an actor elsewhere may fail with besides its own errors: the connection broke. */
export type Unreachable = RpcClientError

/** The shape of an address: one function per message. */
export type Address<Rpcs extends Rpc.Any> = RpcClient.FromGroup<RpcGroup.RpcGroup<Rpcs>, Unreachable>

/** Messages that may wait in a mailbox. */
const mailboxCapacity = 1024

/** Starts an actor in this process, in the current scope, and answers its address. */
export const local = Effect.fnUntraced(function* <Rpcs extends Rpc.Any>(
  protocol: RpcGroup.RpcGroup<Rpcs>,
  options?: { readonly capacity?: number; readonly name?: string }
) {
  const slots = yield* Semaphore.make(options?.capacity ?? mailboxCapacity)
  const waiting = new Set<unknown>()
  let deliver: (message: never) => Effect.Effect<void> = () => Effect.void
  const server = yield* RpcServer.makeNoSerialization(protocol, {
    concurrency: 1,
    disableFatalDefects: true,
    spanPrefix: options?.name ?? "Actor",
    onFromServer: (message) =>
      message._tag === "Exit" && waiting.delete(message.requestId)
        ? Effect.andThen(slots.release(1), deliver(message as never))
        : deliver(message as never)
  })
  const { client, write } = yield* RpcClient.makeNoSerialization<Rpcs, Unreachable>(protocol, {
    onFromClient: ({ message }) =>
      message._tag !== "Request"
        ? server.write(0, message)
        : Effect.andThen(
            slots.take(1),
            Effect.suspend(() => {
              waiting.add(message.id)
              return server.write(0, message)
            })
          )
  })
  deliver = write as never
  return checked(protocol, client as Address<Rpcs>)
})

/** What is wrong with a payload that a message's schema refused, for a message that may fail so; else the defect that it was. */
const refused = (rpc: Rpc.AnyWithProps, tag: string, payload: unknown, defect: unknown) => {
  const { errorSchema, payloadSchema, successSchema } = rpc
  const errors = RpcSchema.isStreamSchema(successSchema) ? successSchema.error : errorSchema
  const canFail = Schema.is(errors)(new InvalidSpec({ field: "", reason: "" }))
  if (SchemaAST.isVoid(payloadSchema.ast) || !canFail) return Effect.die(defect)
  return (payloadSchema as Schema.Schema<unknown>).makeEffect(payload).pipe(
    Effect.mapError((issue) => {
      const { path, message } = firstIssue({ issue })
      return new InvalidSpec({ field: path === "" ? tag : path, reason: message })
    }),
    Effect.andThen(Effect.die(defect))
  )
}

/**
 * The same address, for senders that got their payload from a person: what its schema refuses fails with `InvalidSpec`, which names
 * the field. A message that can not fail so is sent by our own code, and a wrong payload is a bug. Looks only when something went
 * wrong.
 */
export const checked = <Rpcs extends Rpc.Any>(
  protocol: RpcGroup.RpcGroup<Rpcs>,
  address: Address<Rpcs>
): Address<Rpcs> => {
  const messages = address as unknown as Messages
  const entries = [...protocol.requests].map(([tag, erased]) => {
    const rpc = erased as unknown as Rpc.AnyWithProps
    const send = messages[tag]!
    const careful: AnyMessage = RpcSchema.isStreamSchema(rpc.successSchema)
      ? (payload, ...more) => {
          try {
            return send(payload, ...more)
          } catch (defect) {
            return Stream.fromEffect(refused(rpc, tag, payload, defect))
          }
        }
      : (payload, ...more) =>
          Effect.catchDefect(send(payload, ...more) as Effect.Effect<unknown>, (defect) =>
            refused(rpc, tag, payload, defect)
          )
    return [tag, careful]
  })
  return Object.fromEntries(entries) as Address<Rpcs>
}

type AnyHandlers = Record<
  string,
  (payload: unknown, options: unknown) => Rpc.WrapperOr<Effect.Effect<unknown, unknown, unknown>>
>

/**
 * Wraps a behaviour in one-for-one supervision: a defect in a handler closes the behaviour's scope and boots it again with
 * fresh state. Streams are not restarted: their subscribers see them end.
 */
export const supervised = <Rpcs extends Rpc.Any, Handlers extends RpcGroup.HandlersFrom<Rpcs>, R>(
  protocol: RpcGroup.RpcGroup<Rpcs>,
  boot: Effect.Effect<Handlers, never, R>
) =>
  Effect.map(ScopedRef.fromAcquire(boot), (current) => {
    const supervise = (tag: string, rpc: Rpc.AnyWithProps) => {
      const call = (payload: unknown, options: unknown) =>
        (ScopedRef.getUnsafe(current) as unknown as AnyHandlers)[tag]!(payload, options)
      if (RpcSchema.isStreamSchema(rpc.successSchema)) return call
      // A handler may mark its answer (Rpc.fork): the mark stays outside.
      return (payload: unknown, options: unknown) =>
        Rpc.wrapMap(call(payload, options), (answer) => Effect.tapDefect(answer, () => ScopedRef.set(current, boot)))
    }
    const entries = [...protocol.requests].map(([tag, rpc]) => [
      tag,
      supervise(tag, rpc as unknown as Rpc.AnyWithProps)
    ])
    return Object.fromEntries(entries) as Handlers
  })

/** The place "in this process": a Layer that gives `address` from a behaviour. */
export const layerLocal = <Self, Rpcs extends Rpc.Any, Handlers extends RpcGroup.HandlersFrom<Rpcs>, R>(
  address: Context.Key<Self, Address<Rpcs>>,
  protocol: RpcGroup.RpcGroup<Rpcs>,
  behaviour: Effect.Effect<Handlers, never, R>,
  options?: { readonly capacity?: number }
) =>
  Layer.effect(address, local(protocol, { ...options, name: address.key })).pipe(
    Layer.provide(protocol.toLayer(supervised(protocol, behaviour)))
  )

/** A value that is loaded when it is first needed. */
export type Later<A> = () => Promise<A>

/**
 * The place "in this process, from the first message on": what is behind the address is loaded and built then, so a process that
 * sends it nothing pays nothing for it.
 */
export const layerLater = <Self, Rpcs extends Rpc.Any, R>(
  address: Context.Key<Self, Address<Rpcs>>,
  protocol: RpcGroup.RpcGroup<Rpcs>,
  load: Later<Layer.Layer<Self, never, R>>
) =>
  Layer.effect(
    address,
    Effect.gen(function* () {
      const scope = yield* Effect.scope
      const context = yield* Effect.context<R>()
      // Whoever loads it loads it for all: a sender that is interrupted meanwhile must not take it from the others.
      const actor = yield* Effect.promise(load).pipe(
        Effect.flatMap((layer) => Layer.buildWithScope(layer, scope)),
        Effect.map((built) => Context.get(built, address) as unknown as Messages),
        Effect.provideContext(context),
        Effect.uninterruptible,
        Effect.cached
      )
      return forwarding(protocol, actor, actor)
    })
  )

/** The messages of an actor whose address takes an effect to get: `streams` gives it to messages that stream, `others` to the rest. */
export const forwarding = <Rpcs extends Rpc.Any, E, E2>(
  protocol: RpcGroup.RpcGroup<Rpcs>,
  streams: Effect.Effect<Messages, E, Scope.Scope>,
  others: Effect.Effect<Messages, E2>
) =>
  Object.fromEntries(
    [...protocol.requests].map(([tag, rpc]) => {
      const { successSchema } = rpc as unknown as Rpc.AnyWithProps
      const send: AnyMessage = RpcSchema.isStreamSchema(successSchema)
        ? (...given) => Stream.unwrap(Effect.map(streams, (each) => each[tag]!(...given) as Stream.Stream<unknown>))
        : (...given) => Effect.flatMap(others, (each) => each[tag]!(...given) as Effect.Effect<unknown>)
      return [tag, send]
    })
  ) as unknown as Address<Rpcs>

/** An address with its types erased. */
export type Messages = Readonly<Record<string, AnyMessage>>

type AnyMessage = (...given: ReadonlyArray<unknown>) => unknown

/** Runs work that emits events as a stream of them; interrupting the stream interrupts the work. */
export const events = <Event, E>(
  work: (emit: (event: Event) => void) => Effect.Effect<void, E>
): Stream.Stream<Event, E> =>
  Stream.callback<Event, E>((queue) =>
    work((event) => void Queue.offerUnsafe(queue, event)).pipe(
      Effect.matchCauseEffect({
        onFailure: (cause) => Queue.failCause(queue, cause),
        onSuccess: () => Queue.end(queue)
      })
    )
  )
