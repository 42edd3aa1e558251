/** Names every way in which plugins can not be put together or reached. Holds no behaviour. */
import { Schema } from "effect"
import { advised } from "./advice.ts"
import { taggedError } from "./base.ts"

export class PluginMissing extends taggedError<PluginMissing>()("PluginMissing", {
  plugin: Schema.String,
  neededBy: Schema.String
}) {
  override get message(): string {
    return `plugin "${this.neededBy}" needs plugin "${this.plugin}", which is not there; add it to bunker.config.ts`
  }
}

export class PluginDuplicate extends taggedError<PluginDuplicate>()("PluginDuplicate", { plugin: Schema.String }) {
  override get message(): string {
    return `there are two plugins named "${this.plugin}"; rename or remove one`
  }
}

export class PluginCycle extends taggedError<PluginCycle>()("PluginCycle", {
  names: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return `plugins need each other in a circle: ${this.names.join(" -> ")}; break it by removing one of these deps`
  }
}

/** A plugin file can not be imported, is no plugin, or its options break its schema. */
export class PluginInvalid extends taggedError<PluginInvalid>()("PluginInvalid", {
  plugin: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return advised(
      `plugin "${this.plugin}" can not be used: `,
      this.reason,
      "mend it, or remove it from bunker.config.ts"
    )
  }
}

export class UnknownMessage extends taggedError<UnknownMessage>()("UnknownMessage", {
  plugin: Schema.String,
  message_: Schema.String
}) {
  override get message(): string {
    return `plugin "${this.plugin}" takes no message "${this.message_}"; check its name and the plugin's version`
  }
}

/** The policy does not allow the permission that a message needs. */
export class PermissionDenied extends taggedError<PermissionDenied>()("PermissionDenied", {
  plugin: Schema.String,
  permission: Schema.String
}) {
  override get message(): string {
    return `permission "${this.permission}" is not granted; allow it in the permissions of bunker.config.ts`
  }
}

/** A message's payload breaks its schema. */
export class InvalidInput extends taggedError<InvalidInput>()("InvalidInput", {
  /** Where (`config.memory_mb`, empty for the whole) and what, one for each wrong field. */
  issues: Schema.Array(Schema.Struct({ path: Schema.String, message: Schema.String }))
}) {
  override get message(): string {
    const each = this.issues.map(({ path, message }) => (path === "" ? message : `${path}: ${message}`))
    return `the input is not valid: ${each.join("; ")}`
  }
  override get suggestion(): string {
    return "put these fields right"
  }
}

export type PluginError = PluginMissing | PluginDuplicate | PluginCycle | PluginInvalid
