/** Cases of suites that boot machines, on the host and in the KVM lab. */
import { test } from "bun:test"

/** True in the KVM lab, where everything is slow, and processes that start above all. */
export const inLab = process.env["BUNKER_LAB"] !== undefined

/** `BUNKER_LAB_ALL` leaves nothing to the host. */
const everywhere = !inLab || process.env["BUNKER_LAB_ALL"] !== undefined

type Case = (name: string, body: () => Promise<void>) => void

/** `it` runs everywhere, `itOnHost` what no engine can change: in the lab it says that it is left to the host. */
export const vmCases = (timeoutMs: number): { readonly it: Case; readonly itOnHost: Case } => {
  const it: Case = (name, body) => test(name, body, timeoutMs)
  const onHost: Case = (name) => test.skip(`${name} (the same for every engine: runs on the host)`, () => {})
  return { it, itOnHost: everywhere ? it : onHost }
}
