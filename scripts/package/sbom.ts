/** Lists in SPDX 2.3 what the packages contain that others made: each library of the bundle, and the native files. */
import fs from "node:fs"
import path from "node:path"
import { sha256 } from "./pack.ts"

interface Manifest {
  readonly version: string
  readonly license?: string
  readonly dependencies?: Readonly<Record<string, string>>
}

/** The manifest of an installed package. */
const manifestOf = (root: string, name: string): Manifest =>
  JSON.parse(fs.readFileSync(path.join(root, "node_modules", name, "package.json"), "utf8")) as Manifest

/** Everything that is needed at run time and bundled: dependencies of dependencies, too. Bun is the user's own. */
const bundled = (root: string): ReadonlyMap<string, Manifest> => {
  const found = new Map<string, Manifest>()
  const add = (name: string): void => {
    if (found.has(name) || name === "bun" || !fs.existsSync(path.join(root, "node_modules", name))) return
    const manifest = manifestOf(root, name)
    found.set(name, manifest)
    for (const each of Object.keys(manifest.dependencies ?? {})) add(each)
  }
  const own = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")) as Manifest
  for (const name of Object.keys(own.dependencies ?? {})) add(name)
  add("libkrun-linux-x64")
  return found
}

/** The document as JSON; the same content gives the same text. */
export const sbom = (root: string, version: string, epoch: number, files: ReadonlyArray<string>): string => {
  const id = (text: string): string => `SPDXRef-${text.replace(/[^A-Za-z0-9.-]/g, "-")}`
  const others = [...bundled(root)].sort(([left], [right]) => (left < right ? -1 : 1))
  const made = files.map((file) => ({
    SPDXID: id(path.basename(file)),
    name: path.basename(file),
    versionInfo: version,
    downloadLocation: "NOASSERTION",
    filesAnalyzed: false,
    licenseConcluded: "NOASSERTION",
    licenseDeclared: "Apache-2.0",
    copyrightText: "NOASSERTION",
    checksums: [{ algorithm: "SHA256", checksumValue: sha256(file) }]
  }))
  const packages = others.map(([name, manifest]) => ({
    SPDXID: id(`npm-${name}`),
    name,
    versionInfo: manifest.version,
    downloadLocation: "NOASSERTION",
    filesAnalyzed: false,
    licenseConcluded: "NOASSERTION",
    licenseDeclared: manifest.license ?? "NOASSERTION",
    copyrightText: "NOASSERTION",
    externalRefs: [
      {
        referenceCategory: "PACKAGE-MANAGER",
        referenceType: "purl",
        referenceLocator: `pkg:npm/${name.replace("@", "%40")}@${manifest.version}`
      }
    ]
  }))
  const digest = new Bun.CryptoHasher("sha256")
    .update(made.map((each) => each.checksums[0]!.checksumValue).join())
    .digest("hex")
  const document = {
    spdxVersion: "SPDX-2.3",
    dataLicense: "CC0-1.0",
    SPDXID: "SPDXRef-DOCUMENT",
    name: `bunker-${version}`,
    documentNamespace: `https://bunker.invalid/spdx/${version}/${digest}`,
    creationInfo: {
      created: new Date(epoch * 1000).toISOString().replace(/\.\d+/, ""),
      creators: ["Tool: bun run package"]
    },
    packages: [...made, ...packages],
    relationships: made.flatMap((each) => [
      { spdxElementId: "SPDXRef-DOCUMENT", relationshipType: "DESCRIBES", relatedSpdxElement: each.SPDXID },
      ...packages.map((inside) => ({
        spdxElementId: each.SPDXID,
        relationshipType: "CONTAINS",
        relatedSpdxElement: inside.SPDXID
      }))
    ])
  }
  return `${JSON.stringify(document, undefined, 2)}\n`
}
