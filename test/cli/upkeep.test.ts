/** `sweep`, `migrate` and the doctor's line, through the compiled program and real processes. */
import { Database as Sqlite } from "bun:sqlite"
import { afterAll, describe, expect, test } from "bun:test"
import { chmodSync, existsSync, mkdirSync } from "node:fs"
import path from "node:path"
import { builtIn } from "../../src/store/database/migrations.ts"
import { Home, program } from "../support/bunker.ts"
import { config } from "../support/sandboxes.ts"

if (!existsSync(program))
  console.warn("skipped: upkeep by the program; missing: dist/bunker ('bun run build' makes it)")

const newest = `schema ${builtIn.length}\n`

describe.skipIf(!existsSync(program))("upkeep", () => {
  const home = new Home()
  afterAll(() => home.dispose())

  const row = (name: string, status: string, ephemeral: 0 | 1, withRun: boolean) => {
    const sqlite = new Sqlite(path.join(home.directory, "bunker.db"))
    const { id } = sqlite
      .query(
        "INSERT INTO sandbox (name, config, status, ephemeral, created_at, updated_at) VALUES (?, ?, ?, ?, 1, 1) RETURNING id"
      )
      .get(name, JSON.stringify(config), status, ephemeral) as { id: number }
    if (withRun) {
      sqlite.run(
        "INSERT INTO run (sandbox_id, engine, pid, pid_started_at, boot_id, status, started_at) VALUES (?, 'qemu', 1, 1, 'long ago', 'running', 1)",
        [id]
      )
    }
    sqlite.close()
  }

  test("a dry run counts what a sweep then does, and doctor points to it", async () => {
    await home.must(["ps"])
    row("dead", "running", 0, true)
    row("ended", "stopped", 1, false)
    mkdirSync(path.join(home.directory, "sandboxes/ended"))
    const expected = { reconciled: 1, removed: 1, errors: 0, timed_out: false }
    expect(JSON.parse(await home.must(["sweep", "--dry-run", "--json"]))).toEqual(expected)
    const found = JSON.parse(
      (
        await home.bunker(["doctor", "--json"], {
          env: { BUNKER_QEMU: "/nonexistent", BUNKER_LIBKRUN: "/nonexistent" }
        })
      ).stdout
    )
    expect(found).toContainEqual(
      expect.objectContaining({ what: "maintenance", state: "warning", fix: "bunker sweep" })
    )
    expect(JSON.parse(await home.must(["sweep", "--json"]))).toEqual(expected)
    expect(JSON.parse(await home.must(["sweep", "--json"]))).toEqual({ ...expected, reconciled: 0, removed: 0 })
    expect(existsSync(path.join(home.directory, "sandboxes/ended"))).toBe(false)
    expect(await home.must(["ps", "-a"])).toContain("crashed")
  }, 60_000)

  test("a home that others may write to is refused, and doctor says so", async () => {
    const own = new Home()
    chmodSync(own.directory, 0o777)
    const refused = await own.bunker(["ps"])
    expect(refused).toMatchObject({ code: 125, stderr: expect.stringContaining(`'chmod go-w ${own.directory}'`) })
    const engines = { BUNKER_QEMU: "/nonexistent", BUNKER_LIBKRUN: "/nonexistent" }
    const { code, stdout } = await own.bunker(["doctor", "--json"], { env: engines })
    const detail = expect.stringContaining("others may write to")
    expect(JSON.parse(stdout)).toContainEqual(
      expect.objectContaining({ what: "isolation", detail: expect.stringContaining("processes of VMs") })
    )
    expect(code).toBe(1)
    expect(JSON.parse(stdout)).toContainEqual(
      expect.objectContaining({ what: "home directory", state: "broken", detail })
    )
    own.dispose()
  }, 60_000)

  test("a schema is taken back only when nothing is active, and comes back with the next start", async () => {
    row("active", "created", 0, false)
    const refused = await home.bunker(["migrate", "--down", "0"])
    expect(refused).toMatchObject({ code: 125, stderr: expect.stringContaining("active") })
    expect(await home.must(["migrate"])).toBe(newest)
    await home.must(["rm", "active", "dead"])
    expect(await home.must(["migrate", "--down", "0"])).toBe("schema 0\n")
    expect(await home.must(["ps", "-a", "-q"])).toBe("")
    expect(await home.must(["migrate"])).toBe(newest)
  })

  test("an upgrade that goes on refuses every start, saying until when", async () => {
    const sqlite = new Sqlite(path.join(home.directory, "bunker.db"))
    const until = Date.now() + 60_000
    sqlite.run("INSERT INTO maintenance_lease VALUES ('install_exclusive', 1, 't', ?, NULL)", [until])
    for (const args of [["ps"], ["images"], ["migrate"], ["sweep"]]) {
      const { code, stderr } = await home.bunker(args)
      expect({ args, code, stderr }).toEqual({
        args,
        code: 125,
        stderr: expect.stringContaining(new Date(until).toISOString())
      })
    }
    sqlite.run("UPDATE maintenance_lease SET lease_expires_at = 1")
    sqlite.close()
    await home.must(["ps"])
  })
})
