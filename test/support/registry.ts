/** Runs a real docker-registry on a free loopback port with a directory of its own, until the scope ends. */

import fs from "node:fs/promises"
import net from "node:net"
import os from "node:os"
import path from "node:path"
import { Effect, type Scope } from "effect"
import { type ImageBlob, type LayoutImage, layoutFiles, writeFiles } from "./image.ts"

const missingTools = ["docker-registry", "skopeo", "htpasswd", "openssl"].filter((tool) => Bun.which(tool) === null)

/** Whether the Debian packages that registry tests use are here; says which are not. */
export const hasRegistryTools = missingTools.length === 0
if (!hasRegistryTools) console.log(`skipped: tests against a real registry, for want of ${missingTools.join(", ")}`)

/** How clients prove who they are. */
export type RegistryAuthentication =
  | { readonly kind: "basic"; readonly username: string; readonly password: string }
  /** Tokens as `test/support/tokenServer.ts` signs them. */
  | {
      readonly kind: "token"
      readonly realm: string
      readonly service: string
      readonly issuer: string
      /** PEM file with the certificate of the token server's key. */
      readonly certificateFile: string
    }

export interface TestRegistry {
  /** `127.0.0.1:PORT`. */
  readonly host: string
  /** Copies an image into the registry under `repository:tag`, by skopeo, with every platform that it has. */
  readonly push: (repositoryAndTag: string, image: LayoutImage) => Effect.Effect<void>
  /** Puts one manifest or index under `repository:tag`; what it names must be there already. */
  readonly putManifest: (repositoryAndTag: string, blob: ImageBlob) => Effect.Effect<void>
  /** Puts an image into the registry's own files, past its access control. */
  readonly seed: (repository: string, tag: string, image: LayoutImage) => Effect.Effect<void>
}

/** A directory that goes with the scope. */
export const temporaryDirectory = (stem: string): Effect.Effect<string, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), `bunker-test-${stem}-`))),
    (directory) => Effect.promise(() => fs.rm(directory, { recursive: true, force: true }))
  )

/** Runs a command to its end; dies with its output when it fails. */
export const run = (command: ReadonlyArray<string>): Effect.Effect<string> =>
  Effect.promise(async () => {
    const child = Bun.spawn([...command], { stdout: "pipe", stderr: "pipe", stdin: "ignore" })
    const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
    if ((await child.exited) !== 0) throw new Error(`${command.join(" ")} failed:\n${out}${err}`)
    return out
  })

const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = net.createServer().once("error", reject)
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as net.AddressInfo
      server.close(() => resolve(port))
    })
  })

const quoted = (text: string): string => JSON.stringify(text)

const authSection = async (directory: string, auth: RegistryAuthentication | undefined): Promise<string> => {
  if (auth === undefined) return ""
  if (auth.kind === "token") {
    return `auth:\n  token:\n    realm: ${quoted(auth.realm)}\n    service: ${quoted(auth.service)}\n    issuer: ${quoted(auth.issuer)}\n    rootcertbundle: ${quoted(auth.certificateFile)}\n`
  }
  const users = path.join(directory, "htpasswd")
  const made = Bun.spawnSync(["htpasswd", "-Bbn", auth.username, auth.password])
  await fs.writeFile(users, made.stdout)
  return `auth:\n  htpasswd:\n    realm: test\n    path: ${quoted(users)}\n`
}

/** A self-signed certificate and its key, for the current scope. */
export const selfSigned = Effect.fn("test.selfSigned")(function* () {
  const directory = yield* temporaryDirectory("tls")
  const [key, certificate] = [path.join(directory, "key.pem"), path.join(directory, "certificate.pem")]
  const how = "req -x509 -newkey rsa:2048 -nodes -subj /CN=test -days 2".split(" ")
  yield* run(["openssl", ...how, "-keyout", key, "-out", certificate])
  return { key, certificate }
})

