/**
 * Real VMs for tests: which engine this machine can test, a root disk made of busybox, directories that go away.
 * The lab names its own files with BUNKER_TEST_AGENT, BUNKER_TEST_RUNNER and BUNKER_TEST_CACHE.
 */
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { Effect, type Scope } from "effect"
import { buildImage } from "../../src/oci/erofs/writer.ts"
import { type EngineKind, type EngineOptions, Engines, type VmConfig } from "../../src/vm/engines/Engine.ts"

/** The engine under test: what BUNKER_TEST_ENGINE says, else qemu. */
export const engineKind: EngineKind = process.env["BUNKER_TEST_ENGINE"] === "krun" ? "krun" : "qemu"

const root = path.join(import.meta.dirname, "../..")
const agentPath = process.env["BUNKER_TEST_AGENT"] ?? path.join(root, "native/guest/build/agent")
const runner = process.env["BUNKER_TEST_RUNNER"] ?? path.join(import.meta.dirname, "runnerEntry.ts")

export const engineOptions: EngineOptions = {
  bootCacheDir:
    process.env["BUNKER_TEST_CACHE"] ?? path.join(os.tmpdir(), `bunker-test-boot-${process.getuid?.() ?? 0}`),
  agentPath,
  mountHelperPath: process.env["BUNKER_TEST_MOUNT_HELPER"] ?? path.join(root, "native/mount-helper/build/mount-helper"),
  launcherPath: process.env["BUNKER_TEST_LAUNCHER"] ?? path.join(root, "native/launcher/build/launcher"),
  runnerCommand: [process.execPath, runner]
}

const busybox = Bun.which("busybox") ?? "/bin/busybox"

/** Why VMs can not be tested here, or undefined. */
export const missing: string | undefined = (() => {
  if (!fs.existsSync(agentPath)) {
    const built = Bun.spawnSync([path.join(root, "native/guest/build.sh")])
    if (built.exitCode !== 0 || !fs.existsSync(agentPath)) return "the guest agent can not be built: no C compiler?"
  }
  if (engineKind === "qemu" && Bun.which("qemu-system-x86_64") === null) return "qemu-system-x86_64 is not installed"
  if (!fs.existsSync(busybox)) return "busybox-static is not installed"
  return undefined
})()

if (missing !== undefined) console.warn(`tests that boot a VM are skipped: ${missing}`)

/** Milliseconds that a boot may take in a test. */
export const bootTimeoutMs = 120_000

const APPLETS = ["cat", "echo", "false", "id", "ls", "mount", "reboot", "sh", "sleep", "touch", "true", "uname", "wc"]

/** An EROFS root with a static busybox. */
export const busyboxRoot = (directory: string): string => {
  const file = path.join(directory, "root.erofs")
  const image = buildImage([
    { path: "/bin/busybox", mode: 0o100755, data: fs.readFileSync(busybox) },
    ...APPLETS.map((name) => ({ path: `/bin/${name}`, mode: 0o120777, linkTarget: "busybox" })),
    ...["dev", "etc", "proc", "root", "run", "sys", "tmp"].map((name) => ({ path: `/${name}`, mode: 0o040755 })),
    { path: "/etc/passwd", mode: 0o100644, data: Buffer.from("root:x:0:0:root:/root:/bin/sh\n") }
  ])
  fs.writeFileSync(file, image)
  return file
}

/** A run directory that goes with the scope. */
export const runDirectory: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "bkt-"))),
  (directory) => Effect.sync(() => fs.rmSync(directory, { recursive: true, force: true }))
)

/** A small VM in that directory without disks. */
export const smallVm = (runDir: string, more: Partial<VmConfig> = {}): VmConfig => ({
  cpus: 1,
  memoryMb: 256,
  disks: [],
  runDir,
  consolePath: path.join(runDir, "console"),
  lockPath: path.join(runDir, "lock"),
  dieWithParent: true,
  ...more
})

/** The engine under test. */
export const engine = Effect.map(Engines, (engines) => engines.get(engineKind)).pipe(
  Effect.provide(Engines.layer(engineOptions))
)
