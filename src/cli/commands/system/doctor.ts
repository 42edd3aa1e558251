/** `bunker doctor`. Decides nothing: sends its messages and prints what comes back. */
import { Effect } from "effect"
import { Command } from "effect/cli"
import { Session } from "../../context.ts"
import { diagnose, type Finding } from "../../doctor.ts"
import { ExitWith, print } from "../../terminal/output.ts"
import { jsonFlag } from "./common.ts"

const marks: Readonly<Record<Finding["state"], string>> = { ok: "ok  ", warning: "warn", broken: "FAIL" }

export const doctor = Command.make(
  "doctor",
  { json: jsonFlag },
  Effect.fn("Cli.doctor")(function* ({ json }) {
    const { settings, program } = yield* Session
    const findings = yield* diagnose(settings, program)
    if (json) yield* print(JSON.stringify(findings, null, 2))
    else {
      for (const { state, what, detail, fix } of findings) {
        yield* print(`${marks[state]}  ${what}: ${detail}${fix === undefined ? "" : `\n      fix: ${fix}`}`)
      }
    }
    if (findings.some((finding) => finding.state === "broken")) return yield* new ExitWith({ code: 1 })
  })
).pipe(
  Command.withDescription(
    "Check what sandboxes need: really boots a guest with each engine (remembered until the next boot of this machine), looks at libraries, disk space, the database. Prints a fix for each finding; ends with 1 when something is broken."
  ),
  Command.withShortDescription("Check this machine")
)
