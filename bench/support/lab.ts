/**
 * Fills one directory with all that benches need inside the KVM lab, and runs scripts there on the instruction-count clock.
 * Measures nothing itself.
 */
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { busyboxPath } from "../../test/support/busyboxImage.ts"
import { archiveOf, directory, file, imageOf, layoutFiles, savedFiles, symlink } from "../../test/support/image.ts"

/** Taken from npm for benches alone, with exact versions. */
export const peer = { package: "@superradcompany/microsandbox-linux-x64-gnu", version: "0.7.2" } as const
export const boxlite = { package: "@boxlite-ai/boxlite", version: "0.10.0" } as const

const root = path.join(import.meta.dirname, "../..")
const bench = path.join(root, "bench")
export const image = "localhost/bench/hello:1"

/**
 * Runs `script` of bench/ in the lab, with further options of lab.sh; answers the directory with what it left in /out, and
 * the seconds that it took.
 */
export const inLab = async (
  script: string,
  environment: Readonly<Record<string, string>>,
  options: ReadonlyArray<string> = []
) => {
  const cache = cacheDirectory()
  const kernel = process.env["LAB_KERNEL"] ?? path.join(cache, "kernel")
  const kit = path.join(cache, "bench-kit")
  if (!fs.existsSync(path.join(kernel, "boot"))) must(["test/lab/lab.sh", "--fetch-kernel", kernel])
  await fillKit(kit)
  put(path.join(kit, "bench", path.basename(script)), fs.readFileSync(path.join(bench, script)))
  const out = fs.mkdtempSync(path.join(os.tmpdir(), "bunker-bench-"))
  const began = performance.now()
  // One lab at a time: two of them would only take turns.
  must([
    ...["flock", path.join(os.tmpdir(), "lab.lock"), "test/lab/lab.sh", "--kernel", kernel, "--cache", cache],
    ...["--icount", "0", "--mem", "6144", "--timeout", "3000", "--module", "loop", "--share", `${kit}:/kit`],
    ...options,
    ...["--file", "/etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt", "--out", out],
    ...Object.entries({
      PATH: "/kit/bin:/bin:/sbin:/usr/bin",
      LIVE: process.env["BENCH_LIVE"] ?? "",
      ...environment
    }).flatMap(([key, value]) => ["--env", `${key}=${value}`]),
    ...["--time", "--", "/bin/sh", `/kit/bench/${path.basename(script)}`]
  ])
  return { out, seconds: Math.round((performance.now() - began) / 1000) }
}

const must = (command: ReadonlyArray<string>, cwd = root): void => {
  const { exitCode } = Bun.spawnSync([...command], { cwd, stdout: "inherit", stderr: "inherit" })
  if (exitCode !== 0) throw new Error(`${command[0]} ended with ${exitCode}: ${command.join(" ").slice(0, 300)}`)
}

/** Copies only what differs: the lab packs a directory again when a time in it changes. */
const take = (from: string, to: string): void => {
  fs.mkdirSync(path.dirname(to), { recursive: true })
  if (Bun.spawnSync(["cmp", "-s", from, to]).exitCode !== 0) fs.copyFileSync(from, to)
}
const put = (to: string, content: Uint8Array | string, mode = 0o644): void => {
  fs.mkdirSync(path.dirname(to), { recursive: true })
  const bytes = Buffer.from(content)
  if (!fs.existsSync(to) || !fs.readFileSync(to).equals(bytes)) fs.writeFileSync(to, bytes)
  if ((fs.statSync(to).mode & 0o777) !== mode) fs.chmodSync(to, mode)
}

