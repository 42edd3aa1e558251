/** The network of a sandbox for a program: other rules for it, what it did, and which rules would do. Carries no traffic. */
import { Effect, Stream } from "effect"
import { VmSupervisor } from "../actors/sandboxes/VmSupervisor.ts"
import type { NetworkConfig } from "../domain/network/config.ts"
import type { NetworkEvent } from "../domain/network/events.ts"
import type { Suggestion } from "../domain/network/suggest.ts"
import { iterate, type Runtime, run } from "./runtime.ts"
import type { NetworkOptions } from "./sandboxOptions.ts"

export class Network {
  constructor(
    private readonly runtime: Runtime,
    private readonly name: string
  ) {}

  /**
   * Changes its rules: adds to lists and takes over what else is given, or with `replace`, default false, takes these alone. In a
   * running sandbox they hold once this answers, and connections that they deny are reset. Answers all rules.
   */
  update(rules: NetworkOptions, options: { readonly replace?: boolean } = {}): Promise<NetworkConfig> {
    const { name } = this
    return run(
      this.runtime,
      VmSupervisor.use((vms) => vms.NetworkUpdate({ name, network: rules, replace: options.replace === true }))
    )
  }

  /** What it denied, was used for and failed at, oldest first; with `follow`, default false, until it has ended. */
  async *events(
    options: { readonly follow?: boolean; readonly signal?: AbortSignal } = {}
  ): AsyncGenerator<NetworkEvent, void, void> {
    const { name } = this
    const follow = options.follow === true
    const events = Stream.unwrap(Effect.map(VmSupervisor, (vms) => vms.NetworkEvents({ name, follow })))
    yield* iterate(this.runtime, events, options.signal)
  }

  /** The shortest rules that would have let through what was denied, and all that was used. */
  suggest(): Promise<Suggestion> {
    const { name } = this
    return run(
      this.runtime,
      VmSupervisor.use((vms) => vms.NetworkSuggest({ name }))
    )
  }
}
