/** Tells which extended attributes of a host's file belong to the file and not to the host. Reads, and sets none. */
import { fileXattrs } from "../../ffi/xattrs.ts"

/** Labels of the host's own policies and marks of its overlays are no part of a tree. */
const isPortable = (name: string): boolean =>
  name.startsWith("user.") ||
  name === "security.capability" ||
  name.startsWith("system.posix_acl_") ||
  (name.startsWith("trusted.") && !name.startsWith("trusted.overlay."))

/** Extended attributes of a file that travel with it, sorted by name; a symbolic link is not followed. */
export const portableXattrs = (path: Uint8Array): ReadonlyArray<readonly [name: string, value: Uint8Array]> =>
  [...fileXattrs(path)].filter(([name]) => isPortable(name))
