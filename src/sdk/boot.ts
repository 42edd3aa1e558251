/**
 * Makes a sandbox for a program, from its image to its running main command. Keeps nothing of it (see Sandbox).
 *
 * Invariant: of a sandbox that could not be made nothing is left.
 */
import { Deferred, Effect, Stream } from "effect"
import { ImageStore } from "../actors/images/ImageStore.ts"
import type { Unreachable } from "../actors/kit/Actor.ts"
import { VmSupervisor } from "../actors/sandboxes/VmSupervisor.ts"
import type { ReachError } from "../domain/errors/groups.ts"
import { InvalidSpec } from "../domain/errors/vm.ts"
import { type ExecEvent, exitCodeOf, mainCommand } from "../domain/sandbox/exec.ts"
import { configOf, type SandboxOptions, secretValuesOf } from "./sandboxOptions.ts"

/** Size of a main command's terminal until somebody resizes it. */
const firstSize = { cols: 80, rows: 24 }

/** Makes it and answers its name. */
export const makeSandbox = Effect.fn("Sandbox.create")(function* (options: SandboxOptions) {
  const images = yield* ImageStore
  const vms = yield* VmSupervisor
  const { image: reference, insecure, name: asked, persistent = false, platform, replace, start = true } = options
  if (!start && !persistent) {
    return yield* new InvalidSpec({
      field: "start",
      reason: "only a persistent sandbox waits for its start; add persistent: true"
    })
  }
  const config = configOf(options)
  const request = {
    ...(asked === undefined ? {} : { name: asked }),
    ephemeral: !persistent,
    config,
    ...(yield* secretValuesOf(options.secrets)),
    ...(replace === undefined ? {} : { replace })
  }
  // A pull may be long, and what it brings stays.
  yield* vms.Check(request)
  yield* Stream.runForEach(
    images.Pull({
      reference,
      policy: options.pull ?? "if-missing",
      ...(platform === undefined ? {} : { platform }),
      ...(insecure === undefined ? {} : { insecure })
    }),
    (event) => Effect.sync(() => options.onProgress?.(event))
  )
  const { name } = yield* vms.Create(request)
  if (!start) return name
  const up = Effect.gen(function* () {
    // One of a server has a keeper there, as one that is kept has here: both live on when this process just ends.
    const detached = options.server !== undefined || persistent
    yield* vms.Start({ name, detached })
    if (detached) return
    const { config: defaults } = yield* images.Inspect({ reference })
    if (mainCommand(defaults, config).length > 0) yield* runMain(vms, name, options)
  })
  yield* Effect.onError(up, () => Effect.ignore(vms.Remove({ name, force: true })))
  return name
})

/** Runs the main command in the background of this process, and answers when it runs. */
export const runMain = Effect.fnUntraced(function* (
  vms: Pick<VmSupervisor["Service"], "Finish" | "RunMain">,
  name: string,
  options: Pick<SandboxOptions, "endsWithCommand" | "openStdin" | "tty">
) {
  const started = yield* Deferred.make<void, ReachError | Unreachable>()
  const how = { tty: options.tty === true ? firstSize : null, stdin: options.openStdin === true }
  const seen = (event: ExecEvent) => {
    const ended = event._tag === "Exit" || event._tag === "Signaled"
    const finish =
      ended && options.endsWithCommand === true ? vms.Finish({ name, exitCode: exitCodeOf(event) }) : Effect.void
    return Effect.andThen(Deferred.succeed(started, undefined), finish)
  }
  const main = Stream.runForEach(vms.RunMain({ name, how }), seen).pipe(
    // However it ends: nobody waits for ever.
    Effect.onExit((exit) => Deferred.done(started, exit)),
    Effect.ignore
  )
  yield* Effect.forkDetach(main)
  yield* Deferred.await(started)
})
