/**
 * Makes the certificate authority of one sandbox and, with it, certificates for the hosts whose TLS is opened.
 *
 * Invariants: its key signs for `hosts` and names below them alone (name constraints, RFC 5280, 4.2.1.10), for no address, and for TLS
 * servers only; it is in the memory of who holds the `Authority` and in what `serialize` returns, which belongs into a file of mode
 * 0600. Trusts nothing and verifies nothing: that is for the guest, and for upstream.ts.
 */
import crypto from "node:crypto"
import {
  bitString,
  boolean,
  element,
  explicit,
  implicit,
  integer,
  objectId,
  octetString,
  sequence,
  time,
  utf8String
} from "./der.ts"

/** How long the authority is valid, in days: longer than any sandbox is kept. */
const authorityDays = 3650
/** How long a host's certificate is valid, and after how many days another one is made. */
const leafDays = 14
const leafRenewDays = 7
/** How far the guest's clock may be behind, in days. */
const slackDays = 2
const dayMs = 24 * 60 * 60 * 1000

const oids = {
  commonName: "2.5.4.3",
  organization: "2.5.4.10",
  ecdsaWithSha256: "1.2.840.10045.4.3.2",
  subjectKey: "2.5.29.14",
  keyUsage: "2.5.29.15",
  subjectAltName: "2.5.29.17",
  basicConstraints: "2.5.29.19",
  nameConstraints: "2.5.29.30",
  authorityKey: "2.5.29.35",
  extendedKeyUsage: "2.5.29.37",
  serverAuth: "1.3.6.1.5.5.7.3.1"
} as const

/** Longest common name (RFC 5280, appendix A: ub-common-name). */
const commonNameMax = 64

/** Key and certificate of an authority, as PEM. */
export interface AuthorityState {
  readonly certificate: string
  /** PKCS #8. */
  readonly key: string
  /** The sandbox that it was made for; part of the certificate's subject. */
  readonly sandbox: string
  readonly hosts: ReadonlyArray<string>
}

/** What a TLS server needs to stand for a host. */
export interface HostCertificate {
  readonly cert: string
  readonly key: string
}

export interface Authority {
  /** PEM; for the guest's trust store. */
  readonly certificate: string
  readonly hosts: ReadonlyArray<string>
  /** The certificate of one of `hosts`; made when it is first asked for, and anew before it ends. */
  readonly certificateFor: (host: string) => HostCertificate
  /** What `restoreAuthority` takes; holds the key. */
  readonly serialize: () => AuthorityState
}

const extension = (oid: string, critical: boolean, value: Uint8Array): Buffer =>
  sequence(objectId(oid), ...(critical ? [boolean(true)] : []), octetString(value))

const distinguishedName = (parts: ReadonlyArray<readonly [oid: string, text: string]>): Buffer =>
  sequence(...parts.map(([oid, text]) => element(0x31, sequence(objectId(oid), utf8String(text)))))

const publicDer = (key: crypto.KeyObject): Buffer =>
  crypto.createPublicKey(key).export({ type: "spki", format: "der" }) as Buffer

const keyId = (spki: Buffer): Buffer => crypto.createHash("sha1").update(spki).digest()

const dnsName = (host: string): Buffer => implicit(2, Buffer.from(host, "ascii"))

const pem = (der: Buffer): string =>
  `-----BEGIN CERTIFICATE-----\n${der.toString("base64").replace(/.{1,64}/g, "$&\n")}-----END CERTIFICATE-----\n`

interface Content {
  readonly issuer: Buffer
  readonly subject: Buffer
  readonly spki: Buffer
  readonly days: number
  readonly extensions: ReadonlyArray<Buffer>
}

const signed = (content: Content, key: crypto.KeyObject): string => {
  const algorithm = sequence(objectId(oids.ecdsaWithSha256))
  const now = Date.now()
  const body = sequence(
    explicit(0, integer(Buffer.from([2]))),
    integer(Buffer.concat([Buffer.from([1]), crypto.randomBytes(15)])),
    algorithm,
    content.issuer,
    sequence(time(new Date(now - slackDays * dayMs)), time(new Date(now + content.days * dayMs))),
    content.subject,
    content.spki,
    explicit(3, sequence(...content.extensions))
  )
  return pem(sequence(body, algorithm, bitString(crypto.sign("sha256", body, key))))
}

