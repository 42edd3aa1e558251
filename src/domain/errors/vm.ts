/** Names every way in which a sandbox, its engine or its guest fails. Holds no behaviour. */
import { Schema } from "effect"
import { advised } from "./advice.ts"

export class SandboxNotFound extends Schema.TaggedError<SandboxNotFound>()("SandboxNotFound", { name: Schema.String }) {
  override get message(): string {
    return `no sandbox "${this.name}"; see 'bunker ps -a'`
  }
}

export class AlreadyExists extends Schema.TaggedError<AlreadyExists>()("AlreadyExists", { name: Schema.String }) {
  override get message(): string {
    return `a sandbox "${this.name}" exists; choose another --name, or 'bunker rm ${this.name}' first`
  }
}

export class AlreadyRunning extends Schema.TaggedError<AlreadyRunning>()("AlreadyRunning", {
  name: Schema.String,
  /** True while another process boots it. */
  starting: Schema.optionalKey(Schema.Boolean)
}) {
  override get message(): string {
    if (this.starting === true) {
      return `sandbox "${this.name}" is being started already, by another process; 'bunker ps' shows when it is up`
    }
    return `sandbox "${this.name}" is running already; reach it with 'bunker exec ${this.name} ...'`
  }
}

/** The sandbox is in a state that does not allow the operation. */
export class WrongState extends Schema.TaggedError<WrongState>()("WrongState", {
  name: Schema.String,
  status: Schema.String,
  operation: Schema.String,
  advice: Schema.String
}) {
  override get message(): string {
    return `can not ${this.operation} "${this.name}": it is ${this.status}; ${this.advice}`
  }
}

/** A field of a sandbox definition is out of its bounds. */
export class InvalidSpec extends Schema.TaggedError<InvalidSpec>()("InvalidSpec", {
  field: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `${this.field}: ${this.reason}`
  }
}

/** A path of the host can not be shared with a sandbox. */
export class MountRefused extends Schema.TaggedError<MountRefused>()("MountRefused", {
  source: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return advised(
      `can not mount ${this.source}: `,
      this.reason,
      "give another path of this machine, or put that right"
    )
  }
}

/** The named engine can not run a VM on this machine. */
export class EngineUnavailable extends Schema.TaggedError<EngineUnavailable>()("EngineUnavailable", {
  engine: Schema.String,
  reason: Schema.String,
  advice: Schema.String
}) {
  override get message(): string {
    return `engine ${this.engine} can not be used here: ${this.reason}; ${this.advice}`
  }
}

/** Places that a message names; the error has them all. */
const placesShown = 4

/** A shared library was not found in any of the places looked at. */
export class LibraryNotFound extends Schema.TaggedError<LibraryNotFound>()("LibraryNotFound", {
  library: Schema.String,
  /** Every place, in the order of the search, with what was wrong there. */
  looked: Schema.Array(Schema.String),
  advice: Schema.String
}) {
  override get message(): string {
    const [more, first] = [this.looked.length - placesShown, this.looked.slice(0, placesShown).join(", ")]
    return `${this.library} was not found; looked at ${first}${more > 0 ? ` and ${more} more` : ""}; ${this.advice}`
  }
}

/** A libkrun call answered with a negative errno. */
export class KrunCallFailed extends Schema.TaggedError<KrunCallFailed>()("KrunCallFailed", {
  call: Schema.String,
  argument: Schema.String,
  errno: Schema.String
}) {
  override get message(): string {
    const advice = "'bunker doctor' checks the engine, and --engine qemu does without it"
    return `libkrun's ${this.call}(${this.argument}) failed with ${this.errno}; ${advice}`
  }
}

/** The VM ended, or its agent never said hello, before the sandbox was up. */
export class BootFailed extends Schema.TaggedError<BootFailed>()("BootFailed", {
  name: Schema.String,
  reason: Schema.String,
  /** Last lines of the guest's console, at most 4 KiB. */
  console: Schema.String
}) {
  override get message(): string {
    const tail = this.console.trim().split("\n").at(-1)?.trim()
    return `sandbox "${this.name}" did not boot: ${this.reason}${tail ? `; last console line: ${tail}` : ""}; 'bunker logs --console ${this.name}' shows the rest`
  }
}

