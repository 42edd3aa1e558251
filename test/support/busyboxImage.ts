/** Makes an OCI archive of a small real root file system out of the machine's static busybox, and homes that have it. */
import { readFileSync, rmSync, writeFileSync } from "node:fs"
import path from "node:path"
import { Home } from "./bunker.ts"
import { archiveOf, directory, type Entry, file, imageOf, layoutFiles, symlink } from "./image.ts"

const applets =
  "sh ls cat echo uname sleep env id ps mount ip hostname head tail sha256sum dd true false stty kill printf wc mkdir rm touch sync pwd tr grep date test seq nc stat ln df readlink".split(
    " "
  )

const places = (process.env["PATH"] ?? "").split(":").concat("/bin", "/usr/bin")
/** A busybox that needs no library, undefined where there is none. */
export const busyboxPath = (): string | undefined =>
  places
    .map((place) => path.join(place, "busybox"))
    .find((candidate) => {
      try {
        return !readFileSync(candidate).subarray(0, 4096).includes("/ld-linux")
      } catch {
        return false
      }
    })

/** Entries of a small root file system with a shell. */
export const busyboxLayer = (busybox: string): ReadonlyArray<Entry> => [
  directory("bin"),
  file("bin/busybox", readFileSync(busybox), { mode: 0o755 }),
  ...applets.map((name) => symlink(`bin/${name}`, "busybox")),
  directory("etc"),
  file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"),
  file("etc/group", "root:x:0:\nuser:x:1000:\nextra:x:1001:user\n"),
  file("etc/os-release", 'NAME="Busybox test image"\n'),
  directory("root", { mode: 0o700 }),
  directory("home"),
  directory("home/user", { uid: 1000, gid: 1000 }),
  directory("tmp", { mode: 0o1777 }),
  directory("dev"),
  directory("proc"),
  directory("sys"),
  file("bin/not-executable", "text", { mode: 0o644 })
]

/** The archive's bytes. */
export const busyboxArchive = (busybox: string): Uint8Array => {
  const image = imageOf([busyboxLayer(busybox)], {
    config: {
      Env: ["PATH=/bin", "FROM_IMAGE=yes"],
      Cmd: ["sh", "-c", "echo greetings from the guest"],
      WorkingDir: "/root"
    }
  })
  return archiveOf(layoutFiles([{ name: "test/busybox:1", top: image.manifest, blobs: image.blobs }]))
}

/** Puts the image into a home, with the program. */
export const loadBusybox = async (home: Home): Promise<void> => {
  const archive = path.join(home.directory, "image.tar")
  writeFileSync(archive, busyboxArchive(busyboxPath()!))
  await home.must(["load", "-q", archive])
  rmSync(archive)
}

/** A home that has the image. */
export const busyboxHome = async (): Promise<Home> => {
  const home = new Home()
  await loadBusybox(home)
  return home
}
