/**
 * Renders what an error tells its reader to do next in the words of the front end that says it. Errors name operations as commands
 * of the CLI (`'bunker rm box'`, `--name`); a program is told of the SDK's methods and options, a client of HTTP of routes and
 * fields. Pure: knows no error.
 *
 * Invariant: only the last part of a message, after its last semicolon, is rendered: what comes before may quote a guest, a registry
 * or a file, whose words stay as they are.
 */

/** Who reads: a person at a terminal, a program that embeds Bunker, a client of the HTTP API. */
export type FrontEnd = "cli" | "program" | "http"

type Words = readonly [program: string, http: string]

/** `(word "…")`, or nothing without one. */
const argument = (word: string | undefined): string => (word === undefined ? "" : JSON.stringify(word))

const sandboxRoute = (name = "NAME", rest = ""): string => `/v1/sandboxes/${name}${rest}`

/** What each command of the CLI is elsewhere, by its first words; `words` are those that follow. */
const commands: Readonly<Record<string, (words: ReadonlyArray<string>) => Words>> = {
  ps: () => ["Sandbox.list()", "GET /v1/sandboxes"],
  rm: (words) => {
    const name = words.find((word) => !word.startsWith("-"))
    const force = words.includes("-f")
    return [
      `Sandbox.remove(${argument(name)}${force ? ", { force: true }" : ""})`,
      `DELETE ${sandboxRoute(name)}${force ? "?force=true" : ""}`
    ]
  },
  exec: ([name, first]) =>
    first === "ls"
      ? ["files.list()", `GET ${sandboxRoute(name, "/files/list")}`]
      : ["exec()", `POST ${sandboxRoute(name, "/exec")}`],
  shell: () => ["spawn() with tty", `POST ${sandboxRoute("NAME", "/exec")}`],
  attach: ([name]) => ["attach()", `GET ${sandboxRoute(name, "/attach")}`],
  logs: (words) => {
    const name = words.find((word) => !word.startsWith("-"))
    return words.includes("--console")
      ? ['logs({ source: "console" })', `GET ${sandboxRoute(name, "/logs?source=console")}`]
      : ["logs()", `GET ${sandboxRoute(name, "/logs")}`]
  },
  inspect: ([name]) => ["info()", `GET ${sandboxRoute(name)}`],
  start: ([name]) => ["start()", `POST ${sandboxRoute(name, "/start")}`],
  stop: ([name]) => ["stop()", `POST ${sandboxRoute(name, "/stop")}`],
  restart: ([name]) => ["restart()", `POST ${sandboxRoute(name, "/restart")}`],
  kill: ([name]) => ["kill()", `POST ${sandboxRoute(name, "/kill")}`],
  unpause: ([name]) => ["unpause()", `POST ${sandboxRoute(name, "/unpause")}`],
  create: () => ["Sandbox.create({ persistent: true })", "POST /v1/sandboxes"],
  cp: () => ["files.copyIn() and files.copyOut()", `PUT and GET ${sandboxRoute("NAME", "/tree")}`],
  images: () => ["Images.list()", "GET /v1/images"],
  pull: ([reference]) => [`Images.pull(${argument(reference)})`, "POST /v1/images/pull"],
  load: () => ["Images.load()", "POST /v1/images/load"],
  login: () => ["Images.login()", "POST /v1/registries/login"],
  "image rm": ([reference]) => [
    `Images.remove(${argument(reference)})`,
    `DELETE /v1/images/${reference ?? "REFERENCE"}`
  ],
  "model ls": () => ["Models.list()", "GET /ai/models"],
  "model add": (words) =>
    words.includes("--replace") ? ["Models.replace()", "PUT /ai/models/NAME"] : ["Models.add()", "POST /ai/models"],
  "model pull": ([name]) => [`Models.pull(${argument(name)})`, `POST /ai/models/${name ?? "NAME"}/pull`],
  "secret ls": () => ["the names in the store of the home", "GET /v1/secrets"],
  "secret set": () => ["secrets: [{ name, hosts, value }]", "PUT /v1/secrets/NAME"],
  "session ls": () => ["Sessions.list()", "GET /v1/sessions"],
  "session rm": () => ["Sessions.remove()", "DELETE /v1/sessions/ID"],
  "session show": ([id]) => [`Sessions.load(${argument(id)})`, `GET /v1/sessions/${id ?? "ID"}/graph`],
  "session export": () => ["Sessions.export()", "GET /v1/sessions/ID/export"]
}

/** What each flag of the CLI is elsewhere. */
const flags: Readonly<Record<string, Words>> = {
  "--name": ["name", "name"],
  "--engine qemu": ['engine: "qemu"', '"engine": "qemu"'],
  "--platform": ["platform", "platform"],
  "--disk": ["diskMb", "disk_mb"],
  "--memory": ["memoryMb", "memory_mb"],
  "--rm": ["persistent: false", "ephemeral: true"],
  "--listen": ["socket", "socket"],
  "-p": ["ports", "ports"],
  "-w": ["cwd", "cwd"],
  "-u": ["user", "user"],
  "-f": ["force: true", "force=true"],
  "-t NAME": ["reference", "name"]
}

/** Commands that are the same for everybody: they are run on the machine. */
const onTheMachine = new Set(["doctor", "serve"])

const commandIn = (at: 0 | 1, text: string): string => {
  const [first = "", second = "", ...rest] = text.split(" ")
  if (onTheMachine.has(first)) return `'bunker ${text}'`
  const pair = commands[`${first} ${second}`]
  const words = pair?.(rest) ?? commands[first]?.(second === "" ? [] : [second, ...rest])
  return words === undefined ? `'bunker ${text}'` : words[at]
}

const flagPattern = new RegExp(`(?<=^|[\\s(])(${Object.keys(flags).join("|")})(?=[\\s,;)]|$)`, "g")

/** What to do next, as the front end says it. */
export const inTermsOf = (frontEnd: FrontEnd, suggestion: string): string => {
  if (frontEnd === "cli") return suggestion
  const at = frontEnd === "program" ? 0 : 1
  return suggestion
    .split(/('bunker [^']*')/)
    .map((part) =>
      part.startsWith("'bunker ")
        ? commandIn(at, part.slice("'bunker ".length, -1))
        : part.replace(flagPattern, (flag) => flags[flag]![at])
    )
    .join("")
}

/** A message as what happened, and what to do next: what follows its last semicolon; empty where it has none. */
export const parted = (message: string): readonly [what: string, suggestion: string] => {
  const at = message.lastIndexOf("; ")
  return at < 0 ? [message, ""] : [message.slice(0, at), message.slice(at + 2)]
}

/** A whole message as the front end says it. */
export const saidBy = (frontEnd: FrontEnd, message: string): string => {
  const [what, suggestion] = parted(message)
  return suggestion === "" ? what : `${what}; ${inTermsOf(frontEnd, suggestion)}`
}
