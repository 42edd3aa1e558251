/** Says which of the host's files the process of a VM needs once it is started: all others are closed to it, where Linux can do that. */
import path from "node:path"
import type { RunnerDisk, RunnerPlaces } from "../runner/protocol.ts"
import { extentsOf } from "./shares.ts"
import type { VmConfig } from "./types.ts"

/** `more`: what the engine itself reads. Directories of images stand for the files in them: there may be hundreds. */
export const placesOf = (
  config: Pick<VmConfig, "consolePath" | "runDir">,
  disks: ReadonlyArray<RunnerDisk>,
  more: ReadonlyArray<string> = []
): RunnerPlaces => {
  const images = disks.filter((disk) => disk.format === "vmdk")
  const reads = [
    ...disks.filter((disk) => disk.readOnly).map((disk) => disk.path),
    ...images.flatMap((disk) => extentsOf(disk.path).map((extent) => path.dirname(extent))),
    ...more
  ]
  const writes = [...disks.filter((disk) => !disk.readOnly).map((disk) => disk.path), config.consolePath, config.runDir]
  return { reads: [...new Set(reads)], writes: [...new Set(writes)] }
}
