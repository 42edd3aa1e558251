/** Names every way in which a sandbox, its engine or its guest fails. Holds no behaviour. */
import { Schema } from "effect"
import { advised } from "./advice.ts"
import { taggedError } from "./base.ts"

export class SandboxNotFound extends taggedError<SandboxNotFound>()("SandboxNotFound", { sandbox: Schema.String }) {
  override get message(): string {
    return `no sandbox "${this.sandbox}"; see 'bunker ps -a'`
  }
}

export class AlreadyExists extends taggedError<AlreadyExists>()("AlreadyExists", { sandbox: Schema.String }) {
  override get message(): string {
    return `a sandbox "${this.sandbox}" exists; choose another --name, or 'bunker rm ${this.sandbox}' first`
  }
}

export class AlreadyRunning extends taggedError<AlreadyRunning>()("AlreadyRunning", {
  sandbox: Schema.String,
  /** True while another process boots it. */
  starting: Schema.optionalKey(Schema.Boolean)
}) {
  override get message(): string {
    if (this.starting === true) {
      return `sandbox "${this.sandbox}" is being started already, by another process; 'bunker ps' shows when it is up`
    }
    return `sandbox "${this.sandbox}" is running already; reach it with 'bunker exec ${this.sandbox} ...'`
  }
}

/** The sandbox is in a state that does not allow the operation. */
export class WrongState extends taggedError<WrongState>()("WrongState", {
  sandbox: Schema.String,
  status: Schema.String,
  operation: Schema.String,
  advice: Schema.String
}) {
  override get message(): string {
    return `can not ${this.operation} "${this.sandbox}": it is ${this.status}; ${this.advice}`
  }
}

/** A field of a sandbox definition is out of its bounds. */
export class InvalidSpec extends taggedError<InvalidSpec>()("InvalidSpec", {
  field: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `${this.field}: ${this.reason}`
  }
}

