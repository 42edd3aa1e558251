/**
 * Compares sessions with a small model over random stories: blobs, commits, forks, damage, failures in the middle, collections.
 * No collection deletes what the model reaches, and each deletes all that it does not reach and that is old enough.
 */
import { expect, setDefaultTimeout, test } from "bun:test"
import type { Result } from "effect"
import type { Artifact, Commit } from "../../../../src/domain/session/session.ts"
import { connect } from "../../../../src/store/database/Database.ts"
import { getBlob, putBlob } from "../../../../src/store/database/session/blobs.ts"
import { collect } from "../../../../src/store/database/session/collect.ts"
import { commit } from "../../../../src/store/database/session/commit.ts"
import { forkInto } from "../../../../src/store/database/session/fork.ts"
import { loadActivePath } from "../../../../src/store/database/session/graph.ts"
import type { SessionFile } from "../../../../src/store/database/session/head.ts"
import { migrateSession } from "../../../../src/store/database/session/schema.ts"
import { generator, seedOf } from "../../../support/random.ts"
import { bytes, hash, idOf, manifest } from "../../../support/sessionData.ts"
import { dump, freshFile, observed } from "../../../support/sessionFile.ts"

setDefaultTimeout(600_000)
const seed = seedOf("session model")
const runs = Number(process.env["SESSION_MODEL_RUNS"] ?? 2000)
const steps = 24

interface Stored {
  createdAt: number
  whole: boolean
  /** What a whole one refers to, undefined when it is no checkpoint. */
  readonly refs: ReadonlyArray<string> | undefined
}

/** The specification of blobs, roots and collections, over maps. */
class Model {
  readonly blobs = new Map<string, Stored>()
  readonly artifacts = new Map<string, { readonly blob: string; readonly kind: string }>()
  readonly parents = new Map<string, string | null>()
  revision = 0
  leaf: string | null = null
  checkpoint: string | null = null

  /** What is reached, or undefined when a checkpoint that is there can not be read. */
  reached(): ReadonlySet<string> | undefined {
    const roots = [...this.artifacts.values()].map(({ blob, kind }) => [blob, kind] as const)
    if (this.checkpoint !== null) roots.push([this.checkpoint, "checkpoint"])
    const found = new Set<string>()
    for (const [name, kind] of roots) {
      const blob = this.blobs.get(name)
      if (blob === undefined) continue
      found.add(name)
      if (kind !== "checkpoint") continue
      if (!blob.whole || blob.refs === undefined) return undefined
      for (const ref of blob.refs) if (this.blobs.has(ref)) found.add(ref)
    }
    return found
  }
  isCheckpoint(name: string): boolean {
    const blob = this.blobs.get(name)
    return blob?.refs !== undefined && blob.whole && blob.refs.every((ref) => this.blobs.has(ref))
  }
  path(): ReadonlyArray<string> {
    const found: Array<string> = []
    for (let at = this.leaf; at !== null; at = this.parents.get(at) ?? null) found.unshift(at)
    return found
  }
}

class Broken extends Error {}

/** Fails at the nth statement, as a full disk would. */
const failing = (file: SessionFile, nth: number): SessionFile => {
  let count = 0
  return observed(file, (sql) => {
    count += 1
    if (count === nth && sql !== "ROLLBACK") throw new Broken()
  })
}

const succeeded = (result: Result.Result<unknown, unknown>): boolean => result._tag === "Success"

