/**
 * Says what to type here in place of a command that other tools have, and which of our words a mistyped one may have meant.
 * Knows no command line and runs nothing.
 */

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

/** Flags that are spelled much like one of more than one letter: a single letter is like every other. */
export const similarFlags = (typed: string, similar: ReadonlyArray<string>): string =>
  typed.startsWith("--") ? didYouMean(similar.filter((flag) => flag.startsWith("--"))) : ""

const didYouMean = (words: ReadonlyArray<string>): string =>
  words.length === 0 ? "" : ` (did you mean ${words.join(" or ")}?)`
