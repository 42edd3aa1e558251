/** Every error says what to do next. */
import { expect, test } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { Schema } from "effect"
import { type FrontEnd, inTermsOf, parted, saidBy } from "../../src/domain/errors/terms.ts"
import * as Errors from "../../src/domain/errors.ts"

/** A field of any error, plain enough to say by itself nothing of what to do. */
const fields = {
  looked: ["/lib"],
  names: ["one"],
  sandboxes: ["one"],
  available: ["linux/amd64"],
  console: ["a line"],
  ephemeral: true,
  lineNumber: 1,
  neededBytes: 7,
  bytes: 7,
  bytesMax: 7,
  deadline: 7,
  line: 7,
  status: "stopped",
  port: 7,
  attempts: 7,
  again: "pull",
  what: "node",
  field: "nodes",
  found: 7,
  known: 7,
  actual: "a",
  expected: "b",
  issues: [{ path: "name", message: "is too long" }],
  // Whoever makes the error writes it.
  advice: "see 'bunker ps'"
} as const

/** Values of a field with few of them; every one has its own words. */
const variants: Readonly<Record<string, ReadonlyArray<Readonly<Record<string, unknown>>>>> = {
  OutputTooLarge: [{ advice: "read it as it comes" }],
  AlreadyRunning: [{ starting: true }, {}],
  BootFailed: [{ console: "" }, { console: "a line\n" }],
  SandboxCrashed: [{}, { ephemeral: false }, { console: [] }],
  ExecFailed: ["not_found", "not_executable", "bad_cwd", "bad_user", "limit", "failed"].map((reason) => ({ reason })),
  FileFailed:
    "exists not_empty not_directory is_directory permission read_only no_space loop special limit bad_stream bad_user failed"
      .split(" ")
      .map((reason) => ({ reason })),
  ReattachRefused: [{ reason: "failed" }],
  InvalidGraph: ["duplicate", "unknown_parent", "cycle", "too_large", "too_deep"].map((reason) => ({ reason })),
  StoreFailed: ["EACCES", "EROFS", "EIO", "EMFILE", "it is broken"].map((reason) => ({ reason })),
  RegistryAuth: [{ status: 401 }, { status: 401, repository: "" }],
  ServerRefused: [{ status: 404 }],
  HeadConflict: [{ actual: 7, expected: 8 }],
  ImageNotSavable: [{}, { again: "remove" }],
  ImageNotFound: [{}, { host: undefined }]
}

/** Their reasons are written by whoever finds the fault, next to what would be right. */
const byReason = new Set(["InvalidSpec", "InvalidInput"])

const imperative =
  /'bunker [a-z]|\b(see|use|set|put|give|choose|check|pull|run|stop|remove|start|allow|add|write|try|mend|free|install|get|load|cut|send|ask|change|rename|break|reach|export|leave|pass|commit|restore|append|wait|makes it larger|have it built|must say|must have|needs an id|read it)\b/

interface ErrorClass {
  readonly prototype: object
  readonly fields: Readonly<Record<string, unknown>>
}
const classes = Object.entries(Errors) as ReadonlyArray<readonly [string, unknown]> as ReadonlyArray<
  readonly [string, ErrorClass]
>

/** Its message with such fields, whatever its schema says of them. */
const messageOf = (error: ErrorClass, own: Readonly<Record<string, unknown>>): string => {
  const given: Record<string, unknown> = { ...fields, ...own }
  const all = Object.keys(error.fields).map((name) => [name, name in given ? given[name] : "because"])
  return Object.assign(Object.create(error.prototype), Object.fromEntries(all)).message
}

test("every message ends with a next step", () => {
  expect(classes.length).toBeGreaterThan(60)
  const mute: Array<string> = []
  for (const [name, error] of classes) {
    if (byReason.has(name)) continue
    for (const own of variants[name] ?? [{}]) {
      const message = messageOf(error, own)
      // What comes after what happened.
      const said = message.slice(Math.max(message.indexOf("; "), message.indexOf(": use "), 0))
      if (!imperative.test(said)) mute.push(`${name}: ${message}`)
    }
  }
  expect(mute).toEqual([])
})

