import { describe, expect } from "bun:test"
import { Effect, Stream } from "effect"
import { defaultPlatform } from "../../src/domain/platform.ts"
import { parseReference } from "../../src/domain/reference.ts"
import { registrySource } from "../../src/oci/registry.ts"
import { file, imageOf } from "../support/image.ts"
import { it } from "../support/it.ts"
import { hasRegistryTools, startRegistry } from "../support/registry.ts"

describe.skipIf(!hasRegistryTools)("a real docker-registry", () => {
  it.live("gives an image whose bytes match", () =>
    Effect.gen(function* () {
      const registry = yield* startRegistry()
      const image = imageOf([[file("a", "one")], [file("b", "two")]])
      yield* registry.push("team/app:v1", { top: image.manifest, blobs: image.blobs })
      const source = registrySource(yield* parseReference(`${registry.host}/team/app:v1`))
      const resolved = yield* source.resolve(defaultPlatform)
      expect(resolved.manifestDigest).toBe(image.manifest.descriptor.digest)
      expect(resolved.layers.map((layer) => layer.diffId)).toEqual([...image.diffIds])
      const bytes = yield* Stream.runCollect(source.blob(resolved.layers[0]!))
      expect(Buffer.concat(bytes).equals(Buffer.from(image.layers[0]!.bytes))).toBe(true)
    })
  )
})
