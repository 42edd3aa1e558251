import { expect, test } from "bun:test"
import crypto from "node:crypto"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { makeAuthority, restoreAuthority } from "../../../src/net/tls/authority.ts"
import { runProgram } from "../../support/tlsBench.ts"

/** What openssl makes of a certificate under an authority. */
const verify = async (authority: string, certificate: string, host: string) => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "bunker-ca-"))
  const [ca, leaf] = [path.join(directory, "ca.pem"), path.join(directory, "leaf.pem")]
  fs.writeFileSync(ca, authority)
  fs.writeFileSync(leaf, certificate)
  const { stderr, stdout } = await runProgram([
    "openssl",
    "verify",
    "-x509_strict",
    "-CAfile",
    ca,
    "-verify_hostname",
    host,
    leaf
  ])
  fs.rmSync(directory, { recursive: true })
  return `${stdout}${stderr}`.replaceAll(directory, "")
}

test("openssl accepts a host's certificate strictly, under its own name alone", async () => {
  const authority = makeAuthority("box", ["api.test", "b.test"])
  const { cert } = authority.certificateFor("api.test")
  expect(await verify(authority.certificate, cert, "api.test")).toBe("/leaf.pem: OK\n")
  expect(await verify(authority.certificate, cert, "b.test")).toContain("hostname mismatch")
})

test("the authority's key signs for its hosts alone", async () => {
  const authority = makeAuthority("box", ["api.test"])
  expect(() => authority.certificateFor("evil.test")).toThrow()
  // As somebody would who has the key: another authority with the same key and another list of hosts.
  const stolen = restoreAuthority({ ...authority.serialize(), hosts: ["evil.test"] })
  expect(await verify(authority.certificate, stolen.certificateFor("evil.test").cert, "evil.test")).toContain(
    "permitted subtree violation"
  )
})

test("an authority that was restored signs for whoever trusts the first", async () => {
  const state = makeAuthority("box", ["api.test"]).serialize()
  const again = restoreAuthority(JSON.parse(JSON.stringify(state)))
  expect(again.certificate).toBe(state.certificate)
  expect(await verify(state.certificate, again.certificateFor("api.test").cert, "api.test")).toContain("OK")
  expect(() => restoreAuthority({ ...state, key: makeAuthority("box", []).serialize().key })).toThrow(
    "another certificate"
  )
})

test("a name of a sandbox and of a host may be long", () => {
  const host = `${"a".repeat(60)}.${"b".repeat(60)}.${"c".repeat(60)}.test`
  const authority = makeAuthority("n".repeat(128), [host])
  const leaf = new crypto.X509Certificate(authority.certificateFor(host).cert)
  expect(leaf.subjectAltName).toBe(`DNS:${host}`)
})
