/** JSON messages of the guest channel, version 1 (native/guest/README.md): what may come from a guest, checked. Holds no state. */
import { Schema } from "effect"
import { jsonBytesMax, windowBytes } from "./frames.ts"

const Count = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }))
const Code = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 }))
/** Far from where numbers lose their last digit: a guest that begins here can still say petabytes. */
const Offset = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 ** 52 }))
const Short = Schema.String.check(Schema.isMaxLength(4096))

/** First frame of the agent on every connection. */
export const GuestHello = Schema.Union([
  Schema.Struct({
    protocol: Schema.Int,
    kind: Schema.Literal("control"),
    /** Version of the agent. */
    agent: Short,
    /** The guest has its root already: the sandbox was running before this host process came. */
    booted: Schema.optionalKey(Schema.Boolean),
    /** Microseconds since the guest's kernel started. */
    uptime_us: Schema.optionalKey(Count),
    /** What this agent can do beyond the first agents of this version. */
    features: Schema.optionalKey(Schema.Array(Short).check(Schema.isMaxLength(64))),
    /** Nonce of the HELLO that this one answers. */
    re: Schema.optionalKey(Short)
  }),
  Schema.Struct({
    protocol: Schema.Int,
    kind: Schema.Literal("exec"),
    exec: Schema.Int,
    /** Of a process that is taken over: offset of the first byte of output that comes. */
    from: Schema.optionalKey(Offset),
    /** Offset after the last byte that it has said by now. */
    said: Schema.optionalKey(Offset),
    /** Bytes of its stdin of an earlier connection that it has not read; they count in the window. */
    unread: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: windowBytes }))),
    /** It still takes input. */
    stdin: Schema.optionalKey(Schema.Boolean)
  })
])
export type GuestHello = typeof GuestHello.Type

/** RESPONSE: the answer to the request of the same id. */
export const GuestResponse = Schema.Struct({
  id: Schema.Int,
  ok: Schema.Boolean,
  error: Schema.optionalKey(Short),
  message: Schema.optionalKey(Short)
})
export type GuestResponse = typeof GuestResponse.Type

/** EVENT: `slot_free` says that the agent has closed a virtio port. */
const GuestEvent = Schema.Struct({
  event: Short,
  slot: Schema.optionalKey(Schema.Int)
})

/** EXIT: the last frame of an exec connection. */
const GuestExit = Schema.Union([
  Schema.Struct({ code: Code }),
  /** `timeout`: the agent killed it because its time was up. */
  Schema.Struct({ signal: Code, timeout: Schema.optionalKey(Schema.Boolean) }),
  Schema.Struct({ error: Short, message: Short })
])

/** Answer to `boot`. */
const GuestBooted = Schema.Struct({
  phases: Schema.Record(Schema.String, Count),
  already: Schema.optionalKey(Schema.Boolean)
})

/** Answer to `exec`. */
const GuestStarted = Schema.Struct({ pid: Schema.Int })

/** Answer to `stats`: numbers of the whole guest. Bytes, clock ticks, milliseconds. */
export const GuestStats = Schema.Struct({
  uptime_ms: Count,
  memory_total: Schema.optionalKey(Count),
  memory_available: Schema.optionalKey(Count),
  /** Of the file system at `/`. */
  disk_total: Schema.optionalKey(Count),
  disk_free: Schema.optionalKey(Count),
  cpu_user: Schema.optionalKey(Count),
  cpu_nice: Schema.optionalKey(Count),
  cpu_system: Schema.optionalKey(Count),
  cpu_idle: Schema.optionalKey(Count),
  cpu_iowait: Schema.optionalKey(Count),
  cpu_irq: Schema.optionalKey(Count),
  cpu_softirq: Schema.optionalKey(Count),
  cpu_steal: Schema.optionalKey(Count),
  ticks_per_second: Schema.optionalKey(Count),
  load: Schema.optionalKey(Count)
})
export type GuestStats = typeof GuestStats.Type

/** Why an operation on files failed: what it says on its stream 2. */
const GuestFileFailure = Schema.Struct({
  error: Short,
  path: Schema.String.check(Schema.isMaxLength(16_384)),
  message: Short
})

const Whole = Schema.Int.check(Schema.isBetween({ minimum: Number.MIN_SAFE_INTEGER, maximum: Number.MAX_SAFE_INTEGER }))
const Id = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffff_ffff }))

/** One line of `list` and `stat`. */
const GuestFileLine = Schema.Struct({
  name: Short,
  type: Schema.Literals(["file", "directory", "symlink", "char", "block", "fifo", "socket"]),
  size: Whole,
  mode: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0o7777 })),
  uid: Id,
  gid: Id,
  mtime_ms: Whole,
  target: Schema.optionalKey(Short)
})

const utf8 = new TextDecoder()

/** JSON of a payload, `undefined` when it is none. */
export const parsePayload = (payload: Uint8Array): unknown => {
  if (payload.length > jsonBytesMax) return undefined
  try {
    return JSON.parse(utf8.decode(payload))
  } catch {
    return undefined
  }
}

const decoder = <S extends Schema.ConstraintDecoder<unknown>>(schema: S) => {
  const decode = Schema.decodeUnknownOption(schema)
  return (value: unknown): S["Type"] | undefined => {
    const found = decode(value)
    return found._tag === "Some" ? found.value : undefined
  }
}

const hello = decoder(GuestHello)

/** The agent's HELLO, `undefined` when it is malformed or of another version. */
export const decodeGuestHello = (payload: Uint8Array): GuestHello | undefined => {
  const found = hello(parsePayload(payload))
  return found?.protocol === 1 ? found : undefined
}

export const decodeGuestResponse = decoder(GuestResponse)
export const decodeGuestEvent = decoder(GuestEvent)
export const decodeGuestExit = decoder(GuestExit)
export const decodeGuestBooted = decoder(GuestBooted)
export const decodeGuestStarted = decoder(GuestStarted)
export const decodeGuestStats = decoder(GuestStats)
export const decodeGuestFileFailure = decoder(GuestFileFailure)
export const decodeGuestFile = decoder(GuestFileLine)
