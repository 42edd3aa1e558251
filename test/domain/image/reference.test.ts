import { describe, expect, test } from "bun:test"
import { Result } from "effect"
import {
  canonicalReference,
  familiarReference,
  manifestSelector,
  referenceResult,
  registryHost
} from "../../../src/domain/image/reference.ts"

const hex = "0123456789abcdef".repeat(4)
const digest = `sha256:${hex}`
const parsed = (text: string) => Result.getOrThrow(referenceResult(text))
const reason = (text: string) => {
  const result = referenceResult(text)
  return Result.isFailure(result) ? result.failure.reason : `taken as ${canonicalReference(result.success)}`
}

const good: ReadonlyArray<readonly [text: string, canonical: string, familiar: string]> = [
  ["alpine", "docker.io/library/alpine:latest", "alpine:latest"],
  ["alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"],
  ["user/app", "docker.io/user/app:latest", "user/app:latest"],
  ["docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"],
  ["index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"],
  ["docker.io/library/alpine", "docker.io/library/alpine:latest", "alpine:latest"],
  ["docker.io/localhost/app", "docker.io/localhost/app:latest", "docker.io/localhost/app:latest"],
  ["library/user/app", "docker.io/library/user/app:latest", "library/user/app:latest"],
  ["localhost/app", "localhost/app:latest", "localhost/app:latest"],
  ["localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"],
  ["127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x"],
  ["[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"],
  ["[2001:db8::1]/app:1", "[2001:db8::1]/app:1", "[2001:db8::1]/app:1"],
  ["Registry/app", "Registry/app:latest", "Registry/app:latest"],
  ["ghcr.io/o/r@" + digest, `ghcr.io/o/r@${digest}`, `ghcr.io/o/r@${digest}`],
  ["alpine:3@" + digest, `docker.io/library/alpine:3@${digest}`, `alpine:3@${digest}`],
  ["alpine@" + digest, `docker.io/library/alpine@${digest}`, `alpine@${digest}`],
  ["a--b/c__d/e.f_g", "docker.io/a--b/c__d/e.f_g:latest", "a--b/c__d/e.f_g:latest"],
  ["x:" + "T".repeat(128), `docker.io/library/x:${"T".repeat(128)}`, `x:${"T".repeat(128)}`],
  ["a1.b-c.example:443/x", "a1.b-c.example:443/x:latest", "a1.b-c.example:443/x:latest"]
]

const bad: ReadonlyArray<readonly [text: string, reason: RegExp]> = [
  ["", /empty/],
  ["Alpine", /lower case/],
  ["user/App", /lower case/],
  [hex, /id/],
  ["alpine:", /not a tag/],
  ["alpine:.x", /not a tag/],
  ["x:" + "T".repeat(129), /not a tag/],
  ["alpine@sha256:123", /not a digest/],
  ["alpine@" + digest.toUpperCase(), /not a digest/],
  ["alpine@" + digest + "0", /not a digest/],
  ["alpine@sha512:" + hex + hex, /not a digest/],
  ["alpine@" + digest + "@" + digest, /not a digest/],
  ["/alpine", /./],
  ["a//b", /empty component/],
  ["a/", /empty component|no name/],
  ["a/../b", /component/],
  ["../b", /host/],
  ["a/-b", /component/],
  ["a/b-", /component/],
  ["a/b___c", /component/],
  ["a/b..c", /component/],
  ["a.b:99999/x", /port/],
  ["a.b:0/x", /port/],
  ["a.b:/x", /host/],
  ["-a.b/x", /host/],
  ["a_b.c/x", /host/],
  ["host.name/", /no name/],
  ["x/" + "a".repeat(254), /more than 255/],
  ["a".repeat(300) + ".b/x", /more than 259/],
  ["a b", /component/],
  ["a\nb", /component/],
  ["https://host.io/x", /./],
  ["é", /component/],
  ["a\0b", /component/],
  ["x".repeat(5000), /more than/],
  ["user:pw@host.io/x", /digest/]
]

describe("a reference", () => {
  test.each(good)("%s is %s", (text, canonical, familiar) => {
    const reference = parsed(text)
    expect(canonicalReference(reference)).toBe(canonical)
    expect(familiarReference(reference)).toBe(familiar)
  })

  test.each(bad)("refuses %j", (text, why) => {
    expect(reason(text)).toMatch(why)
    expect(reason(text)).not.toStartWith("taken")
  })

  test("reads back from both of its forms, whatever it is", () => {
    const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000)
    console.log(`seed ${seed}`)
    let state = seed + 1
    const pick = <A>(of: ReadonlyArray<A>): A => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
      return of[(state >>> 8) % of.length]!
    }
    const domains = ["", "", "docker.io/", "index.docker.io/", "localhost/", "h:1/", "a.b/", "[::1]:2/", "UP/"]
    const parts = ["library", "localhost", "a", "b-c", "d.e", "0", hex, "index.docker.io", "docker.io"]
    for (let i = 0; i < 2_000; i++) {
      const name = Array.from({ length: pick([1, 1, 2, 3]) }, () => pick(parts)).join("/")
      const text = pick(domains) + name + pick(["", ":t", ":1.2"]) + pick(["", `@${digest}`])
      const result = referenceResult(text)
      if (Result.isFailure(result)) continue
      expect([text, parsed(canonicalReference(result.success))]).toEqual([text, result.success])
      expect([text, parsed(familiarReference(result.success))]).toEqual([text, result.success])
    }
  })

  test("is asked for by digest when it has one", () => {
    expect(manifestSelector(parsed(`alpine:3@${digest}`))).toBe(digest)
    expect(manifestSelector(parsed("alpine:3"))).toBe("3")
  })

  test("of Docker Hub is served by registry-1.docker.io", () => {
    expect(registryHost(parsed("alpine").domain)).toBe("registry-1.docker.io")
    expect(registryHost(parsed("ghcr.io/a/b").domain)).toBe("ghcr.io")
  })

  test("takes linear time for hostile names", () => {
    const start = performance.now()
    for (const text of [
      "a-".repeat(300),
      "a".repeat(250) + "!",
      `${"a-".repeat(128)}.b/x`,
      "a.".repeat(129) + "/x",
      "-".repeat(600)
    ])
      reason(text)
    expect(performance.now() - start).toBeLessThan(100)
  })
})