const story = (random: (below: number) => number, context: object) => {
  const model = new Model()
  const file = freshFile()
  let now = 0
  const log: Array<string> = []
  const pick = <A>(list: ReadonlyArray<A>): A | undefined => list[random(list.length)]
  const names = () => [...model.blobs.keys()]
  const check = (what: string, real: unknown, expected: unknown) => {
    log.push(`${now} ${what}`)
    // `expect` is slower than the whole rest.
    if (JSON.stringify(real) === JSON.stringify(expected)) return
    expect({ ...context, log: log.slice(-12), real }).toEqual({ ...context, log: log.slice(-12), real: expected })
  }
  const put = (content: Uint8Array, refs: ReadonlyArray<string> | undefined) => {
    const kind = refs === undefined ? "module" : "checkpoint"
    const name = hash(content)
    const result = putBlob(file, content, { kind, compressible: true, profile: "compact" }, now)
    check("put", succeeded(result), true)
    const known = model.blobs.get(name)
    model.blobs.set(name, { createdAt: Math.max(known?.createdAt ?? 0, now), whole: true, refs })
  }
  const turn = (): Commit => {
    const artifacts: Array<Artifact> = []
    for (let index = random(3); index > 0; index -= 1) {
      const blob = random(4) === 0 ? null : (pick(names()) ?? null)
      artifacts.push({ artifactRef: `a${random(4)}`, blobRef: blob, kind: random(3) === 0 ? "checkpoint" : "module" })
    }
    const fresh = Array.from({ length: random(4) }, (_, index) => `n${model.parents.size + index}`)
    const parent = pick([...model.parents.keys()]) ?? null
    return {
      turnId: `t${model.revision}`,
      expectedRevision: model.revision,
      nodes: fresh.map((nodeId, index) => ({
        nodeId,
        parentNodeId: index === 0 ? parent : fresh[index - 1]!,
        node: index
      })),
      ...(random(3) === 0 ? {} : { checkpoint: random(5) === 0 ? null : (pick(names()) ?? null) }),
      artifacts
    }
  }
  const mayCommit = (given: Commit): boolean => {
    if (typeof given.checkpoint === "string" && !model.isCheckpoint(given.checkpoint)) return false
    return (given.artifacts ?? []).every(
      ({ blobRef, kind }) =>
        blobRef === null || (kind === "checkpoint" ? model.isCheckpoint(blobRef) : model.blobs.has(blobRef))
    )
  }
  const didCommit = (given: Commit) => {
    for (const { nodeId, parentNodeId } of given.nodes ?? []) model.parents.set(nodeId, parentNodeId)
    model.leaf = given.nodes?.at(-1)?.nodeId ?? model.leaf
    model.revision += 1
    if (given.checkpoint !== undefined) model.checkpoint = given.checkpoint
    for (const { artifactRef, blobRef, kind } of given.artifacts ?? []) {
      if (blobRef === null) model.artifacts.delete(artifactRef)
      else model.artifacts.set(artifactRef, { blob: blobRef, kind })
    }
  }
  const expectedReport = (graceMs: number) => {
    const live = model.reached()
    if (live === undefined) return undefined
    const old = names().filter((name) => !live.has(name) && model.blobs.get(name)!.createdAt <= now - graceMs)
    const left = model.blobs.size - old.length
    const report = {
      rootCount: model.artifacts.size + (model.checkpoint === null ? 0 : 1),
      retainedBlobCount: live.size,
      youngBlobCount: left - live.size,
      deletedBlobCount: old.length
    }
    return { report, old }
  }

  for (let step = 0; step < steps; step += 1) {
    now += random(4) === 0 ? random(1000) : 0
    switch (random(10)) {
      case 0:
      case 1:
        put(bytes(`blob ${random(12)}${" ".repeat(random(2) * 2000)}`), undefined)
        break
      case 2:
      case 3: {
        const some = () => (random(4) === 0 ? null : (pick(names()) ?? null))
        const [tool, plugin, execution] = [some(), some(), some()]
        const refs = [tool, plugin, execution].filter((ref) => ref !== null)
        put(manifest({ tool, plugin, execution }), refs)
        break
      }
      case 4:
      case 5: {
        const given = turn()
        const may = mayCommit(given)
        check("commit", succeeded(commit(file, given, now)), may)
        if (may) didCommit(given)
        break
      }
      case 6: {
        const name = pick(names())
        if (name === undefined) break
        if (random(3) === 0) {
          file.connection.run("DELETE FROM blob WHERE hash = ?", [name])
          model.blobs.delete(name)
        } else {
          file.connection.run("UPDATE blob SET content = ? WHERE hash = ?", [
            random(2) === 0 ? bytes(`spoilt ${random(9)}`) : manifest({ turn: `spoilt ${random(9)}` }),
            name
          ])
          model.blobs.get(name)!.whole = false
        }
        log.push(`${now} damage`)
        break
      }
      case 7: {
        const graceMs = random(3) * 400
        const expected = expectedReport(graceMs)
        const result = collect(file, graceMs, now)
        check("collect", succeeded(result), expected !== undefined)
        if (expected === undefined) break
        check("report", result._tag === "Success" && result.success, expected.report)
        for (const name of expected.old) model.blobs.delete(name)
        break
      }
      case 8: {
        // Something fails in the middle: nothing happened.
        const before = dump(file)
        const broken = failing(file, 2 + random(24))
        try {
          const given = turn()
          const result =
            random(2) === 0 ? collect(broken, 0, now) : commit(broken, { ...given, turnId: `x${step}` }, now)
          if (result._tag === "Success") return file.connection.close()
        } catch (cause) {
          if (!(cause instanceof Broken)) throw cause
        }
        check("failure", dump(file) === before, true)
        break
      }
      default: {
        const target = { id: idOf("f"), connection: connect(":memory:", { synchronous: "NORMAL" }) }
        migrateSession(target.connection)
        const { checkpoint } = model
        const kept = checkpoint === null ? [] : [checkpoint, ...(model.blobs.get(checkpoint)?.refs ?? [])]
        const may = kept.every((name) => model.blobs.get(name)?.whole === true)
        check("fork", succeeded(forkInto(file, target, now)), may)
        if (may) {
          const found = target.connection.all<{ readonly hash: string }>("SELECT hash FROM blob").map((row) => row.hash)
          check("fork's blobs", found.toSorted(), [...new Set(kept)].toSorted())
          const path = loadActivePath(target, undefined)
          check("fork's path", path._tag === "Success" && path.success.nodes.map((node) => node.nodeId), model.path())
          check("fork's collection", succeeded(collect(target, 0, now)), true)
          for (const name of new Set(kept)) check("fork keeps", succeeded(getBlob(target, name)), true)
        }
        target.connection.close()
      }
    }
    const found = file.connection.all<{ readonly hash: string }>("SELECT hash FROM blob").map((row) => row.hash)
    check("blobs", found.toSorted(), names().toSorted())
    const path = loadActivePath(file, undefined)
    check(
      "path",
      path._tag === "Success" && [path.success.head.headRevision, path.success.nodes.map((node) => node.nodeId)],
      [model.revision, model.path()]
    )
  }
  file.connection.close()
}

test(`${runs} random stories agree with the model`, () => {
  expect(runs).toBeGreaterThan(0)
  for (let run = 0; run < runs; run += 1) story(generator(seed + run), { seed: seed + run })
})
