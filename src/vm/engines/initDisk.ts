/**
 * Builds the init disk: a small read-only EROFS with the guest agent as /init and the empty directories it mounts on.
 * Both engines boot it as /dev/vda. Holds nothing of any image or sandbox, so one per build of the agent is enough.
 */
import fs from "node:fs"
import path from "node:path"
import { publish } from "./publish.ts"

/** Directories of the init disk; the agent mounts on them before it switches to the image. */
const INIT_DIRECTORIES = ["dev", "proc", "sys", "run", "tmp", "mnt", "lower", "upper", "root", "newroot"] as const

/** Version of the layout above; part of the cached file's name. */
const LAYOUT = 1

/** What tells agents apart: sha256 of the bytes; of one inside the compiled binary its name, into which the bundler puts a digest. */
export const agentKey = (agentPath: string): string =>
  agentPath.startsWith("/$bunfs/")
    ? path.basename(agentPath)
    : new Bun.CryptoHasher("sha256").update(fs.readFileSync(agentPath)).digest("hex").slice(0, 32)

/** Path of the init disk for this agent, made on the first call. Throws what node:fs throws. */
export const cachedInitDisk = async (bootCacheDir: string, agentPath: string): Promise<string> => {
  const file = path.join(bootCacheDir, `init${LAYOUT}-${agentKey(agentPath)}.erofs`)
  if (!fs.existsSync(file)) publish(file, await buildInitDisk(fs.readFileSync(agentPath)))
  return file
}

/** The bytes of an init disk; equal agents give equal bytes. */
const buildInitDisk = async (agent: Uint8Array): Promise<Uint8Array> => {
  // Loaded for the first boot of a build alone.
  const { buildImage } = await import("../../oci/erofs/writer.ts")
  return buildImage([
    ...INIT_DIRECTORIES.map((name) => ({ path: `/${name}`, mode: 0o040755 })),
    { path: "/init", mode: 0o100755, data: agent }
  ])
}
