/** `bunker completion`: what shells offer for sandboxes, images, files and the values of flags. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs"
import path from "node:path"
import { valuesFor } from "../../src/cli/completion/values.ts"
import { type Home, program } from "../support/bunker.ts"
import { busyboxHome } from "../support/busyboxImage.ts"
import { mustSkip } from "../support/requirements.ts"

setDefaultTimeout(60_000)

test("a word is what its command and the flag before it say", () => {
  for (const [before, kind] of [
    ["stop", "sandboxes"],
    ["stop a", "sandboxes"],
    ["stop -t", "none"],
    ["stop -t 5", "sandboxes"],
    ["exec -t", "sandboxes"],
    ["exec -it", "sandboxes"],
    ["exec box", "none"],
    ["run -it --rm", "images"],
    ["run --pull", "words"],
    ["run --name x", "images"],
    ["run --env-file", "files"],
    ["run image", "none"],
    ["image rm", "images"],
    ["session show", "sessions"],
    ["session show one", "none"],
    ["session import", "files"],
    ["model rm", "models"],
    ["cp", "sandboxPaths"],
    ["cp a:/x", "sandboxPaths"],
    ["load", "files"],
    ["ps", undefined],
    ["", undefined],
    ["nosuch", undefined]
  ] as const) {
    expect([before, valuesFor(before.split(" "))?.kind]).toEqual([before, kind])
  }
})

describe.skipIf(mustSkip("completion in shells"))("in a shell", () => {
  let home: Home
  let directory: string
  beforeAll(async () => {
    home = await busyboxHome()
    for (const name of ["web", "worker", "db"]) await home.must(["create", "--name", name, "test/busybox:1"])
    await home.must(["session", "create", "notes"])
    directory = path.join(home.directory, "bin")
    mkdirSync(directory)
    symlinkSync(program, path.join(directory, "bunker"))
    for (const shell of ["bash", "zsh", "fish"]) {
      writeFileSync(path.join(directory, shell), await home.must(["completion", shell]))
    }
    writeFileSync(path.join(directory, "archive.tar"), "")
  })
  afterAll(() => home.dispose())

  const ran = (command: ReadonlyArray<string>) => {
    const env = home.environment({ PATH: `${directory}:${process.env["PATH"]}` })
    const done = Bun.spawnSync([...command], { env, cwd: directory })
    return {
      said: done.stdout
        .toString()
        .split("\n")
        .filter((line) => line !== ""),
      errors: done.stderr.toString()
    }
  }

  test.skipIf(Bun.which("bash") === null)("bash", () => {
    const offered = (line: string) => {
      const script = `source ./bash; COMP_LINE=$1; COMP_POINT=\${#1}; COMP_TYPE=9; read -ra COMP_WORDS <<< "\${1//:/ : }"
        [[ $1 == *[[:space:]] ]] && COMP_WORDS+=(""); COMP_CWORD=$((\${#COMP_WORDS[@]} - 1))
        compopt() { :; }; _bunker_values bunker "\${COMP_WORDS[-1]}"; printf '%s\\n' "\${COMPREPLY[@]}"`
      return ran(["bash", "-c", script, "bash", line]).said
    }
    expect(offered("bunker stop w").toSorted()).toEqual(["web", "worker"])
    expect(offered("bunker stop -t 5 d")).toEqual(["db"])
    expect(offered("bunker run test/busy")).toEqual(["test/busybox:1"])
    expect(offered("bunker run test/busybox:")).toEqual(["1"])
    expect(offered("bunker run --pull n")).toEqual(["never"])
    expect(offered("bunker session show n")).toEqual(["notes"])
    expect(offered("bunker cp we")).toEqual(["web:"])
    expect(offered("bunker st")).toEqual(expect.arrayContaining(["start", "stop"]))
    expect(offered("bunker stop --t")).toEqual(expect.arrayContaining(["--time"]))
    expect(offered("bunker load ")).toEqual([])
  })

  test.skipIf(Bun.which("fish") === null)("fish", () => {
    const offered = (line: string) =>
      ran(["fish", "-c", `source ./fish; complete -C '${line}'`]).said.map((each) => each.split("\t")[0])
    expect(offered("bunker stop w").toSorted()).toEqual(["web", "worker"])
    expect(offered("bunker run test/busy")).toEqual(["test/busybox:1"])
    expect(offered("bunker run --pull n")).toContain("never")
  })

  test.skipIf(Bun.which("zsh") === null)("zsh reads the script, and asks for values", () => {
    const script = `compdef() { :; }; compadd() { print -l -- $values }; source ./zsh
      words=(bunker stop w) CURRENT=3 PREFIX=w; _bunker_values; words=(bunker run --pull n) CURRENT=4 PREFIX=n; _bunker_values`
    const { errors, said } = ran(["zsh", "-f", "-c", script])
    expect([errors, said.toSorted()]).toEqual(["", ["never", "web", "worker"]])
  })
})
