/**
 * Prepares the secrets of one sandbox: its certificate authority and its placeholders, made once and kept beside it, the values at this
 * moment, and what its guest has of them. Opens no connection (see net/tls), and hands values to the network process alone.
 *
 * Invariant: authority and placeholders stay as long as the sandbox, unless its hosts change: a guest may have written them down.
 */
import crypto from "node:crypto"
import fs from "node:fs"
import path from "node:path"
import { Effect, Option, Redacted, Schema } from "effect"
import type { FileFailed, FileNotFound } from "../../../domain/errors/guestIo.ts"
import type { GuestChannelFailed } from "../../../domain/errors/vm.ts"
import { makePlaceholder } from "../../../domain/network/placeholders.ts"
import { openedHosts, type SecretBinding } from "../../../domain/network/secrets.ts"
import type { SandboxConfig, SandboxInfo } from "../../../domain/sandbox/sandbox.ts"
import { makeAuthority } from "../../../net/tls/authority.ts"
import type { InterceptionState } from "../../../net/tls/interception.ts"
import { attemptFile, type FileError, readText, writeAtomic } from "../../../store/files/files.ts"
import { Paths } from "../../../store/files/Paths.ts"
import { readSecrets, type SecretError } from "../../../store/secrets/secretFile.ts"
import type { GuestRequests } from "../../../vm/guest/GuestChannel.ts"
import { trustAuthority, trustVariables } from "./guestTrust.ts"

const Kept = Schema.fromJsonString(
  Schema.Struct({
    authority: Schema.Struct({
      certificate: Schema.String,
      key: Schema.String,
      sandbox: Schema.String,
      hosts: Schema.Array(Schema.String)
    }),
    /** By the name of the secret. */
    placeholders: Schema.Record(Schema.String, Schema.String),
    /** The guest's file of all certificates, with the authority in it; absent before its first boot. */
    bundle: Schema.optionalKey(Schema.String)
  })
)
type Kept = typeof Kept.Type

/** The secrets of one sandbox, and what its guest gets of them. */
export interface SandboxInterception {
  /** `NAME=placeholder` for each secret, and what names the authority in the guest, once that is known. */
  readonly variables: () => ReadonlyArray<string>
  /** Makes the guest trust the authority. */
  readonly trust: (
    channel: GuestRequests,
    imageEnv: ReadonlyArray<string>
  ) => Effect.Effect<void, FileError | FileFailed | FileNotFound | GuestChannelFailed>
  /** With the values that there are now. */
  readonly state: Effect.Effect<InterceptionState, SecretError>
}

type Values = ReadonlyMap<string, Redacted.Redacted<string>>

const sameHosts = (a: ReadonlyArray<string>, b: ReadonlyArray<string>): boolean =>
  a.length === b.length && a.every((host) => b.includes(host))

const keep = Effect.fnUntraced(function* (
  info: SandboxInfo,
  hosts: ReadonlyArray<string>,
  values: Values
): Effect.fn.Return<Kept, FileError, Paths> {
  const { interception } = (yield* Paths).sandbox(info.name)
  const text = yield* attemptFile("read", interception, () => readText(interception))
  const before = Option.getOrUndefined(yield* Effect.option(Schema.decodeEffect(Kept)(text ?? "")))
  const names = (info.config.secrets ?? []).map(({ name }) => name)
  const whole = before !== undefined && sameHosts(before.authority.hosts, hosts)
  if (whole && names.every((name) => Object.hasOwn(before.placeholders, name))) return before
  const placeholders = names.map((name) => {
    const length = Redacted.value(values.get(name) ?? Redacted.make("")).length
    return [name, before?.placeholders[name] ?? makePlaceholder(crypto.randomBytes(256), length)] as const
  })
  const kept = {
    ...before,
    authority: whole ? before.authority : makeAuthority(info.name, hosts).serialize(),
    placeholders: Object.fromEntries(placeholders)
  }
  yield* writeAtomic(interception, `${JSON.stringify(kept)}\n`)
  return kept
})

