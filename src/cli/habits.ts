/**
 * Says what to type here in place of a command that other tools have, and which of our words a mistyped one may have meant.
 * Knows no command line and runs nothing.
 */

/** Words of other tools that do here what ours do, by the words that they stand for. */
const aliases: Readonly<Record<string, ReadonlyArray<string>>> = {
  "image ls": ["images"],
  "image pull": ["pull"],
  "image save": ["save"],
  "image load": ["load"],
  "image import": ["import"],
  "system df": ["df"],
  "system prune": ["prune"],
  "system info": ["doctor"]
}

/** A command line in our words where it begins with an alias; else as it is. */
export const inOurWords = (argv: ReadonlyArray<string>): ReadonlyArray<string> => {
  const ours = aliases[argv.slice(0, 2).join(" ")]
  return ours === undefined ? argv : [...ours, ...argv.slice(2)]
}

/** Commands of other tools that have another name here. */
const renamed: Readonly<Record<string, string>> = {
  rmi: "bunker image rm",
  "image delete": "bunker image rm",
  "image remove": "bunker image rm",
  "image rmi": "bunker image rm",
  "image list": "bunker images",
  "image build": "bunker load",
  delete: "bunker rm",
  remove: "bunker rm",
  destroy: "bunker rm",
  ls: "bunker ps",
  list: "bunker ps",
  enter: "bunker shell",
  sh: "bunker shell",
  ssh: "bunker shell",
  "files remove": "bunker files rm",
  "files delete": "bunker files rm",
  "session list": "bunker session ls",
  "session rm": "bunker session gc",
  "model list": "bunker model ls",
  "model remove": "bunker model rm"
}

/** Commands of other tools that there are none of, with what to do. */
const absent: Readonly<Record<string, string>> = {
  build:
    "it comes later; until then build with docker, podman or buildah and load the result: 'docker save IMAGE | bunker load -'",
  buildx:
    "it comes later; until then build with docker, podman or buildah and load the result: 'docker save IMAGE | bunker load -'",
  builder: "images are built elsewhere; 'bunker prune' gives back space",
  compose: "it comes later; until then start each service with 'bunker run -d --name NAME IMAGE'",
  container:
    "a container of other tools is a sandbox here, and its commands need no word before them: 'bunker ps', 'bunker run'",
  machine: "no machine has to be made first; every sandbox has its own kernel: 'bunker run IMAGE'",
  pod: "sandboxes share nothing; start each with 'bunker run -d'",
  search: "a registry's own site searches it; 'bunker pull REFERENCE' fetches from any",
  context: "there is no daemon to choose; BUNKER_HOME names the directory that everything is kept in",
  plugin: "plugins are written into bunker.config.ts in the home directory",
  checkpoint: "'bunker pause' makes a sandbox stand still with its memory",
  swarm: "sandboxes run on this machine; 'bunker serve' lets other programs use them",
  service: "sandboxes run on this machine; 'bunker run -d --restart always IMAGE' keeps one running",
  stack: "sandboxes run on this machine; 'bunker run -d --restart always IMAGE' keeps one running",
  secret: "pass what is secret through stdin or '-e NAME', which takes the value from your environment",
  manifest: "'bunker image inspect' shows an image's manifest; skopeo and crane write lists of platforms",
  trust: "name an image by its digest, 'NAME@sha256:…', to get exactly that one",
  "network ls":
    "every sandbox has a network of its own; 'bunker run --allow-net=RULE' says what it reaches, -p opens a port of it",
  "network create":
    "every sandbox has a network of its own; 'bunker run --allow-net=RULE' says what it reaches, -p opens a port of it",
  commit: "'bunker cp NAME:/ DIR' and 'bunker import DIR IMAGE' make an image of a sandbox's files",
  export: "'bunker cp NAME:/path DIR' copies files out of a sandbox; 'bunker save' writes images",
  diff: "what a sandbox has changed is not told; 'bunker cp NAME:/path DIR' copies files out, to be compared",
  top: "'bunker exec NAME ps' lists processes, 'bunker stats' what sandboxes use",
  rename: "a sandbox keeps its name; 'bunker create --name NEW IMAGE' makes another",
  update: "edit sandboxes/NAME/config.toml in the home directory; the next start takes it over",
  events: "'bunker wait NAME' ends with a sandbox, 'bunker logs -f NAME' shows what it says; HTTP streams both",
  volume:
    "a directory of this machine is shared by 'bunker run -v HOST:GUEST[:ro]'; what a sandbox writes elsewhere is kept until 'bunker rm'",
  tag: "'bunker save OLD | bunker load -t NEW -' gives an image another name",
  "image tag": "'bunker save OLD | bunker load -t NEW -' gives an image another name",
  push: "'bunker save -o FILE IMAGE' writes an image that skopeo or crane push",
  "image push": "'bunker save -o FILE IMAGE' writes an image that skopeo or crane push",
  history: "'bunker image inspect IMAGE' shows its configuration and layers",
  "image history": "'bunker image inspect IMAGE' shows its configuration and layers",
  system: "'bunker system df|prune|info' are 'bunker df', 'bunker prune' and 'bunker doctor'",
  info: "'bunker doctor' shows this machine, 'bunker df' what is kept",
  "image build": "images are built elsewhere; load the result: 'docker save IMAGE | bunker load -'"
}

