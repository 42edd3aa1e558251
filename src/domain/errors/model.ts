/** Names every way in which a model can not be registered, fetched, mounted or dropped. Holds no behaviour. */
import { Schema } from "effect"
import { taggedError } from "./base.ts"

export class ModelNotFound extends taggedError<ModelNotFound>()("ModelNotFound", { model: Schema.String }) {
  override get message(): string {
    return `no model "${this.model}" is registered; see 'bunker model ls', or register it with 'bunker model add'`
  }
}

export class ModelExists extends taggedError<ModelExists>()("ModelExists", { model: Schema.String }) {
  override get message(): string {
    return `a model "${this.model}" is registered already; change it with 'bunker model add --replace', or choose another name`
  }
}

export class InvalidModelName extends taggedError<InvalidModelName>()("InvalidModelName", {
  model: Schema.String
}) {
  override get message(): string {
    return `${JSON.stringify(this.model.slice(0, 140))} is not a model's name: use 1 to 128 of A-Z a-z 0-9 _ - and start with a letter or _`
  }
}

/** A request names one model in its path and another in its body. */
export class ModelNameMismatch extends taggedError<ModelNameMismatch>()("ModelNameMismatch", {
  model: Schema.String,
  body: Schema.String
}) {
  override get message(): string {
    return `the body's "name" is "${this.body}" and the path's is "${this.model}"; a model can not be renamed: add it anew and remove the old one`
  }
}

/** A request carries a secret where only the name of one may stand. Names the field, never its value. */
export class PlaintextCredential extends taggedError<PlaintextCredential>()("PlaintextCredential", {
  field: Schema.String
}) {
  override get message(): string {
    return `"${this.field}" looks like a secret, and secrets are not taken in requests; put it into the environment as BUNKER_HF_TOKEN_<ALIAS> and name it with "credential_alias": "<alias>"`
  }
}

export class CredentialNotFound extends taggedError<CredentialNotFound>()("CredentialNotFound", {
  alias: Schema.String,
  /** The environment variable that is looked at. */
  variable: Schema.String
}) {
  override get message(): string {
    return `there is no secret for the credential alias "${this.alias}"; set ${this.variable}, or store it in the keyring as service "bunker", name "hf/${this.alias}", or refer to it in bunker.config.ts as options.models.credentials["${this.alias}"]`
  }
}

/** A model's source can not be used as it is. */
export class ModelSourceInvalid extends taggedError<ModelSourceInvalid>()("ModelSourceInvalid", {
  model: Schema.String,
  source: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `model "${this.model}" can not be pulled from "${this.source}": ${this.reason}; or give a local directory as "fixture_dir"`
  }
}

export class ModelDirectoryInvalid extends taggedError<ModelDirectoryInvalid>()("ModelDirectoryInvalid", {
  directory: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `the directory ${this.directory} can not be taken: ${this.reason}; give the absolute path of a directory with the model's files`
  }
}

/** Fetching or storing the files failed; what was there before is still there. */
export class ModelInstallFailed extends taggedError<ModelInstallFailed>()("ModelInstallFailed", {
  model: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `model "${this.model}" was not installed: ${this.reason}; what was there before is kept; 'bunker model pull ${this.model}' tries again`
  }
}

export class ModelInUse extends taggedError<ModelInUse>()("ModelInUse", {
  model: Schema.String,
  sandboxes: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return `model "${this.model}" is mounted in ${this.sandboxes.join(", ")}; stop them first ('bunker stop')`
  }
}

/** A sandbox wants a model that is not here whole, and its policy forbids fetching it. */
export class ModelNotInstalled extends taggedError<ModelNotInstalled>()("ModelNotInstalled", {
  model: Schema.String,
  /** `missing`, or what is wrong with it. */
  detail: Schema.String
}) {
  override get message(): string {
    return `model "${this.model}" can not be mounted: ${this.detail}; 'bunker model pull ${this.model}' fetches it`
  }
}