/** Everything that the lab needs, below one directory. */
const fillKit = async (kit: string): Promise<void> => {
  const work = fs.mkdtempSync(path.join(os.tmpdir(), "bunker-bench-kit-"))
  try {
    const runtime = path.join(root, "node_modules/libkrun-linux-x64/runtime")
    for (const name of fs.readdirSync(runtime).filter((name) => /^libkrun(fw)?\.so\./.test(name))) {
      take(path.join(runtime, name), path.join(kit, "node_modules/libkrun-linux-x64/runtime", name))
    }
    take(path.join(runtime, "mke2fs"), path.join(kit, "bin/mke2fs"))
    take(process.execPath, path.join(kit, "bin/bun"))
    const program = process.env["BENCH_BUNKER"] ?? path.join(root, "dist/bunker")
    take(program, path.join(kit, "bin/bunker"))
    take(`${program}-main`, path.join(kit, "bin/bunker-main"))
    const peerFiles = installPeer()
    take(path.join(peerFiles, "bin/msb"), path.join(kit, "bin/msb"))
    for (const name of fs.readdirSync(path.join(peerFiles, "lib"))) {
      take(path.join(peerFiles, "lib", name), path.join(kit, "lib", name))
    }
    for (const name of ["timer", "hello"]) {
      must(["musl-gcc", "-static", "-O2", "-s", "-o", path.join(work, name), path.join(bench, "vm", `${name}.c`)])
    }
    take(path.join(work, "timer"), path.join(kit, "bin/timer"))
    for (const program of ["vm/bare", "vm/boxlite", "kernel/boot", "phases/run"]) {
      const name = `${path.basename(program)}.js`
      must([
        process.execPath,
        "build",
        "--target",
        "bun",
        "--outfile",
        path.join(work, name),
        path.join(bench, `${program}.ts`)
      ])
      put(path.join(kit, "bench", name), fs.readFileSync(path.join(work, name)))
    }

    put(path.join(kit, "bench/agent"), fs.readFileSync(path.join(root, "native/guest/build/agent")), 0o755)
    const busybox = busyboxPath()
    if (busybox === undefined) throw new Error("no static busybox; install busybox-static")
    const hello = fs.readFileSync(path.join(work, "hello"))
    put(path.join(kit, "bench/rootfs/bin/hello"), hello, 0o755)
    put(path.join(kit, "bench/rootfs/bin/busybox"), fs.readFileSync(busybox), 0o755)
    for (const name of ["dev", "proc", "sys", "tmp", "etc"])
      fs.mkdirSync(path.join(kit, "bench/rootfs", name), { recursive: true })
    const made = imageOf([
      [
        directory("bin"),
        file("bin/busybox", fs.readFileSync(busybox), { mode: 0o755 }),
        file("bin/hello", hello, { mode: 0o755 }),
        ...["sh", "sleep", "cat", "echo"].map((name) => symlink(`bin/${name}`, "busybox")),
        ...["dev", "proc", "sys", "tmp", "etc", "root"].map((name) => directory(name)),
        file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        file("etc/group", "root:x:0:\n")
      ]
    ])
    put(path.join(kit, "bench/image.tar"), archiveOf(savedFiles(made, [image])))
    for (const [name, content] of layoutFiles([{ name: image, top: made.manifest, blobs: made.blobs }]))
      put(path.join(kit, "bench/layout", name), content)
  } finally {
    fs.rmSync(work, { recursive: true, force: true })
  }
}

/** Where what benches install and build is kept. */
const cacheDirectory = () => process.env["BUNKER_LAB_CACHE"] ?? path.join(os.homedir(), ".cache/bunker-lab")

/** The peer's program on this machine. */
export const peerProgram = (): string => path.join(installPeer(), "bin/msb")
const installPeer = () => path.join(install("bench-peer", peer), "node_modules", peer.package)

/** What of lab.sh brings BoxLite and its native library in. */
export const boxliteOptions = (): ReadonlyArray<string> => {
  const modules = path.join(install("bench-boxlite", boxlite), "node_modules")
  return ["--share", `${modules}:/boxlite/node_modules`]
}

/** Installs a package once below the cache, at its exact version; answers the directory of its `node_modules`. */
const install = (name: string, wanted: { readonly package: string; readonly version: string }): string => {
  const scratch = path.join(cacheDirectory(), name)
  const manifest = path.join(scratch, "node_modules", wanted.package, "package.json")
  const version = fs.existsSync(manifest) ? JSON.parse(fs.readFileSync(manifest, "utf8")).version : undefined
  if (version !== wanted.version) {
    fs.mkdirSync(scratch, { recursive: true })
    fs.writeFileSync(path.join(scratch, "package.json"), '{"private":true}\n')
    must(["npm", "install", "--no-audit", "--no-fund", "--save-exact", `${wanted.package}@${wanted.version}`], scratch)
  }
  return scratch
}
