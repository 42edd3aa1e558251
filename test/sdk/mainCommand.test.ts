/** The start of a sandbox of a program: whoever makes it hears how it and its main command went, and what went wrong leaves nothing. */
import { expect, test } from "bun:test"
import { Effect, Exit, Stream } from "effect"
import { ImageStore } from "../../src/actors/images/ImageStore.ts"
import { VmSupervisor } from "../../src/actors/sandboxes/VmSupervisor.ts"
import { BootFailed, ExecFailed, GuestChannelFailed } from "../../src/domain/errors/vm.ts"
import { ExecEvent } from "../../src/domain/sandbox/exec.ts"
import { makeSandbox, runMain } from "../../src/sdk/boot.ts"

const started = ExecEvent.cases.Started.make({ exec: 0, pid: 7 })

const begin = (stream: Stream.Stream<ExecEvent, ExecFailed | GuestChannelFailed>) =>
  Effect.runPromiseExit(runMain({ RunMain: (() => stream) as never, Finish: (() => Effect.void) as never }, "box", {}))

test("it is there once it runs, or has ended", async () => {
  expect(Exit.isSuccess(await begin(Stream.concat(Stream.succeed(started), Stream.never)))).toBe(true)
  expect(Exit.isSuccess(await begin(Stream.empty))).toBe(true)
})

test("every way in which it does not start is told", async () => {
  for (const error of [
    new ExecFailed({ reason: "not_found", detail: "true" }),
    new GuestChannelFailed({ reason: "the VM has ended" })
  ]) {
    expect(await begin(Stream.fail(error))).toEqual(Exit.fail(error))
  }
})

test("of one that does not start nothing is left, persistent or not", async () => {
  const failed = new BootFailed({ sandbox: "box", reason: "no kernel", console: "" })
  for (const persistent of [true, false]) {
    const asked: Array<unknown> = []
    const vms = {
      Check: () => Effect.void,
      Create: (request: { readonly ephemeral: boolean }) => {
        asked.push({ ephemeral: request.ephemeral })
        return Effect.succeed({ name: "box" })
      },
      Start: (request: object) =>
        Effect.andThen(
          Effect.sync(() => void asked.push(request)),
          Effect.fail(failed)
        ),
      Remove: (request: object) => Effect.sync(() => void asked.push(request))
    }
    const made = makeSandbox({ image: "x", persistent }).pipe(
      Effect.provideService(VmSupervisor, vms as never),
      Effect.provideService(ImageStore, { Pull: () => Stream.empty } as never)
    )
    expect(await Effect.runPromise(Effect.flip(made))).toBe(failed)
    expect(asked).toEqual([
      { ephemeral: !persistent },
      { name: "box", detached: persistent },
      { name: "box", force: true }
    ])
  }
})
