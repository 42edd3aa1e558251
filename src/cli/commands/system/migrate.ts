/** `migrate`: brings the database's schema up to date, or takes it back for an older build. Keeps every other start out meanwhile. */
import { Effect, Layer, Option } from "effect"
import { Command, Flag } from "effect/cli"
import { installLeaseMs, LeaseManager } from "../../../actors/leases/LeaseManager.ts"
import { InvalidSpec } from "../../../domain/errors/vm.ts"
import { Database } from "../../../store/database/Database.ts"
import { builtIn } from "../../../store/database/migrations.ts"
import { Paths } from "../../../store/files/Paths.ts"
import { Session } from "../../context.ts"
import { print } from "../../terminal/output.ts"

const newest = builtIn.at(-1)?.version ?? 0

export const migrate = Command.make(
  "migrate",
  {
    down: Flag.Int("down").pipe(
      Flag.withDescription(
        "Undo migrations until this schema is left, 0 for none; the next start of this build undoes that"
      ),
      Flag.optional
    ),
    force: Flag.Boolean("force").pipe(
      Flag.withAlias("f"),
      Flag.withDescription("With --down: also under sandboxes that are not stopped"),
      Flag.withDefault(false)
    )
  },
  Effect.fn("Cli.migrate")(function* ({ down, force }) {
    const { settings } = yield* Session
    const body = Effect.gen(function* () {
      const db = yield* Database
      // Opening has brought it up to date.
      if (Option.isNone(down)) return yield* print(`schema ${db.schemaVersion}`)
      if (down.value < 0 || down.value > newest) {
        return yield* new InvalidSpec({
          field: "--down",
          reason: `${down.value} is not a schema of this build; choose 0 to ${newest}`
        })
      }
      const leases = yield* LeaseManager
      const left = yield* Effect.acquireUseRelease(
        leases.InstallAcquire({ durationMs: installLeaseMs }),
        () => db.migrateDown(down.value, force),
        // Its table may have gone with the schema.
        (lease) => Effect.ignore(leases.InstallClear({ lease }))
      )
      yield* print(`schema ${left}`)
    })
    const home = Database.layer(builtIn).pipe(Layer.provideMerge(Paths.layer(settings.home)))
    return yield* body.pipe(Effect.provide(Layer.provideMerge(LeaseManager.layer, home)))
  })
).pipe(
  Command.withDescription(
    "Bring the schema of the database up to date and print it; with --down take it back, for an older build of bunker. Every other start is refused meanwhile."
  ),
  Command.withShortDescription("Migrate the database")
)