/** Starts once; undefined when the process ended before it answered, for example because the port was taken meanwhile. */
const start = async (directory: string, auth: RegistryAuthentication | undefined) => {
  const port = await freePort()
  const config = path.join(directory, "config.yml")
  await fs.writeFile(
    config,
    `version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: ${quoted(path.join(directory, "data"))}\nhttp:\n  addr: 127.0.0.1:${port}\n${await authSection(directory, auth)}`
  )
  const child = Bun.spawn(["docker-registry", "serve", config], { stdout: "ignore", stderr: "pipe", stdin: "ignore" })
  const deadline = Date.now() + 20_000
  while (child.exitCode === null && Date.now() < deadline) {
    const answer = await fetch(`http://127.0.0.1:${port}/v2/`).catch(() => undefined)
    if (answer !== undefined) {
      await answer.body?.cancel()
      return { child, port }
    }
    await Bun.sleep(25)
  }
  child.kill("SIGKILL")
  return undefined
}

/** skopeo's `dir:` form of one image. */
const dirFiles = ({ top, blobs }: LayoutImage): ReadonlyMap<string, Uint8Array> =>
  new Map([
    ["version", Buffer.from("Directory Transport Version: 1.1\n")],
    ["manifest.json", top.bytes],
    ...blobs.map(({ descriptor, bytes }) => [descriptor.digest.slice("sha256:".length), bytes] as const)
  ])

/** What docker-registry's filesystem driver keeps for an image (distribution `registry/storage/paths.go`). */
const storageFiles = (repository: string, tag: string, image: LayoutImage): ReadonlyMap<string, Uint8Array> => {
  const files = new Map<string, Uint8Array>()
  const links = `repositories/${repository}`
  for (const { descriptor, bytes } of [image.top, ...image.blobs]) {
    const hex = descriptor.digest.slice("sha256:".length)
    files.set(`blobs/sha256/${hex.slice(0, 2)}/${hex}/data`, bytes)
    const kind = descriptor.mediaType.includes("manifest") ? "_manifests/revisions" : "_layers"
    files.set(`${links}/${kind}/sha256/${hex}/link`, Buffer.from(descriptor.digest))
  }
  files.set(`${links}/_manifests/tags/${tag}/current/link`, Buffer.from(image.top.descriptor.digest))
  return files
}

/** A running registry; the process and its directory go with the scope. */
export const startRegistry = Effect.fn("test.registry")(function* (auth?: RegistryAuthentication) {
  const directory = yield* temporaryDirectory("registry")
  const { port } = yield* Effect.acquireRelease(
    Effect.promise(async () => {
      for (let attempt = 0; attempt < 3; attempt++) {
        const started = await start(directory, auth)
        if (started !== undefined) return started
      }
      throw new Error("docker-registry does not start")
    }),
    ({ child }) =>
      Effect.promise(async () => {
        child.kill("SIGKILL")
        await child.exited
      })
  )
  const host = `127.0.0.1:${port}`
  const credentials = auth?.kind === "basic" ? ["--dest-creds", `${auth.username}:${auth.password}`] : []
  const push = Effect.fnUntraced(function* (repositoryAndTag: string, image: LayoutImage) {
    const layout = path.join(directory, `layout-${crypto.randomUUID()}`)
    // skopeo reads Docker's media types from its `dir:` form only.
    const docker = image.top.descriptor.mediaType.includes("docker")
    yield* Effect.promise(() =>
      writeFiles(layout, docker ? dirFiles(image) : layoutFiles([{ ...image, name: "pushed" }]))
    )
    const flags = ["--insecure-policy", "copy", "--all", "--preserve-digests", "--quiet", "--dest-tls-verify=false"]
    const from = docker ? `dir:${layout}` : `oci:${layout}:pushed`
    yield* run(["skopeo", ...flags, ...credentials, from, `docker://${host}/${repositoryAndTag}`])
  })
  const putManifest = (repositoryAndTag: string, blob: ImageBlob) =>
    Effect.promise(async () => {
      const [repository, tag] = repositoryAndTag.split(":")
      const headers = { "content-type": blob.descriptor.mediaType }
      const url = `http://${host}/v2/${repository}/manifests/${tag}`
      const answer = await fetch(url, { method: "PUT", headers, body: blob.bytes as Uint8Array<ArrayBuffer> })
      if (!answer.ok) throw new Error(`${url}: ${answer.status} ${await answer.text()}`)
    })
  const seed = (repository: string, tag: string, image: LayoutImage) =>
    Effect.promise(() =>
      writeFiles(path.join(directory, "data/docker/registry/v2"), storageFiles(repository, tag, image))
    )
  return { host, push, putManifest, seed } satisfies TestRegistry
})