/** A path of the host can not be shared with a sandbox. */
export class MountRefused extends taggedError<MountRefused>()("MountRefused", {
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
export class EngineUnavailable extends taggedError<EngineUnavailable>()("EngineUnavailable", {
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
export class LibraryNotFound extends taggedError<LibraryNotFound>()("LibraryNotFound", {
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
export class KrunCallFailed extends taggedError<KrunCallFailed>()("KrunCallFailed", {
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
export class BootFailed extends taggedError<BootFailed>()("BootFailed", {
  sandbox: Schema.String,
  reason: Schema.String,
  /** Last lines of the guest's console, at most 4 KiB. */
  console: Schema.String
}) {
  override get message(): string {
    const tail = this.console.trim().split("\n").at(-1)?.trim()
    return `sandbox "${this.sandbox}" did not boot: ${this.reason}${tail ? `; last console line: ${tail}` : ""}; 'bunker logs --console ${this.sandbox}' shows the rest`
  }
}

/** The VM ended by itself, or was ended by something else on the host, while somebody worked in it. */
export class SandboxCrashed extends taggedError<SandboxCrashed>()("SandboxCrashed", {
  sandbox: Schema.String,
  /** One phrase. */
  reason: Schema.String,
  /** Last lines of the guest's console, a few. */
  console: Schema.Array(Schema.String),
  /** True when what is left of it goes in an hour. */
  ephemeral: Schema.Boolean
}) {
  override get message(): string {
    const { sandbox: name } = this
    const last = this.console.join(" | ")
    const said = last === "" ? "its console says nothing" : `its console said last: ${last}`
    const logs =
      last === "" ? `'bunker logs ${name}' shows its output` : `'bunker logs --console ${name}' shows all of it`
    const next = this.ephemeral ? "for an hour" : `and 'bunker start ${name}' boots it again`
    return `sandbox "${name}" crashed: ${this.reason}; ${said}; ${logs}, ${next}`
  }
}

/** The channel to the guest agent broke or carried what the protocol forbids. */
export class GuestChannelFailed extends taggedError<GuestChannelFailed>()("GuestChannelFailed", {
  reason: Schema.String
}) {
  override get message(): string {
    const advice = "try again, and 'bunker inspect NAME' tells whether the sandbox is still there"
    return advised("the channel to the guest agent failed: ", this.reason, advice)
  }
}

/** A name in quotes, and outside of them why the guest's kernel would not have it, where the agent says so after a colon. */
const quoted = (detail: string): string => {
  const [, name, why] = /^(.*): ([A-Z][a-z].*|its interpreter is missing)$/s.exec(detail) ?? []
  return name === undefined ? `"${detail}"` : `"${name}" (${why})`
}

/** The guest could not start the command. */
export class ExecFailed extends taggedError<ExecFailed>()("ExecFailed", {
  reason: Schema.Literals(["not_found", "not_executable", "bad_cwd", "bad_user", "limit", "failed"]),
  detail: Schema.String
}) {
  override get message(): string {
    switch (this.reason) {
      case "not_found":
        return `the guest has no command ${quoted(this.detail)}; check the image's PATH and the spelling`
      case "not_executable":
        return `${quoted(this.detail)} can not be executed in the guest; check its mode and its interpreter`
      case "bad_cwd":
        return `the guest has no working directory ${quoted(this.detail)}; choose another with -w`
      case "bad_user":
        return `the guest has no user ${quoted(this.detail)}; choose another with -u`
      case "limit":
        return advised("the guest could not start the command: ", this.detail, "pass less, or put it into a file")
      default: {
        const advice = "check the command, and see what 'bunker logs --console NAME' says"
        return advised("the guest could not start the command: ", this.detail, advice)
      }
    }
  }
  /** Exit code by docker's habit: 127 not found, 126 not executable, 125 everything else. */
  get exitCode(): 125 | 126 | 127 {
    return this.reason === "not_found" ? 127 : this.reason === "not_executable" ? 126 : 125
  }
}

/** A command that was to succeed ended with another exit code than 0. */
export class CommandFailed extends taggedError<CommandFailed>()("CommandFailed", {
  /** 128 + n when signal n ended it, 124 when its time was up. */
  exitCode: Schema.Int,
  /** The end of what it said, at most 4,096 characters: of stderr, or where that is empty of stdout. */
  output: Schema.String
}) {
  override get message(): string {
    const last = this.output.split("\n").at(-1)?.trim().slice(0, 200)
    return `the command ended with ${this.exitCode}${last ? `, its last words are: ${last}` : ""}; see its output, or take any exit code with check: false or nothrow()`
  }
}

/** Something in a sandbox was waited for in vain. */
export class NotReady extends taggedError<NotReady>()("NotReady", {
  sandbox: Schema.String,
  /** What was waited for. */
  what: Schema.String,
  /** One phrase. */
  reason: Schema.String
}) {
  override get message(): string {
    return `sandbox "${this.sandbox}" is not ready, ${this.what} was waited for: ${this.reason}; see 'bunker logs ${this.sandbox}', or wait longer with timeoutMs`
  }
}

/** What was collected for one answer has more bytes than may be held; the command was ended, and nothing of it is given out. */
export class OutputTooLarge extends taggedError<OutputTooLarge>()("OutputTooLarge", {
  /** Most bytes that are collected. */
  bytesMax: Schema.Int,
  /** How the front end that collected them gives them out as they come. */
  advice: Schema.String
}) {
  override get message(): string {
    return `there are more than the ${this.bytesMax} bytes that are collected at once; ${this.advice}`
  }
}

/** A command that another process of the host started in a guest can not be taken over. */
export class ReattachRefused extends taggedError<ReattachRefused>()("ReattachRefused", {
  /** `unsupported`: this guest's agent keeps no commands; `not_found`: it was never started; `bad_offset`: it said less. */
  reason: Schema.Literals(["unsupported", "not_found", "bad_offset", "failed"]),
  detail: Schema.String
}) {
  override get message(): string {
    return `the command can not be taken over from the process that looked after it: ${this.detail}; start the sandbox again`
  }
}

/** The process behind a sandbox's network card does not start, or does not do what it was asked. */
export class NetworkFailed extends taggedError<NetworkFailed>()("NetworkFailed", {
  sandbox: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return advised(
      `the network of "${this.sandbox}" failed: `,
      this.reason,
      `start the sandbox again with 'bunker restart ${this.sandbox}'`
    )
  }
}

/** Another process supervises the sandbox and can not be reached. */
export class SupervisorUnreachable extends taggedError<SupervisorUnreachable>()("SupervisorUnreachable", {
  sandbox: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `the process that looks after "${this.sandbox}" does not answer: ${this.reason}; 'bunker kill ${this.sandbox}' ends the sandbox`
  }
}

/** The `config.toml` of a machine can not be understood; it is left as it is. */
export class MachineConfigInvalid extends taggedError<MachineConfigInvalid>()("MachineConfigInvalid", {
  sandbox: Schema.String,
  path: Schema.String,
  /** 1 for the first line, null when it concerns the whole file. (Errors have a `line` of their own in Bun.) */
  lineNumber: Schema.NullOr(Schema.Int),
  reason: Schema.String
}) {
  override get message(): string {
    return `${this.path}${this.lineNumber === null ? "" : `:${this.lineNumber}`}: ${this.reason}; mend it, or remove the sandbox with 'bunker rm -f ${this.sandbox}'`
  }
}

/** A machine's disk was written over another image than the one that its reference names now. */
export class ImageMoved extends taggedError<ImageMoved>()("ImageMoved", {
  sandbox: Schema.String,
  image: Schema.String,
  was: Schema.String,
  is: Schema.String
}) {
  override get message(): string {
    return `the disk of "${this.sandbox}" was written over ${this.was}, and ${this.image} is ${this.is} now; get the old one back ('bunker pull' or 'bunker load'), or take image_digest out of its config.toml to put the disk over the new one`
  }
}
