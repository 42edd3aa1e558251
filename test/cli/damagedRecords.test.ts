/** Rows of the database that can not be read: what lists show of the others, and how such a sandbox is mended or goes away. */
import { Database as Sqlite } from "bun:sqlite"
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, mkdirSync } from "node:fs"
import path from "node:path"
import { Home, program } from "../support/bunker.ts"

const suite = existsSync(program) ? describe : describe.skip
if (suite === describe.skip) console.warn("skipped: damaged records; missing: dist/bunker ('bun run build' makes it)")

suite("a record that can not be read", () => {
  let home: Home
  beforeAll(async () => {
    home = new Home()
    const root = path.join(home.directory, "root")
    mkdirSync(root)
    await home.must(["import", "-q", "-c", 'CMD ["/x"]', root, "base:1"])
  })
  afterAll(() => home.dispose())

  const sql = (text: string) => {
    const db = new Sqlite(path.join(home.directory, "bunker.db"))
    db.run(text)
    db.close()
  }

  test("takes none of the others from a list; is named there and by doctor, and rm takes it away by name or number", async () => {
    for (const name of ["sound", "ill", "worse"]) await home.must(["create", "--name", name, "base:1"])
    sql("UPDATE sandbox SET ephemeral = 1, config = '{' WHERE name IN ('ill', 'worse')")
    sql("UPDATE sandbox SET name = 'no name' WHERE name = 'worse'")
    for (const name of ["ill", "worse"]) Bun.spawnSync(["rm", "-r", path.join(home.directory, "sandboxes", name)])
    const listed = await home.bunker(["ps", "-a", "-q"])
    expect({ ...listed, stderr: "" }).toEqual({ code: 0, stdout: "sound\n", stderr: "" })
    expect(listed.stderr).toContain('"ill"')
    expect(listed.stderr).toContain('"no name"')
    const doctor = await home.bunker(["doctor", "--json"], { env: { BUNKER_QEMU: "/none", BUNKER_LIBKRUN: "/none" } })
    const details = (JSON.parse(doctor.stdout) as ReadonlyArray<{ detail: string }>).map(({ detail }) => detail)
    const number = /number (\d+).*'bunker rm -f \1'/.exec(details.find((text) => text.includes("no name")) ?? "")?.[1]
    expect(details.some((text) => text.includes("'bunker rm -f ill'"))).toBe(true)
    expect((await home.bunker(["rm", "ill"])).code).toBe(125)
    await home.must(["rm", "-f", "ill"])
    await home.must(["rm", "-f", number!])
    expect(await home.bunker(["ps", "-a", "-q"])).toEqual({ code: 0, stdout: "sound\n", stderr: "" })
  }, 60_000)

  test("of a machine is written anew from its definition", async () => {
    await home.must(["create", "--name", "kept", "-l", "a=b", "base:1"])
    for (const look of [
      ["ps", "-a", "-q"],
      ["inspect", "kept"]
    ]) {
      sql("UPDATE sandbox SET config = '{' WHERE name = 'kept'")
      const { code, stdout, stderr } = await home.bunker(look)
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" })
      expect(stdout).toContain("kept")
    }
    expect(JSON.parse(await home.must(["inspect", "kept"]))[0].config.labels).toEqual({ a: "b" })
  }, 60_000)
})
