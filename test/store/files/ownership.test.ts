/** Homes and files that others own or may write to are refused, as ssh refuses its own. */
import { describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Effect, Layer } from "effect"
import { SafeName } from "../../../src/domain/name.ts"
import { serverToken } from "../../../src/http/token.ts"
import { foreignConfig, loadConfig } from "../../../src/plugin/userConfig.ts"
import { loadMachine, saveMachine } from "../../../src/store/files/definitions.ts"
import { foreignDirectory, foreignFile } from "../../../src/store/files/ownership.ts"
import { Paths } from "../../../src/store/files/Paths.ts"
import { homeAt, temporaryDirectory } from "../../support/home.ts"
import { it } from "../../support/it.ts"
import { machine } from "../../support/machines.ts"

const asRoot = process.geteuid?.() === 0
/** A user, and a group, that are not ours. */
const other = 12_345

const openHome = (home: string) => Effect.scoped(Effect.asVoid(Layer.build(homeAt(home))))
const refusal = (home: string) => Effect.flip(openHome(home))

describe("a home directory", () => {
  it.live("that others may write to is refused, with what to do", () =>
    Effect.gen(function* () {
      const home = path.join(yield* temporaryDirectory, "home")
      yield* openHome(home)
      fs.chmodSync(home, 0o777)
      const error = yield* refusal(home)
      expect(error).toMatchObject({ _tag: "HomeUnusable" })
      expect(error.message).toContain(`others may write to ${home} (mode 0777); 'chmod go-w ${home}'`)
      fs.chmodSync(home, 0o755)
      yield* openHome(home)
    })
  )

  it.live("is refused for a directory in it, or above it, that others may write to", () =>
    Effect.gen(function* () {
      const above = path.join(yield* temporaryDirectory, "above")
      const home = path.join(above, "home")
      yield* openHome(home)
      for (const directory of [above, path.join(home, "sandboxes"), path.join(home, "cache/boot")]) {
        const { mode } = fs.statSync(directory)
        fs.chmodSync(directory, 0o707)
        expect((yield* refusal(home)).message).toContain(`others may write to ${directory} `)
        fs.chmodSync(directory, mode)
      }
      // As in /tmp, what is ours stays in its place.
      fs.chmodSync(above, 0o1777)
      yield* openHome(home)
    })
  )

  it.live("is judged by what a link leads to, and by where the link is", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const [real, link, open] = ["real", "link", "open"].map((name) => path.join(directory, name)) as [
        string,
        string,
        string
      ]
      yield* openHome(real)
      fs.symlinkSync(real, link)
      yield* openHome(link)
      fs.mkdirSync(open)
      fs.symlinkSync(real, path.join(open, "home"))
      fs.chmodSync(open, 0o777)
      expect(foreignDirectory(path.join(open, "home"))).toContain(open)
      fs.chmodSync(real, 0o722)
      expect((yield* refusal(link)).message).toContain(`others may write to ${real} `)
    })
  )

  it.live("of another user is refused", () =>
    Effect.gen(function* () {
      if (!asRoot) return
      const home = path.join(yield* temporaryDirectory, "home")
      yield* openHome(home)
      fs.chownSync(home, other, 0)
      expect((yield* refusal(home)).message).toContain(`${home} belongs to user ${other}, not to you`)
    })
  )
})

describe("a file of the home", () => {
  it.live("that others may write to is refused by what reads it", () =>
    Effect.gen(function* () {
      const home = path.join(yield* temporaryDirectory, "home")
      const name = SafeName.make("box")
      const { config, database, machineFile, paths, token } = yield* Effect.scoped(
        Effect.gen(function* () {
          const paths = yield* Paths
          yield* serverToken(paths.serverToken)
          yield* saveMachine(paths, machine(name))
          fs.writeFileSync(paths.userConfig, "export default { plugins: [] }\n")
          const { database, serverToken: token, userConfig: config } = paths
          return { paths, config, database, token, machineFile: paths.sandbox(name).machineFile }
        }).pipe(Effect.provide(homeAt(home)))
      )
      const readers: ReadonlyArray<readonly [string, Effect.Effect<unknown, { readonly message: string }>]> = [
        [database, openHome(home)],
        [token, serverToken(token).pipe(Effect.scoped)],
        [machineFile, loadMachine(paths, name)],
        [config, loadConfig(config)]
      ]
      for (const [file, read] of readers) {
        yield* read
        const changes = [() => fs.chmodSync(file, 0o666), ...(asRoot ? [() => fs.chownSync(file, other, 0)] : [])]
        for (const change of changes) {
          change()
          const { message } = yield* Effect.flip(read)
          expect(message).toContain(foreignFile(file)!)
          fs.chmodSync(file, 0o600)
        }
        if (asRoot) fs.chownSync(file, 0, 0)
        yield* read
      }
    })
  )

  it.live("that a group may write to is refused unless the group is the user's own", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryDirectory, "bunker.config.ts")
      fs.writeFileSync(file, "throw new Error('it ran')")
      fs.chmodSync(file, 0o664)
      expect(foreignConfig(file)).toBeUndefined()
      if (!asRoot) return
      fs.chownSync(file, 0, other)
      expect((yield* Effect.flip(loadConfig(file))).message).toContain("it would run with your rights")
    })
  )
})
