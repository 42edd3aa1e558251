/**
 * Makes `bunker-sandbox`: the sources as modules with their libraries in them, declarations that import nothing, and the program for
 * `bunx`. Only `./effect` and `./plugin` leave `effect` out, for they give and take its values: it is a peer of theirs.
 */
import fs from "node:fs"
import path from "node:path"
import { output } from "./pack.ts"
import { rollUpTypes } from "./types.ts"

/** Oldest Bun that the tests pass with: the one that they run on. */
const bunVersion = (root: string): string =>
  (JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")) as { dependencies: { bun: string } })
    .dependencies.bun

/** What is written by hand, below, and keeps its place. */
const embedded: Bun.BunPlugin = {
  name: "embedded",
  setup: (build) =>
    void build.onResolve({ filter: /\/embedded\.js$/ }, ({ path: file }) => ({ path: file, external: true }))
}

const bundle = async (root: string, options: Omit<Bun.BuildConfig, "throw">): Promise<void> => {
  const result = await Bun.build({
    root: path.join(root, "src"),
    format: "esm",
    target: "bun",
    conditions: ["packaged"],
    minify: { syntax: true, whitespace: true, identifiers: false },
    sourcemap: "linked",
    naming: { entry: "[name].[ext]", chunk: "chunk-[hash].[ext]" },
    ...options,
    plugins: [embedded],
    external: ["bunker-sandbox-linux-x64", ...(options.external ?? [])]
  })
  if (!result.success) throw new Error(result.logs.map(String).join("\n"))
}

/** Renames what the bundler named after the source. */
const rename = (directory: string, from: string, to: string): void => {
  fs.renameSync(path.join(directory, `${from}.js`), path.join(directory, `${to}.js`))
  fs.renameSync(path.join(directory, `${from}.js.map`), path.join(directory, `${to}.js.map`))
  const file = path.join(directory, `${to}.js`)
  fs.writeFileSync(
    file,
    fs.readFileSync(file, "utf8").replace(`sourceMappingURL=${from}.js.map`, `sourceMappingURL=${to}.js.map`)
  )
}

const scripts = async (root: string, dist: string): Promise<void> => {
  const source = (file: string): string => path.join(root, "src", file)
  await bundle(root, { entrypoints: [source("sdk/index.ts")], outdir: dist, splitting: true })
  await bundle(root, { entrypoints: [source("cli/packaged.ts")], outdir: dist, minify: true, sourcemap: "none" })
  fs.renameSync(path.join(dist, "packaged.js"), path.join(dist, "program.js"))
  const shared = path.join(dist, "shared")
  const entrypoints = [source("sdk/effect.ts"), source("plugin/api.ts")]
  await bundle(root, { entrypoints, outdir: shared, splitting: true, external: ["effect", "effect/*"] })
  rename(shared, "api", "plugin")
  const embeds = (program: string): string =>
    `import program from ${JSON.stringify(program)} with { type: "file" }\n\nexport default { "program.js": program }\n`
  fs.writeFileSync(path.join(dist, "embedded.js"), embeds("./program.js"))
  fs.writeFileSync(path.join(shared, "embedded.js"), embeds("../program.js"))
}

/** Specifiers as Node reads them. */
const withExtensions = (text: string): string =>
  text.replace(/(from\s+|import\(|import\s+)(["'])(\.{1,2}\/[^"']+)\.ts\2/g, "$1$2$3.js$2")

/** Declarations of everything that one refers to, as they are. */
const copyTypes = (from: string, to: string, entries: ReadonlyArray<string>): void => {
  const seen = new Set<string>()
  const copy = (file: string): void => {
    if (seen.has(file)) return
    seen.add(file)
    const text = fs.readFileSync(path.join(from, file), "utf8")
    const target = path.join(to, file)
    fs.mkdirSync(path.dirname(target), { recursive: true })
    fs.writeFileSync(target, withExtensions(text))
    for (const [, specifier] of text.matchAll(/(?:from\s+|import\(|import\s+)["'](\.{1,2}\/[^"']+)\.ts["']/g)) {
      copy(path.join(path.dirname(file), `${specifier}.d.ts`))
    }
  }
  for (const entry of entries) copy(entry)
}

const declarations = (root: string, dist: string, work: string): void => {
  fs.writeFileSync(
    path.join(work, "tsconfig.json"),
    JSON.stringify({
      extends: path.join(root, "tsconfig.json"),
      compilerOptions: {
        noEmit: false,
        declaration: true,
        emitDeclarationOnly: true,
        noCheck: true,
        outDir: "types",
        rootDir: root,
        typeRoots: [path.join(root, "node_modules/@types")],
        plugins: []
      },
      files: ["sdk/index.ts", "sdk/effect.ts", "plugin/api.ts", "assets.d.ts", "sql.d.ts"].map((file) =>
        path.join(root, "src", file)
      ),
      include: []
    })
  )
  output([process.execPath, path.join(root, "node_modules/typescript/bin/tsc"), "-p", path.join(work, "tsconfig.json")])
  const types = path.join(work, "types/src")
  fs.writeFileSync(
    path.join(dist, "index.d.ts"),
    rollUpTypes(path.join(types, "sdk/index.d.ts"), types, path.join(root, "node_modules"))
  )
  copyTypes(types, path.join(dist, "shared/types"), ["sdk/effect.d.ts", "plugin/api.d.ts"])
}

/** What another runtime gets, which would stop at the first import of Bun's own modules without a word of use. */
const needsBun = (dist: string): void => {
  const names = [
    ...fs
      .readFileSync(path.join(dist, "index.d.ts"), "utf8")
      .matchAll(/^export declare (?:class|const|function) (\w+)/gm)
  ]
  const reason =
    'throw new Error("bunker-sandbox runs sandboxes in Bun, and this is another runtime; start the program with bun, or drive a ' +
    "'bunker serve' over HTTP, which its /openapi.json describes\")\n"
  fs.writeFileSync(
    path.join(dist, "needsBun.js"),
    `${reason}${names.map(([, name]) => `export const ${name} = undefined\n`).join("")}`
  )
}

/** Checked before anything else of the package is loaded. */
const checkBun = (dist: string, entry: string, version: string): void => {
  const file = path.join(dist, `${entry}.js`)
  const check =
    `if (Bun.semver.order(Bun.version, "${version}") < 0) throw new Error(\`bunker-sandbox needs Bun ${version} or newer, ` +
    "and this is $" +
    "{Bun.version}; 'bun upgrade' brings the newest`)\n"
  fs.writeFileSync(path.join(dist, "checkBun.js"), check)
  fs.writeFileSync(file, `import "./checkBun.js"\n${fs.readFileSync(file, "utf8")}`)
}

export const npmPackage = async (root: string, directory: string, version: string): Promise<void> => {
  const dist = path.join(directory, "dist")
  const work = path.join(directory, "../types")
  for (const each of [dist, work, path.join(directory, "bin")]) fs.mkdirSync(each, { recursive: true })
  await scripts(root, dist)
  declarations(root, dist, work)
  needsBun(dist)
  const bun = bunVersion(root)
  checkBun(dist, "index", bun)
  fs.copyFileSync(path.join(import.meta.dirname, "bin.sh"), path.join(directory, "bin/bunker"))
  fs.chmodSync(path.join(directory, "bin/bunker"), 0o755)
  for (const file of ["LICENSE", "CHANGELOG.md", "README.md"])
    fs.copyFileSync(path.join(root, file), path.join(directory, file))
  const source = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")) as {
    readonly description: string
    readonly dependencies: { readonly effect: string }
  }
  const entry = (types: string, script: string) => ({ types: `./dist/${types}.d.ts`, default: `./dist/${script}.js` })
  const manifest = {
    name: "bunker-sandbox",
    version,
    description: source.description,
    license: "Apache-2.0",
    type: "module",
    sideEffects: false,
    bin: { bunker: "bin/bunker", "bunker-sandbox": "bin/bunker" },
    exports: {
      ".": { types: "./dist/index.d.ts", bun: "./dist/index.js", default: "./dist/needsBun.js" },
      "./effect": entry("shared/types/sdk/effect", "shared/effect"),
      "./plugin": entry("shared/types/plugin/api", "shared/plugin"),
      "./package.json": "./package.json"
    },
    files: ["bin", "dist", "CHANGELOG.md"],
    engines: { bun: `>=${bun}` },
    peerDependencies: { bun: `>=${bun}`, effect: source.dependencies.effect },
    peerDependenciesMeta: { bun: { optional: true }, effect: { optional: true } },
    optionalDependencies: { "bunker-sandbox-linux-x64": version }
  }
  fs.writeFileSync(path.join(directory, "package.json"), `${JSON.stringify(manifest, undefined, 2)}\n`)
}