/**
 * The rest of the line `there is no command "…"`, with the sign before it; empty when there is nothing to advise. `similar` are
 * words of ours that are spelled much like the last word.
 */
export const adviceFor = (words: ReadonlyArray<string>, similar: ReadonlyArray<string>): string => {
  const typed = words.join(" ")
  const instead = absent[typed]
  if (instead !== undefined) return `: ${instead}`
  const named = renamed[typed]
  if (named !== undefined) return ` (did you mean '${named}'?)`
  return didYouMean(plausible(words.at(-1) ?? "", similar))
}

/** Words that share a beginning, or of which one holds the other: two letters' difference alone makes "touch" of "nosuch". */
const plausible = (typed: string, similar: ReadonlyArray<string>): ReadonlyArray<string> =>
  similar.filter((word) => word[0] === typed[0] || word.includes(typed) || typed.includes(word))

/** Flags of other tools that there are none of, with what to do. */
const absentFlags: Readonly<Record<string, string>> = {
  "--format": "--json prints all; 'jq' picks from it",
  "--no-trunc": "leave it away, nothing is cut; --json prints all",
  "--mount": "write -v HOST:GUEST[:ro], or --tmpfs /path",
  "--read-only":
    "leave it away: what a sandbox writes is its own, and goes with it; -v HOST:GUEST:ro shares a directory read-only",
  "--init": "leave it away: the first process of every guest is Bunker's, which reaps others",
  "--privileged": "leave it away: a sandbox has its own kernel, and root in it is root there alone",
  "--cap-add": "leave it away: a sandbox has its own kernel, and root in it is root there alone",
  "--cap-drop": "leave it away; --user runs the command as somebody else than root",
  "--security-opt": "leave it away: a sandbox has its own kernel",
  "--device": "devices of this machine are not passed into a sandbox",
  "--gpus": "devices of this machine are not passed into a sandbox",
  "--ulimit": "write --rlimit NAME=SOFT[:HARD]",
  "--shm-size": "write --tmpfs /dev/shm:size=64m",
  "--link": "sandboxes share no network; publish a port with -p",
  "--cidfile": "--name chooses the name, and -d prints it",
  "--stop-timeout": "'bunker stop -t SECONDS' says how long a stop may take",
  "--log-driver": "'bunker logs' keeps what a sandbox said",
  "--volumes-from": "repeat -v HOST:GUEST for each sandbox"
}

/** Flags that are spelled much like one of more than one letter: a single letter is like every other. */
export const similarFlags = (typed: string, similar: ReadonlyArray<string>): string =>
  Object.hasOwn(absentFlags, typed)
    ? `: ${absentFlags[typed]}`
    : typed.startsWith("--")
      ? didYouMean(similar.filter((flag) => flag.startsWith("--")))
      : ""

const didYouMean = (words: ReadonlyArray<string>): string =>
  words.length === 0 ? "" : ` (did you mean ${words.join(" or ")}?)`
