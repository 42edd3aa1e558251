/**
 * A process over a home that does one thing to its images and kills itself with SIGKILL at the step that BUNKER_TEST_FAILPOINT
 * names; without one it ends with 0. BUNKER_TEST_KEEP_ALL makes it keep what any download brings. usage: failpointChild HOME pull|load|remove|prune|sweep [REFERENCE or PATH]
 */
import { Effect, Layer } from "effect"
import { ImageStore } from "../../src/actors/images/ImageStore.ts"
import { Sweeper } from "../../src/actors/sandboxes/Sweeper.ts"
import { Failpoint } from "../../src/domain/failpoint.ts"
import { homeAt } from "./home.ts"
import { imageStoreOver, keepAll, loadAll, pullAll } from "./imageStore.ts"

const [home, action, what = ""] = process.argv.slice(2) as [string, string, string?]
const fatal = process.env["BUNKER_TEST_FAILPOINT"]

const actions: Readonly<Record<string, Effect.Effect<unknown, unknown, ImageStore | Sweeper>>> = {
  pull: pullAll({ reference: what, policy: "always" }),
  load: loadAll({ path: what }),
  remove: ImageStore.use((store) => store.Remove({ reference: what, force: false })),
  prune: ImageStore.use((store) => store.Prune({})),
  sweep: Sweeper.use((sweeper) => sweeper.Sweep({ force: true }))
}

const store = imageStoreOver(homeAt(home), [], {}, process.env["BUNKER_TEST_KEEP_ALL"] === undefined ? {} : keepAll)
await Effect.runPromise(
  actions[action]!.pipe(
    Effect.provide(Layer.provideMerge(Sweeper.layer(), store)),
    Effect.provideService(Failpoint, (step) => {
      if (step === fatal) process.kill(process.pid, "SIGKILL")
    })
  )
)
