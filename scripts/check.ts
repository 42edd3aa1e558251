/** Runs every check that needs no VM, all of them even when one fails: format, lint, types, architecture, dead code. The exit code is the number that failed. */
import path from "node:path"

const root = path.join(import.meta.dirname, "..")
const tool = (name: string): string => path.join(root, "node_modules/.bin", name)

interface Outcome {
  readonly ok: boolean
  readonly output: string
}

const run = async (command: ReadonlyArray<string>): Promise<Outcome> => {
  const child = Bun.spawn([...command], {
    cwd: root,
    env: { ...process.env, FORCE_COLOR: process.stdout.isTTY ? "1" : "0" },
    stdio: ["ignore", "pipe", "pipe"]
  })
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  return { ok: (await child.exited) === 0, output: stdout + stderr }
}

/**
 * Effect's rules are part of the compiler only after `effect-tsgo patch`, which npm's `prepare` script does where scripts may run.
 * An unpatched compiler passes code that breaks the rules, so it is patched here, and refused when that changes nothing.
 */
const types = async (): Promise<Outcome> => {
  const patched = async () => (await run([tool("tsc"), "--version"])).output.includes("effect-tsgo")
  if (!(await patched())) {
    const { output } = await run([tool("effect-tsgo"), "patch"])
    if (!(await patched())) {
      return {
        ok: false,
        output: `tsc does not have Effect's rules, and 'effect-tsgo patch' does not help:\n${output}`
      }
    }
  }
  const { ok, output } = await run([tool("tsc"), "--pretty", "false", "-p", "."])
  // Suggestions are for editors; warnings count.
  const findings = output.split(/\n(?=\S)/).filter((finding) => !/: suggestion TS/.test(finding))
  return { ok: ok && !findings.some((finding) => /: (error|warning) TS/.test(finding)), output: findings.join("\n") }
}

const steps: ReadonlyArray<readonly [name: string, step: () => Promise<Outcome>]> = [
  ["format", () => run([tool("biome"), "format", "."])],
  ["lint", () => run([tool("biome"), "check", "--formatter-enabled=false", "--error-on-warnings", "."])],
  ["types", types],
  ["architecture", () => run([process.execPath, "test", "test/architecture.test.ts"])],
  ["dead code", () => run([tool("knip"), "--treat-config-hints-as-errors"])]
]

let failed = 0
for (const [name, step] of steps) {
  const begun = performance.now()
  const { ok, output } = await step()
  console.log(`${ok ? "ok    " : "failed"}  ${name} (${((performance.now() - begun) / 1000).toFixed(1)} s)`)
  if (ok) continue
  failed += 1
  console.log(output.trimEnd())
}
process.exit(failed)