/** Those that there are: of the store, and of the sandbox's own. A secret that was removed has none. */
const valuesOf = Effect.fnUntraced(function* (
  info: SandboxInfo,
  secrets: ReadonlyArray<SecretBinding>
): Effect.fn.Return<Values, SecretError, Paths> {
  const paths = yield* Paths
  const own = secrets.filter(({ store }) => store === undefined).map(({ name }) => name)
  const shared = secrets.flatMap(({ store }) => (store === undefined ? [] : [store]))
  const ownValues = own.length === 0 ? new Map() : yield* readSecrets(paths.sandbox(info.name).secrets, own)
  const sharedValues = shared.length === 0 ? new Map() : yield* readSecrets(paths.secrets, shared)
  const found = secrets.flatMap(({ name, store }) => {
    const value = store === undefined ? ownValues.get(name) : sharedValues.get(store)
    return value === undefined ? [] : [[name, value] as const]
  })
  return new Map(found)
})

/** Undefined for a sandbox none of whose hosts is opened. */
export const openInterception = Effect.fn("Secrets.open")(function* (
  info: SandboxInfo
): Effect.fn.Return<SandboxInterception | undefined, SecretError, Paths> {
  const { network, secrets = [] }: SandboxConfig = info.config
  const hosts = openedHosts(secrets, network?.inspect)
  if (network === undefined || hosts.length === 0) return undefined
  const paths = yield* Paths
  let kept = yield* keep(info, hosts, yield* valuesOf(info, secrets))
  const { authority, placeholders } = kept
  const stateOf = (values: Values): InterceptionState => ({
    authority,
    inspected: openedHosts([], network.inspect),
    secrets: secrets.map(({ hosts: own, name, use }) => {
      const value = values.get(name)
      return {
        name,
        placeholder: placeholders[name] ?? "",
        hosts: openedHosts([{ name, hosts: own }]),
        ...(use === undefined ? {} : { use }),
        ...(value === undefined ? {} : { value: Redacted.value(value) })
      }
    })
  })
  return {
    variables: () => [
      ...(kept.bundle === undefined ? [] : trustVariables(kept.bundle)),
      ...secrets.map(({ name }) => `${name}=${placeholders[name]}`)
    ],
    trust: Effect.fnUntraced(function* (channel, imageEnv) {
      const bundle = yield* trustAuthority(channel, authority.certificate, imageEnv)
      if (bundle === kept.bundle) return
      kept = { ...kept, bundle }
      yield* writeAtomic(paths.sandbox(info.name).interception, `${JSON.stringify(kept)}\n`)
    }),
    state: Effect.map(Effect.provideService(valuesOf(info, secrets), Paths, paths), stateOf)
  }
})

/** Time in which changes of a file are gathered, in milliseconds. */
const gatherMs = 50

/** Runs `changed` after each change of a secret that the sandbox may use; the scope ends it. */
export const watchSecrets = Effect.fn("Secrets.watch")(function* (info: SandboxInfo, changed: () => void) {
  const paths = yield* Paths
  const files = [paths.secrets.file, paths.sandbox(info.name).secrets.file]
  yield* Effect.acquireRelease(
    Effect.sync(() => {
      let timer: ReturnType<typeof setTimeout> | undefined
      const watchers = files.flatMap((file) => {
        try {
          const watcher = fs.watch(path.dirname(file), { persistent: false }, (_event, name) => {
            // Where the system names no file, any may have changed.
            if (name !== null && name !== path.basename(file)) return
            clearTimeout(timer)
            timer = setTimeout(changed, gatherMs)
          })
          watcher.on("error", () => {})
          return [watcher]
        } catch {
          return []
        }
      })
      return () => {
        clearTimeout(timer)
        for (const watcher of watchers) watcher.close()
      }
    }),
    (stop) => Effect.sync(stop)
  )
})
