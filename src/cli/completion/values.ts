/** Decides what a word of a command line may be that is being typed: a sandbox, an image, one of a flag's values. Pure: asks nothing. */

/** What completes a word; `files`: names of this machine's, which shells know best. */
export type Values =
  | { readonly kind: "sandboxes" | "images" | "sessions" | "models" | "files" | "none" }
  | { readonly kind: "words"; readonly words: ReadonlyArray<string> }
  /** `NAME:PATH`, or a path of this machine. */
  | { readonly kind: "sandboxPaths" }

const words = (...all: ReadonlyArray<string>): Values => ({ kind: "words", words: all })
const none: Values = { kind: "none" }

/** By flag; what takes a value that cannot be guessed is `none`. */
const flags: Readonly<Record<string, Values>> = {
  "--pull": words("missing", "always", "never"),
  "--engine": words("auto", "krun", "qemu"),
  "--restart": words("no", "always", "on-failure"),
  "--platform": words("linux/amd64", "linux/arm64"),
  "--env-file": { kind: "files" },
  "-v": { kind: "files" },
  "--volume": { kind: "files" },
  "-o": { kind: "files" },
  "--output": { kind: "files" },
  "--name": none,
  "-e": none,
  "--env": none,
  "-m": none,
  "--memory": none,
  "--cpus": none,
  "-u": none,
  "--user": none,
  "-w": none,
  "--workdir": none,
  "-p": none,
  "--publish": none,
  "-t": none,
  "--time": none,
  "--timeout": none,
  "--tail": none,
  "-n": none,
  "--since": none,
  "--until": none,
  "--entrypoint": none,
  "--hostname": none,
  "--label": none,
  "-l": none
}
/** Short flags that take a value in some commands only. */
const switches: Readonly<Record<string, ReadonlySet<string>>> = {
  exec: new Set(["-t"]),
  run: new Set(["-t"]),
  create: new Set(["-t"]),
  attach: new Set(["-t"]),
  logs: new Set(["-t"])
}

/** What each positional word of a command is; the last one is for all that follow. */
const positionals: Readonly<Record<string, ReadonlyArray<Values["kind"]>>> = {
  ...Object.fromEntries(
    "start stop restart kill pause unpause touch rm inspect wait stats".split(" ").map((name) => [name, ["sandboxes"]])
  ),
  ...Object.fromEntries("logs attach shell exec".split(" ").map((name) => [name, ["sandboxes", "none"]])),
  ...Object.fromEntries("run create".split(" ").map((name) => [name, ["images", "none"]])),
  ...Object.fromEntries("pull save".split(" ").map((name) => [name, ["images"]])),
  ...Object.fromEntries("ls stat mkdir rm".split(" ").map((name) => [`files ${name}`, ["sandboxes", "none"]])),
  ...Object.fromEntries("inspect rm".split(" ").map((name) => [`image ${name}`, ["images"]])),
  ...Object.fromEntries("show pull status drop rm".split(" ").map((name) => [`model ${name}`, ["models"]])),
  ...Object.fromEntries(
    "show commit put get export branch tombstone fork gc vacuum rm"
      .split(" ")
      .map((name) => [`session ${name}`, ["sessions", "none"]])
  ),
  "session import": ["files"],
  cp: ["sandboxPaths"],
  load: ["files"],
  import: ["files", "none"],
  completion: ["none"]
}

/** `before`: the words after the program's name; the word that is typed follows them. */
export const valuesFor = (before: ReadonlyArray<string>): Values | undefined => {
  const [first = ""] = before
  const group = `${first} ${before[1] ?? ""}`
  const name = group in positionals ? group : first
  const order = positionals[name]
  const rest = before.slice(name === group ? 2 : 1)
  let position = 0
  for (let index = 0; index < rest.length; index += 1) {
    const word = rest[index]!
    if (!word.startsWith("-") || word === "-") position += 1
    else if (word in flags && switches[first]?.has(word) !== true) {
      if (index === rest.length - 1) return flags[word]
      index += 1
    }
  }
  if (order === undefined) return undefined
  return { kind: order[Math.min(position, order.length - 1)] } as Values
}

/** What is appended to, or put in the place of, the end of the library's script, so that values are asked of this program. */
export const withValues = (shell: string, script: string): string => {
  if (shell === "bash") return script.replace("complete -F _bunker bunker\n", bash)
  if (shell === "zsh")
    return script
      .replace(/(?=# Handle both direct)/, zsh)
      .replace(
        '  _bunker "$@"\nelse\n  compdef _bunker bunker',
        '  _bunker_values "$@"\nelse\n  compdef _bunker_values bunker'
      )
  return script.replace(/(?=###-end-)/, fish)
}

const bash = `_bunker_values()
{
  local line="\${COMP_LINE:0:COMP_POINT}" words current kept
  read -ra words <<< "$line"
  current=""
  [[ "$line" == *[[:space:]] ]] || { current="\${words[-1]}"; unset 'words[-1]'; }
  if [[ "$current" != -* ]] && (( \${#words[@]} > 1 )); then
    mapfile -t COMPREPLY < <(command "\${words[0]}" __complete "\${words[@]:1}" "$current" 2>/dev/null)
    if (( \${#COMPREPLY[@]} )); then
      [[ "\${COMPREPLY[0]}" == *: && "\${#COMPREPLY[@]}" == 1 ]] && compopt -o nospace
      # What stands before a colon is a word of its own to bash.
      kept="\${current%"\${current##*[:=]}"}"
      COMPREPLY=("\${COMPREPLY[@]#"$kept"}")
      return
    fi
  fi
  _bunker "$@"
}

complete -o default -F _bunker_values bunker
`
const zsh = `_bunker_values() {
  local -a values
  if [[ $PREFIX != -* ]] && (( CURRENT > 2 )); then
    values=("\${(@f)$(command \${words[1]} __complete "\${(@)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)}")
    if [[ -n $values[1] ]]; then
      if [[ $values[1] == *: ]]; then compadd -S '' -a values; else compadd -a values; fi
      return
    fi
  fi
  _bunker "$@" || _files
}

`
const fish = `function __bunker_values
  set -l words (commandline -opc)
  command $words[1] __complete $words[2..-1] (commandline -ct) 2>/dev/null
end
complete -c bunker -n 'test (count (commandline -opc)) -gt 1; and not string match -q -- "-*" (commandline -ct)' -a '(__bunker_values)'
`
