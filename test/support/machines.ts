/** A definition for tests. */

import type { SafeName } from "../../src/domain/name.ts"
import type { Machine } from "../../src/domain/sandbox/definition.ts"
import { config } from "./sandboxes.ts"

export const machine = (name: string, rest: Partial<Machine> = {}): Machine => ({
  name: name as SafeName,
  vmId: crypto.randomUUID(),
  state: "created",
  createdAt: 1_700_000_000_000,
  config,
  ...rest
})
