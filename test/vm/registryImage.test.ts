/** The whole way: a registry filled by skopeo, a pull by the program, the merged tree as a guest sees it. */
import { describe, expect } from "bun:test"
import { Effect } from "effect"
import { engine, Home } from "../support/bunker.ts"
import { busyboxLayer } from "../support/busyboxImage.ts"
import { directory, file, hardlink, imageOf, opaque, symlink, whiteout } from "../support/image.ts"
import { it } from "../support/it.ts"
import { hasRegistryTools, startRegistry } from "../support/registry.ts"
import { busybox, mustSkip } from "../support/requirements.ts"

const skipped = mustSkip("images of a registry in a guest", hasRegistryTools ? [] : ["docker-registry and skopeo"])

const home = Effect.acquireRelease(
  Effect.sync(() => new Home()),
  (own) => Effect.promise(() => own.dispose())
)

describe.skipIf(skipped)("an image of several layers from a registry", () => {
  it.live(
    "shows the guest the right tree: whiteouts, opaque directories, type changes, hard links, owners",
    () =>
      Effect.gen(function* () {
        const registry = yield* startRegistry()
        const image = imageOf(
          [
            [
              ...busyboxLayer(busybox!),
              directory("d"),
              file("d/gone", "lower"),
              file("d/kept", "lower"),
              directory("hidden"),
              file("hidden/old", "lower"),
              file("becomes-directory", "file"),
              directory("becomes-file"),
              file("becomes-file/inside", "x")
            ],
            [
              whiteout("d/gone"),
              opaque("hidden"),
              file("hidden/new", "upper"),
              whiteout("becomes-directory"),
              directory("becomes-directory"),
              file("becomes-directory/inside", "upper"),
              whiteout("becomes-file"),
              file("becomes-file", "a file now", { uid: 12, gid: 34, mode: 0o640 }),
              file("first-name", "linked", { mode: 0o4755 }),
              hardlink("second-name", "first-name"),
              symlink("to-kept", "d/kept")
            ],
            [file("d/kept", "top"), file("name with spaces", "s")]
          ],
          { config: { Env: ["PATH=/bin"], Cmd: ["sh"] } }
        )
        yield* registry.push("several/layers:1", { top: image.manifest, blobs: image.blobs })
        const own = yield* home
        const reference = `${registry.host}/several/layers:1`
        const script = `
          ls -A d hidden becomes-directory; cat d/kept; echo
          stat -c '%F %u:%g %a %s' becomes-file; cat becomes-file; echo
          stat -c '%h %a' first-name second-name; [ first-name -ef second-name ] && echo same
          cat to-kept; echo; cat 'name with spaces'; echo; ls -A / | grep wh; echo end`
        const { code, stdout, stderr } = yield* Effect.promise(() =>
          own.bunker(["run", "-w", "/", reference, "sh", "-c", script])
        )
        expect({ code, stderr: stderr.includes("3 layer(s)") }).toEqual({ code: 0, stderr: true })
        expect(stdout.split("\n")).toEqual([
          "becomes-directory:",
          "inside",
          "",
          "d:",
          "kept",
          "",
          "hidden:",
          "new",
          "top",
          "regular file 12:34 640 10",
          "a file now",
          "2 4755",
          "2 4755",
          "same",
          "top",
          "s",
          "end",
          ""
        ])
        // The second time nothing is fetched, and nothing is said about it.
        const again = yield* Effect.promise(() => own.bunker(["run", "--engine", engine, reference, "cat", "/d/kept"]))
        expect(again).toMatchObject({ code: 0, stdout: "top" })
        expect(again.stderr).not.toContain("layer")
      }),
    240_000
  )
})