/** The VM ended by itself, or was ended by something else on the host, while somebody worked in it. */
export class SandboxCrashed extends Schema.TaggedError<SandboxCrashed>()("SandboxCrashed", {
  name: Schema.String,
  /** One phrase. */
  reason: Schema.String,
  /** Last lines of the guest's console, a few. */
  console: Schema.Array(Schema.String),
  /** True when what is left of it goes in an hour. */
  ephemeral: Schema.Boolean
}) {
  override get message(): string {
    const { name } = this
    const last = this.console.join(" | ")
    const said = last === "" ? "its console says nothing" : `its console said last: ${last}`
    const logs =
      last === "" ? `'bunker logs ${name}' shows its output` : `'bunker logs --console ${name}' shows all of it`
    const next = this.ephemeral ? "for an hour" : `and 'bunker start ${name}' boots it again`
    return `sandbox "${name}" crashed: ${this.reason}; ${said}; ${logs}, ${next}`
  }
}

/** The channel to the guest agent broke or carried what the protocol forbids. */
export class GuestChannelFailed extends Schema.TaggedError<GuestChannelFailed>()("GuestChannelFailed", {
  reason: Schema.String
}) {
  override get message(): string {
    const advice = "try again; 'bunker inspect NAME' tells whether the sandbox is still there"
    return advised("the channel to the guest agent failed: ", this.reason, advice)
  }
}

/** The guest could not start the command. */
export class ExecFailed extends Schema.TaggedError<ExecFailed>()("ExecFailed", {
  reason: Schema.Literals(["not_found", "not_executable", "bad_cwd", "bad_user", "limit", "failed"]),
  detail: Schema.String
}) {
  override get message(): string {
    switch (this.reason) {
      case "not_found":
        return `the guest has no command "${this.detail}"; check the image's PATH and the spelling`
      case "not_executable":
        return `"${this.detail}" can not be executed in the guest; check its mode and its interpreter`
      case "bad_cwd":
        return `the guest has no working directory "${this.detail}"; choose another with -w`
      case "bad_user":
        return `the guest has no user "${this.detail}"; choose another with -u`
      case "limit":
        return advised("the guest could not start the command: ", this.detail, "pass less, or put it into a file")
      default: {
        const advice = "check the command; 'bunker logs --console NAME' may say more"
        return advised("the guest could not start the command: ", this.detail, advice)
      }
    }
  }
  /** Exit code by docker's habit: 127 not found, 126 not executable, 125 everything else. */
  get exitCode(): 125 | 126 | 127 {
    return this.reason === "not_found" ? 127 : this.reason === "not_executable" ? 126 : 125
  }
}

/** A command that another process of the host started in a guest can not be taken over. */
export class ReattachRefused extends Schema.TaggedError<ReattachRefused>()("ReattachRefused", {
  /** `unsupported`: this guest's agent keeps no commands; `not_found`: it was never started; `bad_offset`: it said less. */
  reason: Schema.Literals(["unsupported", "not_found", "bad_offset", "failed"]),
  detail: Schema.String
}) {
  override get message(): string {
    return `the command can not be taken over from the process that looked after it: ${this.detail}; start the sandbox again`
  }
}

/** The process behind a sandbox's network card does not start, or does not do what it was asked. */
export class NetworkFailed extends Schema.TaggedError<NetworkFailed>()("NetworkFailed", {
  name: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return advised(
      `the network of "${this.name}" failed: `,
      this.reason,
      `start the sandbox again with 'bunker restart ${this.name}'`
    )
  }
}

/** Another process supervises the sandbox and can not be reached. */
export class SupervisorUnreachable extends Schema.TaggedError<SupervisorUnreachable>()("SupervisorUnreachable", {
  name: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `the process that looks after "${this.name}" does not answer: ${this.reason}; 'bunker kill ${this.name}' ends the sandbox`
  }
}

/** The `config.toml` of a machine can not be understood; it is left as it is. */
export class MachineConfigInvalid extends Schema.TaggedError<MachineConfigInvalid>()("MachineConfigInvalid", {
  name: Schema.String,
  path: Schema.String,
  /** 1 for the first line, null when it concerns the whole file. (Errors have a `line` of their own in Bun.) */
  lineNumber: Schema.NullOr(Schema.Int),
  reason: Schema.String
}) {
  override get message(): string {
    return `${this.path}${this.lineNumber === null ? "" : `:${this.lineNumber}`}: ${this.reason}; mend it, or remove the sandbox with 'bunker rm -f ${this.name}'`
  }
}

/** A machine's disk was written over another image than the one that its reference names now. */
export class ImageMoved extends Schema.TaggedError<ImageMoved>()("ImageMoved", {
  name: Schema.String,
  image: Schema.String,
  was: Schema.String,
  is: Schema.String
}) {
  override get message(): string {
    return `the disk of "${this.name}" was written over ${this.was}, and ${this.image} is ${this.is} now; get the old one back (bunker pull or bunker load), or take image_digest out of its config.toml to put the disk over the new one`
  }
}