/** Permits the hosts and names below them; excludes every address of both families. */
const constraints = (hosts: ReadonlyArray<string>): Buffer =>
  sequence(
    explicit(0, ...hosts.map((host) => sequence(dnsName(host)))),
    explicit(1, sequence(implicit(7, Buffer.alloc(8))), sequence(implicit(7, Buffer.alloc(32))))
  )

const newKey = (): crypto.KeyObject => crypto.generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey

const subjectOf = (sandbox: string): Buffer =>
  distinguishedName([
    [oids.organization, "Bunker"],
    [oids.commonName, `Bunker, for sandbox ${sandbox}`.slice(0, commonNameMax)]
  ])

/** A new authority for the hosts of one sandbox. */
export const makeAuthority = (sandbox: string, hosts: ReadonlyArray<string>): Authority => {
  const key = newKey()
  const spki = publicDer(key)
  const subject = subjectOf(sandbox)
  const certificate = signed(
    {
      issuer: subject,
      subject,
      spki,
      days: authorityDays,
      extensions: [
        extension(oids.basicConstraints, true, sequence(boolean(true), integer(Buffer.from([0])))),
        // keyCertSign, bit 5.
        extension(oids.keyUsage, true, bitString(Buffer.from([0x04]), 2)),
        extension(oids.extendedKeyUsage, false, sequence(objectId(oids.serverAuth))),
        extension(oids.nameConstraints, true, constraints(hosts)),
        extension(oids.subjectKey, false, octetString(keyId(spki)))
      ]
    },
    key
  )
  return authorityOf(sandbox, hosts, certificate, key)
}

/** The authority that `serialize` described; throws where key or certificate are none. */
export const restoreAuthority = (state: AuthorityState): Authority => {
  const key = crypto.createPrivateKey(state.key)
  if (!new crypto.X509Certificate(state.certificate).checkPrivateKey(key))
    throw new Error("the key is of another certificate")
  return authorityOf(state.sandbox, state.hosts, state.certificate, key)
}

const authorityOf = (
  sandbox: string,
  hosts: ReadonlyArray<string>,
  certificate: string,
  key: crypto.KeyObject
): Authority => {
  const issuer = subjectOf(sandbox)
  const issuerId = keyId(publicDer(key))
  const leafKey = newKey()
  const leafSpki = publicDer(leafKey)
  const leafPem = leafKey.export({ type: "pkcs8", format: "pem" }) as string
  const made = new Map<string, { readonly at: number; readonly certificate: HostCertificate }>()
  const issue = (host: string): string =>
    signed(
      {
        issuer,
        subject: distinguishedName([[oids.commonName, host.slice(0, commonNameMax)]]),
        spki: leafSpki,
        days: leafDays,
        extensions: [
          extension(oids.basicConstraints, true, sequence()),
          // digitalSignature, bit 0.
          extension(oids.keyUsage, true, bitString(Buffer.from([0x80]), 7)),
          extension(oids.extendedKeyUsage, false, sequence(objectId(oids.serverAuth))),
          extension(oids.subjectAltName, false, sequence(dnsName(host))),
          extension(oids.subjectKey, false, octetString(keyId(leafSpki))),
          extension(oids.authorityKey, false, sequence(implicit(0, issuerId)))
        ]
      },
      key
    )
  return {
    certificate,
    hosts,
    certificateFor: (host) => {
      if (!hosts.includes(host)) throw new Error(`the authority is not for ${host}`)
      const known = made.get(host)
      if (known !== undefined && Date.now() - known.at < leafRenewDays * dayMs) return known.certificate
      const fresh = { cert: `${issue(host)}${certificate}`, key: leafPem }
      made.set(host, { at: Date.now(), certificate: fresh })
      return fresh
    },
    serialize: () => ({ certificate, key: key.export({ type: "pkcs8", format: "pem" }) as string, sandbox, hosts })
  }
}