test("a reason that says what to do is not followed by more advice", () => {
  const { message } = new Errors.MountRefused({ source: "/a", reason: "it can not; run as root" })
  expect(message).toBe("can not mount /a: it can not; run as root")
  expect(new Errors.MountRefused({ source: "/a", reason: "EACCES" }).message).toBe(
    "can not mount /a: EACCES; give another path of this machine, or put that right"
  )
})

const samples = classes.flatMap(([name, error]) =>
  (variants[name] ?? [{}]).map((own) => ({ name, message: messageOf(error, own) }))
)

/** A command of the CLI that has a counterpart elsewhere, or a flag. */
const ofTheCli = /'bunker (?!doctor|serve)|(?<=^|[\s(])--?[a-z](?![a-z]*: )/

for (const frontEnd of ["program", "http"] as const satisfies ReadonlyArray<FrontEnd>) {
  test(`no suggestion to ${frontEnd} is a command or a flag of the CLI`, () => {
    const wrong = samples
      .map(({ name, message }) => `${name}: ${parted(saidBy(frontEnd, message))[1]}`)
      .filter((text) => ofTheCli.test(text.replace("ulimit -n", "")))
    expect(wrong).toEqual([])
  })

  test(`every command that a message names is known to ${frontEnd}`, () => {
    const root = path.join(import.meta.dir, "../../src")
    const unknown = [...new Bun.Glob("{domain,actors,vm,oci,models,store,net,plugin}/**/*.ts").scanSync(root)]
      .filter((file) => !file.endsWith("errors/terms.ts"))
      .flatMap((file) =>
        (fs.readFileSync(path.join(root, file), "utf8").match(/'bunker [^'`"]*'/g) ?? [])
          .map((command) => command.replace(/\$\{[^}]*\}/g, "NAME"))
          .filter((command) => !/^'bunker (doctor|serve)/.test(command) && inTermsOf(frontEnd, command) === command)
          .map((command) => `${file}: ${command}`)
      )
    expect(unknown).toEqual([])
  })
}

test("a suggestion is in the words of its reader", () => {
  const message = `a sandbox "box" exists; choose another --name, or 'bunker rm box' first`
  expect(saidBy("cli", message)).toBe(message)
  expect(saidBy("program", message)).toBe('a sandbox "box" exists; choose another name, or Sandbox.remove("box") first')
  expect(saidBy("http", message)).toBe('a sandbox "box" exists; choose another name, or DELETE /v1/sandboxes/box first')
  // Before the suggestion stand the words of others.
  expect(saidBy("program", "the guest says 'bunker rm -f x' --name; check it")).toContain("'bunker rm -f x' --name")
})

test("an error is what its class is called, and its JSON says what it says", () => {
  for (const [name, error] of classes) {
    const given = Object.keys(error.fields).filter((field) =>
      ["name", "message", "stack", "cause", "line", "column"].includes(field)
    )
    expect({ name, given }).toEqual({ name, given: [] })
  }
  const error = new Errors.AlreadyExists({ sandbox: "box" })
  expect(error).toBeInstanceOf(Error)
  expect([error.name, error.tag, error._tag]).toEqual(["AlreadyExists", "AlreadyExists", "AlreadyExists"])
  expect(error.suggestion).toBe('choose another name, or Sandbox.remove("box") first')
  expect(error.docs).toBe("docs/errors.md#alreadyexists")
  expect(JSON.parse(JSON.stringify(error))).toEqual({
    _tag: "AlreadyExists",
    sandbox: "box",
    message: error.message,
    suggestion: error.suggestion
  })
  expect(Schema.encodeUnknownSync(Errors.AlreadyExists)(error)).toEqual({ _tag: "AlreadyExists", sandbox: "box" })
})

test("a name is quoted without the reason that the guest adds to it", () => {
  const said = (reason: "bad_cwd" | "not_found" | "not_executable" | "bad_user", detail: string) =>
    new Errors.ExecFailed({ reason, detail }).message
  expect(said("bad_cwd", "/x: y: No such file or directory")).toContain(
    'directory "/x: y" (No such file or directory);'
  )
  expect(said("not_executable", "/x: Permission denied")).toContain('"/x" (Permission denied) can not')
  expect(said("not_found", "/x: its interpreter is missing")).toContain('command "/x" (its interpreter is missing);')
  expect(said("not_found", "a: b")).toContain('no command "a: b";')
  expect(said("bad_user", "ann")).toContain('no user "ann";')
})
