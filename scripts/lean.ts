/**
 * Leaves out of the program what its short commands never use of libraries: loading costs time by the byte (docs/adr/0029-start-up.md).
 * Whoever wants it is the build with everything (src/cli/compiledPlugins.ts), or a module of its own that is loaded late.
 */
import fs from "node:fs"
import path from "node:path"

const effect = path.join(import.meta.dirname, "../node_modules/effect/dist")

/** Modules that are empty, and why nobody misses them. */
const empty: ReadonlyArray<string> = [
  // Questions to people, which our commands do not ask (Flag.withFallbackPrompt, --wizard).
  "cli/Prompt.js",
  "cli/internal/wizard.js",
  // The scripts for shells: `bunker completion` is answered by the build with everything.
  "cli/internal/completions/bash.js",
  "cli/internal/completions/fish.js",
  "cli/internal/completions/powershell.js",
  "cli/internal/completions/zsh.js"
]

/**
 * Client and server need the name of the service alone, under which actors/kit/unixSocket.ts gives them an encoding, when there is a socket.
 * Services are known by their key (effect/Context), so that this one is that of the library.
 */
const serialization = `import * as Context from "../Context.js"
export class RpcSerialization extends Context.Service()("effect/rpc/RpcSerialization") {}
// Compared with, never used.
export const json = { codecFor: () => undefined }
`

/** Made when help is first laid out, not when the module is loaded: the rules of Unicode take 12 ms of the lab's clock. */
const segmenter = {
  file: "cli/CliOutput.js",
  from: /const graphemeSegmenter = (?:\/\*#__PURE__\*\/)?(new Intl\.Segmenter\([^)]*\));/,
  to: "let segmenter; const graphemeSegmenter = { segment: (text) => (segmenter ??= $1).segment(text) };"
}

/** Fails the build where a library has no such module any more. */
const must = (file: string): string => {
  const found = path.join(effect, file)
  if (!fs.existsSync(found)) throw new Error(`scripts/lean.ts: effect has no ${file} any more`)
  return found
}

export const lean: Bun.BunPlugin = {
  name: "lean",
  setup: (build) => {
    const left = new Set(empty.map(must))
    const [real, from] = [
      must("rpc/RpcSerialization.js"),
      ["RpcClient.js", "RpcServer.js"].map((name) => must(`rpc/${name}`))
    ]
    const late = must(segmenter.file)
    build.onLoad({ filter: /effect\/dist\/cli\/.*\.js$/ }, async ({ path: file }) => {
      if (left.has(file)) return { contents: "export {}", loader: "js" }
      const text = await Bun.file(file).text()
      if (file !== late) return { contents: text, loader: "js" }
      if (!segmenter.from.test(text)) throw new Error(`scripts/lean.ts: ${late} is not as it was`)
      return { contents: text.replace(segmenter.from, segmenter.to), loader: "js" }
    })
    build.onResolve({ filter: /\/RpcSerialization\.js$/ }, ({ importer }) =>
      from.includes(importer) ? { path: `${real}?name`, namespace: "lean" } : undefined
    )
    build.onLoad({ filter: /.*/, namespace: "lean" }, () => ({ contents: serialization, loader: "js" }))
  }
}
