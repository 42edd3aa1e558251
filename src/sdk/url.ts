/** Says where a published port is reached. Listens for none (see actors/keeper). */
import { InvalidSpec } from "../domain/errors/vm.ts"
import type { SandboxInfo } from "../domain/sandbox/sandbox.ts"
import { thrown } from "./thrown.ts"

/** Where a published port of the guest is reached over HTTP on the machine that publishes it. Throws `InvalidSpec` for another. */
export const urlOf = ({ ports = [] }: SandboxInfo, port: number): string => {
  const found = ports.find(({ guestPort }) => guestPort === port)
  if (found === undefined) {
    const reason = `port ${String(port)} is not published; make the sandbox with ports: [{ guestPort: ${String(port)} }]`
    throw thrown(new InvalidSpec({ field: "port", reason }))
  }
  const every = found.hostIp === "0.0.0.0" || found.hostIp === "::"
  const host = every ? "127.0.0.1" : found.hostIp.includes(":") ? `[${found.hostIp}]` : found.hostIp
  return `http://${host}:${found.hostPort}`
}
