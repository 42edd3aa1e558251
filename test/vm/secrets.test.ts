/** Secrets end to end: a guest's own TLS client, the real network process, a server on a loopback alias; and where the value is not. */
import { afterAll, beforeAll, describe, expect } from "bun:test"
import fs from "node:fs"
import path from "node:path"
import { makeAuthority } from "../../src/net/tls/authority.ts"
import { engine, Home } from "../support/bunker.ts"
import { debianRootfs, haveDebianPackages } from "../support/debianImage.ts"
import { mustSkip } from "../support/requirements.ts"
import { vmCases } from "../support/vmCases.ts"

const packages = ["dash", "coreutils", "grep", "curl", "ca-certificates"]
const missing = haveDebianPackages(packages) ? [] : [`Debian's packages ${packages.join(", ")}`]
const suite = describe.skipIf(mustSkip("secrets in sandboxes", missing))
const timeoutMs = 600_000
const { it } = vmCases(timeoutMs)
const image = "test/curl:1"
const alias = () => `127.${[0, 0, 0].map(() => 1 + Math.floor(Math.random() * 250)).join(".")}`

/** Everything that is kept in files below a directory, sockets and disks' holes aside. */
const filesBelow = function* (directory: string): Generator<readonly [file: string, bytes: Buffer]> {
  for (const entry of fs.readdirSync(directory, { withFileTypes: true, recursive: true })) {
    const file = path.join(entry.parentPath, entry.name)
    if (entry.isFile() && fs.statSync(file).size < 64 * 1024 * 1024) yield [file, fs.readFileSync(file)]
  }
}

/** Where a value is in files of the home, or in words and variables of its processes. */
const tracesOf = (home: Home, value: string): ReadonlyArray<string> => {
  const forms = [value, Buffer.from(value).toString("base64").slice(0, 20)]
  const found: Array<string> = []
  const look = (where: string, bytes: Buffer) => {
    if (forms.some((form) => bytes.includes(form))) found.push(where)
  }
  for (const [file, bytes] of filesBelow(home.directory)) look(file, bytes)
  for (const pid of fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    for (const part of ["environ", "cmdline"]) {
      try {
        const bytes = fs.readFileSync(`/proc/${pid}/${part}`)
        if (Number(pid) !== process.pid) look(`/proc/${pid}/${part}`, bytes)
      } catch {
        // It has ended, or is somebody else's.
      }
    }
  }
  return found
}

