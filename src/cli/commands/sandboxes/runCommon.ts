/** What the commands that boot sandboxes or run something in one share. */
import { Effect, Option } from "effect"
import { Argument } from "effect/cli"
import { ImageStore } from "../../../actors/images/ImageStore.ts"
import { VmSupervisor } from "../../../actors/sandboxes/VmSupervisor.ts"
import { parsePlatform } from "../../../domain/image/platform.ts"
import { Engines } from "../../../vm/engines/Engine.ts"
import { say } from "../../terminal/output.ts"
import { progressStyle, showProgress } from "../../terminal/progress.ts"
import type { GivenSecrets } from "../network/secretFlags.ts"

type NewSandbox = Parameters<VmSupervisor["Service"]["Check"]>[0]

export interface ImageChoice {
  readonly image: string
  readonly pull: "if-missing" | "always" | "never"
  readonly platform: Option.Option<string>
  readonly insecure: boolean
  readonly quiet: boolean
}

/** Makes the image be here; says nothing when it is. */
const ensureImage = Effect.fn("Cli.ensureImage")(function* (choice: ImageChoice) {
  const images = yield* ImageStore
  const platform = Option.isSome(choice.platform) ? yield* parsePlatform(choice.platform.value) : undefined
  const stream = images.Pull({
    reference: choice.image,
    policy: choice.pull,
    ...(platform === undefined ? {} : { platform }),
    insecure: choice.insecure
  })
  yield* showProgress(stream, progressStyle({ json: false, quiet: choice.quiet }))
})

/** The same for a sandbox, once all else about it is known to be right: a pull may be long, and what it brings stays. */
export const pullFor = (request: NewSandbox, choice: ImageChoice) =>
  Effect.andThen(
    VmSupervisor.use((vms) => vms.Check(request)),
    ensureImage(choice)
  )

/** Values of secrets that were given with the command line, as a request has them. */
export const valuesOf = ({ values }: GivenSecrets) => (Object.keys(values).length === 0 ? {} : { secretValues: values })

export const named = (name: Option.Option<string>) => (Option.isSome(name) ? { name: name.value } : {})

/** Longest reason on one line, in characters. */
const reasonMax = 200

let announced = false

/**
 * Says once what `auto` chose, and why when that was just found out: that there is no KVM with every command, for the user wonders why
 * it is slow.
 */
export const announceEngine = Effect.fnUntraced(function* (engine: string, quiet: boolean) {
  if (engine !== "auto" || quiet || announced) return
  announced = true
  const { engine: chosen, reason, fresh } = yield* (yield* Engines).auto
  const why = reason.split("\n", 1)[0]!.slice(0, reasonMax)
  if (chosen.kind === "krun") return yield* fresh ? say(`bunker: using KVM (krun): ${why}`) : Effect.void
  const more = fresh ? `: ${why}; 'bunker doctor' says more` : "; 'bunker doctor' says why"
  yield* say(`bunker: using software emulation (${chosen.kind}), since KVM boots no guest here${more}`)
})

export const names = Argument.String("name").pipe(Argument.withDescription("Sandbox"), Argument.atLeast(1))

/** Words of `exec` after which a value follows. */
export const execValuedFlags: ReadonlySet<string> = new Set(
  "--env -e --env-file --workdir -w --user -u --rlimit --timeout".split(" ")
)
