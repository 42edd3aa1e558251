/** Completes the definition of a new sandbox with the engine of its maker's environment. Chooses none by probing (see vm/engines). */
import { Effect, Schema } from "effect"
import { InvalidSpec } from "../../domain/errors/vm.ts"
import { EngineKind, type NewSandboxConfig } from "../../domain/sandbox/sandbox.ts"
import type { CreateRequest } from "./registry.ts"

const isEngine = Schema.is(EngineKind)

/** What is asked for, with the engine of this process's environment where none is. */
export const withEngine = (
  ours: string | undefined,
  request: Omit<CreateRequest, "config"> & { readonly config: NewSandboxConfig }
): Effect.Effect<CreateRequest, InvalidSpec> => {
  const engine = request.config.engine ?? ours ?? "auto"
  if (isEngine(engine)) return Effect.succeed({ ...request, config: { ...request.config, engine } })
  const reason = `"${engine}" is not an engine; choose auto, krun or qemu`
  return Effect.fail(new InvalidSpec({ field: "BUNKER_ENGINE", reason }))
}
