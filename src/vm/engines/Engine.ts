/**
 * Offers the engines that can boot a VM, and picks one.
 * Keeps no VM, writes no record, and never falls back from an engine that was asked for by name.
 */
import { Context, Effect, Layer } from "effect"
import { EngineUnavailable } from "../../domain/errors/vm.ts"
import { makeKrunEngine } from "./krun.ts"
import { type ProbeResult, probe } from "./probe.ts"
import { makeQemuEngine } from "./qemu.ts"
import type { Engine, EngineKind, EngineOptions } from "./types.ts"

export type { ProbeResult } from "./probe.ts"
export type { Engine, EngineKind, EngineOptions, VmConfig, VmProcess } from "./types.ts"

/** The engine that was picked, and what to tell the user about it. */
export interface Choice {
  readonly engine: Engine
  /** One phrase, for stderr. */
  readonly reason: string
  /** A guest was booted for it just now; false where that is remembered. */
  readonly fresh: boolean
}

export class Engines extends Context.Service<
  Engines,
  {
    readonly get: (kind: EngineKind) => Engine
    /**
     * krun where a guest has booted with it, else qemu where that is installed. Boots a guest once per boot of the machine;
     * the fallback is not probed, for the sandbox's own boot shows the same right after.
     */
    readonly auto: Effect.Effect<Choice, EngineUnavailable>
    /** Result of really booting a guest with an engine, cached. */
    readonly probe: (kind: EngineKind) => Effect.Effect<ProbeResult>
  }
>()("bunker/Engines") {
  static readonly layer = (options: EngineOptions): Layer.Layer<Engines> =>
    Layer.sync(Engines, () => {
      const engines = { krun: makeKrunEngine(options), qemu: makeQemuEngine(options) }
      const auto = Effect.gen(function* () {
        const krun = yield* probe(engines.krun, options)
        const fresh = !krun.cached
        if (krun.ok) return { engine: engines.krun, reason: `a guest booted in ${krun.milliseconds} ms`, fresh }
        return yield* engines.qemu.available.pipe(
          Effect.as({ engine: engines.qemu, reason: krun.reason, fresh }),
          Effect.mapError(
            (qemu) =>
              new EngineUnavailable({
                engine: "auto",
                reason: `${krun.reason}; and ${qemu.message}`,
                advice: "'bunker doctor' shows what each engine needs"
              })
          )
        )
      }).pipe(Effect.withSpan("Engines.auto"))
      return Engines.of({ get: (kind) => engines[kind], auto, probe: (kind) => probe(engines[kind], options) })
    })
}