suite(`secrets in sandboxes (${engine})`, () => {
  const authority = makeAuthority("servers", ["api.test", "other.test"])
  const seen: Array<{ readonly host: string; readonly key: string | null }> = []
  let home: Home
  let server: ReturnType<typeof Bun.serve>
  let trust = ""

  beforeAll(async () => {
    home = new Home()
    const work = path.join(home.directory, "work")
    fs.mkdirSync(work)
    trust = path.join(work, "trust.pem")
    fs.writeFileSync(trust, authority.certificate)
    const tar = await debianRootfs(work, packages)
    await home.must(["import", "-q", "-c", "ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin", tar, image])
    fs.rmSync(tar)
    server = Bun.serve({
      hostname: alias(),
      port: 0,
      tls: ["api.test", "other.test"].map((serverName) => ({ serverName, ...authority.certificateFor(serverName) })),
      fetch: (request) => {
        const host = new URL(request.url).hostname
        seen.push({ host, key: request.headers.get("x-key") })
        return new Response(`hello from ${host}\n`)
      }
    })
  }, timeoutMs)

  afterAll(async () => {
    await server?.stop(true)
    await home?.dispose()
  }, timeoutMs)

  const place = () => {
    const { hostname, port } = server
    return {
      port,
      flags: [
        "--allow-net=api.test,other.test",
        "--add-host",
        `api.test:${hostname}`,
        "--add-host",
        `other.test:${hostname}`
      ]
    }
  }
  const value = () => `value-${crypto.randomUUID()}`

  it("curl in a guest sends its placeholder, the server gets the value, other hosts get 403", async () => {
    const { flags, port } = place()
    const key = value()
    const script = [
      'echo "$KEY"',
      `curl -sS -H "x-key: $KEY" https://api.test:${port}/`,
      `curl -sS -o /dev/null -w '%{http_code}\\n' -H "x-key: $KEY" https://other.test:${port}/`,
      `env | grep -c ${key.slice(0, 12)}`,
      "grep -c 'BEGIN CERTIFICATE' /etc/ssl/certs/ca-certificates.crt",
      "tail -n 3 /etc/ssl/certs/ca-certificates.crt | head -c 0; true"
    ].join("\n")
    const result = await home.bunker(
      [
        "run",
        "--name",
        "one",
        "--rm",
        ...flags,
        "--inspect",
        "other.test",
        "--secret",
        "KEY=api.test",
        image,
        "sh",
        "-c",
        script
      ],
      { env: { KEY: key, SSL_CERT_FILE: trust } }
    )
    const lines = result.stdout.split("\n")
    expect({ lines: lines.slice(0, 4), code: result.code }).toEqual({
      lines: [expect.stringMatching(/^bnk_[A-Za-z0-9]{28,}$/), "hello from api.test", "403", "0"] as never,
      code: 0
    })
    expect(Number(lines[4])).toBeGreaterThan(1)
    expect(seen).toEqual([{ host: "api.test", key }])
    expect(result.stderr).toContain("KEY, which is not for other.test")
    expect(result.stderr).not.toContain(key)
  })

  it("a value that is set anew goes into the next request, one that is removed into none; the value is nowhere", async () => {
    const { flags, port } = place()
    const [first, second] = [value(), value()]
    const env = { SSL_CERT_FILE: trust }
    await home.must(["secret", "set", "TOKEN"], { stdin: `${first}\n` })
    expect(await home.must(["secret", "ls"])).toMatch(/^NAME +UPDATED\nTOKEN +\d{4}-/)
    await home.must(["create", "--name", "two", ...flags, "--secret", "TOKEN=api.test", image, "sleep", "600"])
    await home.must(["start", "two"], { env })
    const ask = async () => {
      const command = `curl -sS -H "x-key: $TOKEN" https://api.test:${port}/`
      return (await home.bunker(["exec", "two", "sh", "-c", command])).stdout
    }
    const last = () => seen.at(-1)?.key
    expect(await ask()).toBe("hello from api.test\n")
    expect(last()).toBe(first)
    expect(tracesOf(home, first)).toEqual([])
    await home.must(["secret", "set", "TOKEN"], { stdin: second })
    // The keeper hears of it within moments.
    for (let turn = 0; turn < 50 && last() !== second; turn += 1) await ask()
    expect(last()).toBe(second)
    const events = await home.must(["network", "events", "two"])
    expect(events).toContain("the secret TOKEN was put in")
    await home.must(["secret", "rm", "TOKEN"])
    let answer = ""
    for (let turn = 0; turn < 50 && !answer.includes("revoked"); turn += 1) answer = await ask()
    expect(answer).toContain("not sent: the secret TOKEN was revoked")
    expect(tracesOf(home, second)).toEqual([])
    expect(JSON.stringify(await home.must(["inspect", "two"]))).not.toContain("value-")
    // The placeholder and the authority are the same after a restart.
    const placeholder = await home.must(["exec", "two", "sh", "-c", "echo $TOKEN"])
    await home.must(["secret", "set", "TOKEN"], { stdin: first })
    await home.must(["restart", "two"], { env })
    expect(await home.must(["exec", "two", "sh", "-c", "echo $TOKEN"])).toBe(placeholder)
    expect(await ask()).toBe("hello from api.test\n")
    expect(last()).toBe(first)
    await home.must(["rm", "-f", "two"])
  })

  it("what is wrong about secrets is said before anything is made", async () => {
    const cases: ReadonlyArray<readonly [flags: ReadonlyArray<string>, words: string]> = [
      [["--secret", "KEY=api.test"], "no network"],
      [["--allow-net=b.test", "--secret", "KEY=api.test"], "add --allow-net=api.test:443"],
      [["--allow-net=api.test", "--secret", "NONE=api.test"], 'no secret "NONE"'],
      [["--allow-net=api.test", "--secret", "KEY=*.test"], "without *"],
      [
        ["--allow-net=api.test", "--secret", "KEY=api.test", "--secret-from", "KEY=sk-mistake"],
        "a value is never typed there"
      ]
    ]
    for (const [flags, words] of cases) {
      const { code, stderr } = await home.bunker(["create", ...flags, image], { env: { KEY: "x-value" } })
      expect([code, stderr]).toEqual([125, expect.stringContaining(words) as never])
      expect(stderr).not.toMatch(/x-value|mistake/)
    }
    expect(await home.must(["ps", "-aq"])).toBe("")
  })
})
