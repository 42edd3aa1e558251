/** Finds the certificates of the authorities that this machine trusts. Verifies nothing with them. */
import fs from "node:fs"
import tls from "node:tls"

/** Bundles of Debian, Fedora, SUSE and Alpine. */
const bundles = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/ca-bundle.pem",
  "/etc/ssl/cert.pem"
] as const
const bundleBytesMax = 8 * 1024 * 1024
const certificate = /-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----/g

const read = (file: string): ReadonlyArray<string> => {
  try {
    return fs.statSync(file).size > bundleBytesMax ? [] : (fs.readFileSync(file, "latin1").match(certificate) ?? [])
  } catch {
    return []
  }
}

/** As PEM, one each: of `SSL_CERT_FILE` where that is set, else of the system, else those that the runtime brings. */
export const hostTrust = (env: Readonly<Record<string, string | undefined>>): ReadonlyArray<string> => {
  const named = env["SSL_CERT_FILE"]
  // A file that was named and holds none trusts nobody: another one would be a surprise.
  if (named !== undefined && named !== "") return read(named)
  for (const bundle of bundles) {
    const found = read(bundle)
    if (found.length > 0) return found
  }
  return tls.rootCertificates
}
