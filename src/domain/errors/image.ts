/** Names every way in which finding, fetching or converting an image fails. Holds no behaviour. */
import { Schema } from "effect"
import { advised } from "./advice.ts"
import { taggedError } from "./base.ts"

/** The text is not a reference in the grammar of docker/distribution. */
export class InvalidReference extends taggedError<InvalidReference>()("InvalidReference", {
  reference: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `"${this.reference}" is not an image reference: ${this.reason}; write NAME[:TAG][@sha256:...], for example alpine:3.20`
  }
}

/** The text is not `os/architecture[/variant]`. */
export class InvalidPlatform extends taggedError<InvalidPlatform>()("InvalidPlatform", {
  platform: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `"${this.platform}" is not a platform: ${this.reason}; write OS/ARCH[/VARIANT], for example linux/arm64`
  }
}

/** Neither the local records nor, where asked, the registry know the reference. */
export class ImageNotFound extends taggedError<ImageNotFound>()("ImageNotFound", {
  reference: Schema.String,
  /** Host that was asked, absent when only local records were. */
  host: Schema.optionalKey(Schema.String),
  /** What of the image the host lacks, where it has the rest. */
  part: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    if (this.host !== undefined && this.part !== undefined) {
      return `${this.host} has "${this.reference}", but not its ${this.part}: it was pushed in part, or a part was deleted there; push it again, or use another tag of it`
    }
    return this.host === undefined
      ? `no image "${this.reference}" here; see 'bunker images', or fetch it with 'bunker pull ${this.reference}'`
      : `${this.host} has no image "${this.reference}"; check its name and tag, and 'bunker login' if it is private`
  }
}

/** Policy `never` forbids the network and the image is not here. */
export class ImageNotCached extends taggedError<ImageNotCached>()("ImageNotCached", {
  reference: Schema.String
}) {
  override get message(): string {
    return `image "${this.reference}" is not cached and its pull policy, never, forbids fetching it; run 'bunker pull ${this.reference}'`
  }
}

export class ImageInUse extends taggedError<ImageInUse>()("ImageInUse", {
  reference: Schema.String,
  sandboxes: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return `image "${this.reference}" is the root of ${this.sandboxes.join(", ")}; remove them first ('bunker rm') or force it`
  }
}

export class PlatformNotFound extends taggedError<PlatformNotFound>()("PlatformNotFound", {
  reference: Schema.String,
  wanted: Schema.String,
  available: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return `"${this.reference}" has no image for ${this.wanted}, only for ${this.available.join(", ") || "nothing"}; choose one with --platform`
  }
}

/** A manifest, index or config breaks its schema, or uses what this build does not know. */
export class ManifestInvalid extends taggedError<ManifestInvalid>()("ManifestInvalid", {
  what: Schema.String,
  /** Path of the field, `$` for the document. */
  field: Schema.String,
  value: Schema.String
}) {
  override get message(): string {
    return `${this.what} is not valid: ${this.field} is ${this.value}; use another tag of it, or have it built anew`
  }
}

export class DigestMismatch extends taggedError<DigestMismatch>()("DigestMismatch", {
  what: Schema.String,
  expected: Schema.String,
  actual: Schema.String
}) {
  override get message(): string {
    return `${this.what} is not what its descriptor says: expected ${this.expected}, got ${this.actual}; the source is corrupt or was changed on the way; try again, or get it from elsewhere`
  }
}

/** A layer passes a limit, breaks its format or tries to leave its tree; nothing of it is kept. */
export class LayerRejected extends taggedError<LayerRejected>()("LayerRejected", {
  layer: Schema.String,
  reason: Schema.String,
  entry: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    const where = this.entry === undefined ? "" : ` (at "${this.entry}")`
    return `layer ${this.layer} was refused: ${this.reason}${where}; use another image, or have this one built without that`
  }
}

export class RegistryAuth extends taggedError<RegistryAuth>()("RegistryAuth", {
  host: Schema.String,
  status: Schema.Int,
  /** Empty when a login was checked. */
  repository: Schema.String
}) {
  override get message(): string {
    return this.repository === ""
      ? `${this.host} does not accept this user name and password (HTTP ${this.status}); nothing was stored; check both, and use an access token in place of the password where the registry wants one`
      : `${this.host} refused access to ${this.repository} (HTTP ${this.status}); check the name, or run 'bunker login ${this.host === "registry-1.docker.io" ? "docker.io" : this.host}' if it is private`
  }
}

export class RegistryUnavailable extends taggedError<RegistryUnavailable>()("RegistryUnavailable", {
  host: Schema.String,
  attempts: Schema.Int,
  reason: Schema.String
}) {
  override get message(): string {
    return `${this.host} can not be reached after ${this.attempts} attempt(s): ${this.reason}; check the network and the host name, then try again`
  }
}

/** A path given to `load` is not an OCI layout, an OCI archive or a `docker save` archive. */
export class ArchiveInvalid extends taggedError<ArchiveInvalid>()("ArchiveInvalid", {
  path: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    const advice = "give an OCI layout directory, an OCI archive or a 'docker save' archive"
    return advised(`${this.path} can not be loaded: `, this.reason, advice)
  }
}

/** Credentials were right, or were to be forgotten, and the place where they are kept would not have it. */
export class LoginNotStored extends taggedError<LoginNotStored>()("LoginNotStored", {
  /** File or credential helper. */
  place: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `the credentials in ${this.place} were not changed: ${this.reason}; put that right and try again`
  }
}

/** A path given to `import` is no root file system, or can not be read whole. */
export class RootfsInvalid extends taggedError<RootfsInvalid>()("RootfsInvalid", {
  path: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `${this.path} can not be imported: ${this.reason}; give a directory that holds a root file system, or a tar of one (for an image archive there is 'bunker load')`
  }
}

/** The cache can not give back what an image was made of. */
export class ImageNotSavable extends taggedError<ImageNotSavable>()("ImageNotSavable", {
  reference: Schema.String,
  reason: Schema.String,
  /** What brings the missing part: a pull, or a removal before it. */
  again: Schema.Literals(["pull", "remove"])
}) {
  override get message(): string {
    const fetch = `'bunker pull ${this.reference}' (or load it again)`
    const first = this.again === "pull" ? "" : `'bunker image rm ${this.reference}', then `
    return `image "${this.reference}" can not be saved: ${this.reason}; run ${first}${fetch}`
  }
}

export type ImageError =
  | ImageNotSavable
  | RootfsInvalid
  | LoginNotStored
  | InvalidReference
  | InvalidPlatform
  | ImageNotFound
  | ImageNotCached
  | ImageInUse
  | PlatformNotFound
  | ManifestInvalid
  | DigestMismatch
  | LayerRejected
  | RegistryAuth
  | RegistryUnavailable
  | ArchiveInvalid
