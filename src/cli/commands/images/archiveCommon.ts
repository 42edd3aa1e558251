/** What the commands that move images in and out as files share. */

import { ArchiveInvalid, RootfsInvalid } from "../../../domain/errors/image.ts"
import { flag } from "../../flags.ts"

export const jsonFlag = flag("json", undefined, "Print events as JSON lines")

/** Speaks of stdin by its name. */
export const namingStdin =
  (given: string) =>
  <E extends { readonly _tag: string }>(error: E): E | ArchiveInvalid | RootfsInvalid => {
    if (given !== "-") return error
    const path = "what stdin gave"
    if (error instanceof ArchiveInvalid) return new ArchiveInvalid({ path, reason: error.reason })
    return error instanceof RootfsInvalid ? new RootfsInvalid({ path, reason: error.reason }) : error
  }
