/** The main command of an embedded sandbox: whoever makes the sandbox hears how its start went, whatever went wrong. */
import { expect, test } from "bun:test"
import { Effect, Exit, Stream } from "effect"
import { ExecFailed, GuestChannelFailed } from "../../src/domain/errors/vm.ts"
import { ExecEvent } from "../../src/domain/exec.ts"
import { runMain } from "../../src/sdk/boot.ts"

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
