/** What the program answers before any sandbox is there: help, wrong words, homes that can not be used, outputs that are gone. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { closeSync, existsSync, mkdirSync, openSync, writeFileSync } from "node:fs"
import path from "node:path"
import { separateGuestCommand, separateShortValues } from "../../src/cli/arguments.ts"
import { Home, program } from "../support/bunker.ts"

describe("the guest's part of a command line", () => {
  const valued = new Set(["--name", "-e"])
  const split = (...argv: ReadonlyArray<string>) => separateGuestCommand(argv, valued).join(" ")
  test("begins after the first word that is no flag and no flag's value", () => {
    expect(split("alpine", "ls", "-la")).toBe("alpine -- ls -la")
    expect(split("-it", "--name", "a", "alpine", "sh", "-c", "x")).toBe("-it --name a alpine -- sh -c x")
    expect(split("--name=a", "alpine", "ls")).toBe("--name=a alpine -- ls")
    expect(split("-ie", "K=v", "alpine", "ls")).toBe("-ie K=v alpine -- ls")
    expect(split("alpine", "--", "ls")).toBe("alpine -- ls")
    expect(split("alpine")).toBe("alpine")
    expect(split("--name", "alpine")).toBe("--name alpine")
    expect(split()).toBe("")
  })
})

describe("values of short flags", () => {
  const valued = new Set(["-e", "-p", "--name"])
  const split = (...argv: ReadonlyArray<string>) => separateShortValues(argv, valued).join(" ")
  test("may be written to their flag, up to the first word that is no flag", () => {
    expect(split("-eA=1", "x", "-eB=2")).toBe("-e A=1 x -eB=2")
    expect(split("-itp80:80", "x")).toBe("-itp 80:80 x")
    expect(split("-e=A=1", "-it", "x")).toBe("-e=A=1 -it x")
    expect(split("-e", "-p9", "--name", "-p9", "x")).toBe("-e -p9 --name -p9 x")
    expect(split("-ie", "-p9", "x")).toBe("-ie -p9 x")
    expect(split("--", "-p9")).toBe("-- -p9")
    expect(split("-e")).toBe("-e")
  })
})

const suite = existsSync(program) ? describe : describe.skip
if (suite === describe.skip) console.warn("skipped: the command line; missing: dist/bunker ('bun run build' makes it)")

suite("bunker", () => {
  let home: Home
  beforeAll(() => {
    home = new Home()
  })
  afterAll(() => home.dispose())

  const refused = async (args: ReadonlyArray<string>, env: Record<string, string>, ...words: ReadonlyArray<string>) => {
    const { code, stdout, stderr } = await home.bunker(args, { env })
    expect({ args, code, stdout, lines: stderr.trim().split("\n").length }).toEqual({
      args,
      code: 125,
      stdout: "",
      lines: 1
    })
    for (const word of words) expect(stderr).toContain(word)
    expect(stderr).not.toMatch(/\n\s+at /)
  }

  test("every command has a help with a description", async () => {
    const { stdout } = await home.bunker(["--help"])
    const names = [...stdout.slice(stdout.indexOf("SUBCOMMANDS")).matchAll(/^ {2}([a-z]+) /gm)].map(
      (match) => match[1]!
    )
    expect(names).toContain("run")
    for (const name of names) {
      const help = await home.bunker([name, "--help"])
      expect({ name, code: help.code, stderr: help.stderr }).toEqual({ name, code: 0, stderr: "" })
      expect(help.stdout).toMatch(/^DESCRIPTION\n {2}[A-Z]/)
    }
    expect((await home.bunker(["help", "run"])).stdout).toBe((await home.bunker(["run", "--help"])).stdout)
  }, 30_000)

  test("completions are scripts that the shell understands", async () => {
    for (const shell of ["bash", "zsh", "fish"]) {
      const script = await home.must(["completion", shell])
      for (const word of ["unpause", "image", "idle-timeout", "mkdir"]) expect(script).toContain(word)
      if (Bun.which(shell) === null) continue
      const check = Bun.spawnSync([shell, "-n"], { stdin: Buffer.from(script) })
      expect({ shell, code: check.exitCode, said: check.stderr.toString() }).toEqual({ shell, code: 0, said: "" })
    }
    await refused(["completion", "tcsh"], {}, "shell")
    await refused(["completion"], {}, "shell")
  }, 30_000)

  test("version in each spelling is the same line", async () => {
    for (const word of ["--version", "-V", "-v", "version"]) {
      expect(await home.bunker([word])).toEqual({ code: 0, stdout: "0.1.0\n", stderr: "" })
    }
  })

  test("wrong words are one line that says what and names the help", async () => {
    await refused(["rn", "x"], {}, 'no command "rn"', "run", "bunker --help")
    await refused(["run", "--nme", "x", "y"], {}, "--nme", "--name", "bunker run --help")
    await refused(["run"], {}, "image", "bunker run --help")
    await refused(["stop"], {}, "name")
    await refused(["image", "rn"], {}, "image rn")
    await refused(["run", "--cpus", "0", "x"], {}, "--cpus", "64")
    await refused(["run", "--memory", "1m", "x"], {}, "--memory", "64")
    await refused(["create", "--label", "__proto__=x", "x"], {}, "--label", "__proto__")
    await refused(["run", "-d", "--timeout", "1s", "x"], {}, "--timeout")
    await refused(["run", "x"], { BUNKER_ENGINE: "vmware" }, "BUNKER_ENGINE", "krun")
    await refused(["logs", "--since", "yesterday", "x"], {}, "--since", "1h30m")
    await refused(["exec", "nobody", "true"], {}, "nobody", "bunker ps")
  }, 30_000)

  test("help and version are no way around a word that there is none of", async () => {
    for (const args of [
      ["nosuch", "--help"],
      ["help", "nosuch"],
      ["image", "nosuch", "--help"],
      ["help", "image", "nosuch"],
      ["rm", "--nope", "--help"],
      ["ps", "-hx"],
      ["ps", "-v"],
      ["-v", "nosuch"],
      ["session", "nosuch", "--version"],
      ["exec", "-v", "box", "ls"],
      ["version", "nosuch"]
    ]) {
      await refused(args, {}, "there is no")
    }
    const help = await home.must(["rm", "--help"])
    for (const args of [
      ["help", "rm"],
      ["rm", "-h"],
      ["rm", "x", "--help"]
    ])
      expect(await home.must(args)).toBe(help)
  }, 30_000)

  test("a short flag means in each command what it means there, and nothing else", async () => {
    expect(await home.bunker(["rm", "-v", "x"])).toEqual({
      code: 125,
      stdout: "",
      stderr: `bunker: no sandbox "x"; see 'bunker ps -a'\n`
    })
    await refused(["create", "-h", "a host", "x"], {}, "--hostname")
    await refused(["run", "-h", "name"], {}, "image")
    expect(await home.must(["run", "-h"])).toBe(await home.must(["run", "--help"]))
  })

  test("what other tools call by another name, or have and we have not, is said with what to type", async () => {
    await refused(["rmi", "x"], {}, "bunker image rm")
    await refused(["image", "rmi", "x"], {}, "bunker image rm")
    await refused(["build", "."], {}, "later", "bunker load")
    await refused(["compose", "up"], {}, "later", "bunker run -d")
    await refused(["container", "ls"], {}, "bunker ps")
    await refused(["network", "ls"], {}, "-p")
    expect((await home.bunker(["nosuch"])).stderr).toBe(`bunker: there is no command "nosuch"; see 'bunker --help'\n`)
    expect((await home.bunker(["ps", "-x"])).stderr).toBe(`bunker: there is no flag -x; see 'bunker ps --help'\n`)
  }, 30_000)

  test("words of habit do what ours do", async () => {
    const root = path.join(home.directory, "root")
    mkdirSync(root)
    await home.must(["import", "-q", "-c", 'CMD ["/x"]', root, "habit:1"])
    for (const [habit, ours] of [
      [
        ["image", "ls", "-q"],
        ["images", "-q"]
      ],
      [
        ["system", "df", "--json"],
        ["df", "--json"]
      ],
      [
        ["system", "prune", "--help"],
        ["prune", "--help"]
      ],
      [["stats", "--no-stream"], ["stats"]]
    ] as const)
      expect(await home.must(habit)).toBe(await home.must(ours))
    await home.must([
      "create",
      "-eA=1",
      "-eB=2",
      "--pull",
      "missing",
      "--restart=unless-stopped",
      "--name",
      "habit",
      "habit:1"
    ])
    const [box, image] = JSON.parse(await home.must(["inspect", "habit", "habit:1"]))
    expect(box.config).toMatchObject({ env: ["A=1", "B=2"], restart: { policy: "always" } })
    expect(image.image.reference).toContain("habit:1")
    await refused(["kill", "-s", "NOPE", "habit"], {}, "--signal", "TERM")
    await refused(["kill", "-sTERM", "habit"], {}, "habit", "bunker start")
    await refused(["tag", "a", "b"], {}, "bunker load -t")
    await refused(["run", "--privileged", "x"], {}, "own kernel")
    await refused(["ps", "--format", "json"], {}, "--json")
    await home.must(["rm", "habit"])
  }, 60_000)

  test("--debug is ours anywhere before the guest's command, and adds the cause", async () => {
    for (const args of [
      ["--debug", "inspect", "x"],
      ["stop", "x", "--debug"],
      ["exec", "--debug", "x", "true"]
    ]) {
      expect((await home.bunker(args)).stderr).toContain('no sandbox "x"')
    }
    expect((await home.bunker(["--debug", "exec", "x", "true"])).stderr.split("\n").length).toBeGreaterThan(2)
    expect((await home.bunker(["exec", "x", "true", "--debug"])).stderr.trim().split("\n")).toHaveLength(1)
  })

  test("a home that can not be used is one line that names it", async () => {
    const file = path.join(home.directory, "file")
    writeFileSync(file, "")
    await refused(["ps"], { BUNKER_HOME: file }, file, "BUNKER_HOME")
    await refused(["ps"], { BUNKER_HOME: "/dev/null/x" }, "/dev/null/x")
    await refused(["ps"], { BUNKER_HOME: `/tmp/${"x".repeat(120)}` }, "too long")
    await refused(["ps"], { BUNKER_HOME: "/proc/nope" }, "/proc/nope")
  })

  test("a relative home with a space is taken", async () => {
    const child = Bun.spawn([program, "ps", "-q"], {
      cwd: home.directory,
      env: home.environment({ BUNKER_HOME: "a home" }),
      stdout: "pipe"
    })
    expect(await child.exited).toBe(0)
    expect(existsSync(path.join(home.directory, "a home", "bunker.db"))).toBe(true)
  })

  test("nothing of the directory that it is started in is run or believed", async () => {
    const directory = path.join(home.directory, "strange")
    mkdirSync(directory)
    const write = (name: string, text: string) => writeFileSync(path.join(directory, name), text)
    const touch = (name: string) => `require("fs").writeFileSync(${JSON.stringify(path.join(directory, name))}, "")`
    write("preload.js", touch("ran"))
    write("bunfig.toml", 'preload = ["./preload.js"]\n')
    write(".env", `BUNKER_HOME=${path.join(directory, "believed")}\n`)
    write("package.json", '{ "imports": { "#x": "./preload.js" } }')
    const child = Bun.spawn([program, "ps", "-q"], { cwd: directory, env: home.environment({}), stderr: "pipe" })
    expect({ code: await child.exited, stderr: await new Response(child.stderr).text() }).toEqual({
      code: 0,
      stderr: ""
    })
    expect(existsSync(path.join(directory, "ran"))).toBe(false)
    // Without a home of its own, or .env would have no say anyway.
    const env: Record<string, string> = home.environment({ HOME: path.join(directory, "own") })
    delete env["BUNKER_HOME"]
    expect(await Bun.spawn([program, "ps", "-q"], { cwd: directory, env }).exited).toBe(0)
    expect(existsSync(path.join(directory, "believed"))).toBe(false)
    expect(existsSync(path.join(directory, "own/.bunker/bunker.db"))).toBe(true)
  })

  test("odd arguments arrive as they are", async () => {
    const { code, stderr } = await home.bunker(["inspect", "a b", "", "ä\n"])
    expect(code).toBe(125)
    expect(stderr.split("\n")[0]).toStartWith('bunker: "a b" is not a name')
    expect(stderr.split("\n")[1]).toStartWith('bunker: "" is not a name')
    expect(stderr.split("\n")[2]).toStartWith('bunker: "ä " is not a name')
  })

  test("a database that is none is one line, and doctor tells what to do", async () => {
    const directory = path.join(home.directory, "spoilt")
    mkdirSync(directory)
    writeFileSync(
      path.join(directory, "bunker.db"),
      "this is no database, and it is long enough to be looked at".repeat(99)
    )
    await refused(["ps"], { BUNKER_HOME: directory }, "bunker doctor")
    const env = { BUNKER_HOME: directory, BUNKER_QEMU: "/nonexistent", BUNKER_LIBKRUN: "/nonexistent" }
    const { code, stdout } = await home.bunker(["doctor", "--json"], { env })
    expect(code).toBe(1)
    const findings = JSON.parse(stdout) as ReadonlyArray<{ what: string; state: string; fix?: string }>
    expect(findings.find(({ what }) => what === "database")).toMatchObject({
      state: "broken",
      fix: expect.stringContaining("bunker.db")
    })
    expect(findings.filter(({ what }) => what.startsWith("engine")).map(({ state }) => state)).toEqual([
      "broken",
      "broken"
    ])
  }, 30_000)

  test("a fresh home can be opened by several at once", async () => {
    const directory = path.join(home.directory, "fresh")
    const commands = [["ps"], ["images"], ["df"], ["ps", "-a"]]
    const all = await Promise.all(commands.map((args) => home.bunker(args, { env: { BUNKER_HOME: directory } })))
    expect(all.map(({ code, stderr }) => ({ code, stderr }))).toEqual(commands.map(() => ({ code: 0, stderr: "" })))
  })

  test("one wrong name among several is its own line, and the others get their turn", async () => {
    for (const command of ["stop", "kill", "rm", "wait", "start", "inspect"]) {
      const { code, stderr } = await home.bunker([command, "no-one", "no-two"])
      expect({ command, code }).toEqual({ command, code: 125 })
      expect(stderr.trim().split("\n").toSorted()).toEqual([
        `bunker: no sandbox "no-one"; see 'bunker ps -a'`,
        `bunker: no sandbox "no-two"; see 'bunker ps -a'`
      ])
    }
  }, 30_000)

  test("a full disk behind stdout is said, a reader that has gone is not", async () => {
    const full = openSync("/dev/full", "w")
    const child = Bun.spawn([program, "ps"], { env: home.environment(), stdout: full, stderr: "pipe" })
    closeSync(full)
    expect(await new Response(child.stderr).text()).toBe(
      "bunker: the output can not be written: no space left on its disk\n"
    )
    expect(await child.exited).toBe(125)
    const piped = Bun.spawn(["sh", "-c", `"${program}" ps | true; "${program}" ps >&-; exit 0`], {
      env: home.environment(),
      stdout: "ignore",
      stderr: "pipe"
    })
    expect(await new Response(piped.stderr).text()).toBe("")
  })
})
