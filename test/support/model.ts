/** A model of a tree under random edits, and the layer tars that tell of the edits: what a merge of them must show. */
import type { Listed } from "./mount.ts"
import { type PaxValues, type Pieces, pax, type RawEntry, raw, type SparseFormat, sparse, tar } from "./tar.ts"

/** Deterministic numbers below n (mulberry32). */
export const generator = (seed: number) => {
  let state = seed >>> 0
  return (n: number): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * n)
  }
}

interface Node {
  mode: number
  uid: number
  gid: number
  seconds: number
  nanos: number
  xattrs: Record<string, Buffer>
  content?: Buffer
  target?: string
  device?: readonly [major: number, minor: number]
  children?: Map<string, Node>
  /** Layer that last described it. */
  touched: number
}

const XATTRS = ["user.a", "user.long.name", "trusted.t", "security.x", `user.${"x".repeat(200)}`]

export class Model {
  readonly #random: (n: number) => number
  readonly root: Node
  #layer = -1

  constructor(seed: number) {
    this.#random = generator(seed)
    this.root = {
      ...this.#attributes(0o040000),
      mode: 0o040755,
      uid: 0,
      gid: 0,
      seconds: 0,
      nanos: 0,
      xattrs: {},
      children: new Map()
    }
  }

  #pick<A>(list: ReadonlyArray<A>): A {
    return list[this.#random(list.length)]!
  }

  #bytes(length: number): Buffer {
    const bytes = Buffer.alloc(length)
    for (let i = 0; i < length; i++) bytes[i] = this.#random(256)
    return bytes
  }

  #attributes(type: number): Node {
    const random = this.#random
    const xattrs: Record<string, Buffer> = {}
    const allowed = type === 0o100000 || type === 0o040000 ? XATTRS : XATTRS.filter((name) => !name.startsWith("user."))
    if (random(4) === 0)
      for (let i = random(3); i >= 0; i--)
        xattrs[this.#pick(allowed)] = this.#bytes(1 + random(random(10) === 0 ? 5000 : 40))
    return {
      mode: type | random(0o10000),
      uid: this.#pick([0, 1, 1000, 65_536, 4_294_967_294]),
      gid: this.#pick([0, 5, 100_000]),
      seconds: this.#pick([0, 1, 1_700_000_000, 2 ** 33, -3]),
      nanos: this.#pick([0, 1, 999_999_999, 500_000_000]),
      xattrs,
      touched: this.#layer
    }
  }

  #name(): string {
    const random = this.#random
    switch (random(6)) {
      case 0: {
        const bytes = this.#bytes(1 + random(12))
          .toString("latin1")
          .replace(/[/\0]/g, "_")
        return bytes === "." || bytes === ".." || bytes.startsWith(".wh.") ? "dot" : bytes
      }
      case 1:
        return this.#pick(["caf\xe9", "\xff\xfe", "a b\n", "-", "!", "...", ".x"])
      case 2:
        return "L".repeat(200 + random(56))
      default:
        return `${this.#pick(["a", "b", "usr", "etc", "z"])}${random(6)}`
    }
  }

  #directories(): Array<readonly [path: string, node: Node]> {
    const found: Array<readonly [string, Node]> = []
    const visit = (path: string, node: Node): void => {
      found.push([path, node])
      if (path.split("/").length < 8 && path.length < 2500)
        for (const [name, child] of node.children!)
          if (child.children !== undefined) visit(path === "" ? name : `${path}/${name}`, child)
    }
    visit("", this.root)
    return found
  }

  #touchedWithin(node: Node): boolean {
    return (
      node.touched === this.#layer || [...(node.children?.values() ?? [])].some((child) => this.#touchedWithin(child))
    )
  }

  /** Edits the tree and answers the tar of a layer that says so. */
  layer(edits: number): Buffer {
    this.#layer++
    const parts: Array<Buffer> = []
    /** Markers that come last: order does not matter to them, as long as their directory is still one. */
    const late: Array<readonly [where: string, marker: Buffer]> = []
    const mark = (where: string, name: string): void => {
      const marker = this.#marker(where, name)
      if (this.#random(2) === 0) parts.push(marker)
      else late.push([where, marker])
    }
    const made: Array<readonly [path: string, node: Node]> = []
    for (let i = 0; i < edits; i++) {
      const [where, parent] = this.#pick(this.#directories())
      const name =
        this.#random(3) > 0 && parent.children!.size > 0 ? this.#pick([...parent.children!.keys()]) : this.#name()
      const path = where === "" ? name : `${where}/${name}`
      const old = parent.children!.get(name)
      const fresh = old === undefined || !this.#touchedWithin(old)
      const action = this.#random(12)
      if (action === 0 && old !== undefined && fresh) {
        parent.children!.delete(name)
        mark(where, `.wh.${name}`)
      } else if (action === 1 && old?.children !== undefined && fresh) {
        old.children.clear()
        mark(path, ".wh..wh..opq")
      } else if (action === 2 && old !== undefined && fresh) {
        const node = { ...this.#attributes(0o040000), children: new Map() }
        parent.children!.set(name, node)
        parts.push(this.#entry(path, node))
        mark(where, `.wh.${name}`)
      } else if (action === 3 && made.length > 0) {
        const [target, node] = this.#pick(made)
        // An inode of this layer that an earlier edit replaced can not be linked to any more.
        if (this.#find(target) === node && old !== node && !this.#holds(old, node)) {
          parent.children!.set(name, node)
          parts.push(this.#withPax({ name: path, flag: "1", link: target }, [["linkpath", target]]))
        }
      } else if (action === 4 && old === undefined) {
        const node = this.#leaf()
        const middle: Node = {
          ...this.#attributes(0),
          mode: 0o040755,
          uid: 0,
          gid: 0,
          seconds: 0,
          nanos: 0,
          xattrs: {},
          children: new Map([["deep", node]])
        }
        parent.children!.set(name, middle)
        parts.push(this.#entry(`${path}/deep`, node))
      } else if (action < 8) {
        const node = { ...this.#attributes(0o040000), children: old?.children ?? new Map<string, Node>() }
        parent.children!.set(name, node)
        parts.push(this.#entry(path, node))
      } else {
        const node = this.#leaf()
        parent.children!.set(name, node)
        parts.push(this.#entry(path, node))
        made.push([path, node])
      }
    }
    return tar(
      ...parts,
      ...late.filter(([where]) => this.#find(where)?.children !== undefined).map(([, marker]) => marker)
    )
  }

  #holds(node: Node | undefined, wanted: Node): boolean {
    return node === wanted || [...(node?.children?.values() ?? [])].some((child) => this.#holds(child, wanted))
  }

  #find(path: string): Node | undefined {
    let at: Node | undefined = this.root
    for (const part of path.split("/")) if (part !== "") at = at?.children?.get(part)
    return at
  }

  #leaf(): Node {
    const random = this.#random
    switch (random(8)) {
      case 0:
        return {
          ...this.#attributes(0o120000),
          mode: 0o120777,
          target: this.#pick(["x", "../a", "/abs/olute", "\xff", "t".repeat(4095)]),
          xattrs: {}
        }
      case 1:
        return { ...this.#attributes(0o010000) }
      case 2:
        return { ...this.#attributes(0o020000), device: [1 + random(4095), random(2 ** 20)] }
      case 3:
        return { ...this.#attributes(0o060000), device: [random(300), random(300)] }
      case 4: {
        const content = Buffer.alloc(random(400_000))
        for (let i = random(5); i > 0; i--) this.#bytes(1 + random(6000)).copy(content, random(content.length))
        return { ...this.#attributes(0o100000), content }
      }
      default:
        return {
          ...this.#attributes(0o100000),
          content: this.#bytes(this.#pick([0, 1, 4095, 4096, 4097, 12_288, random(20_000)]))
        }
    }
  }

  #marker(where: string, name: string): Buffer {
    const path = where === "" ? name : `${where}/${name}`
    return path.length <= 100 ? raw({ name: path }) : this.#withPax({ name: "w" }, [["path", path]])
  }

  #withPax(entry: RawEntry, values: PaxValues): Buffer {
    return Buffer.concat([pax([["path", entry.name], ...values]), raw(entry)])
  }

  #entry(path: string, node: Node): Buffer {
    const time =
      node.seconds < 0 && node.nanos > 0
        ? `${node.seconds + 1 === 0 ? "-0" : node.seconds + 1}.${String(1e9 - node.nanos).padStart(9, "0")}`
        : `${node.seconds}.${String(node.nanos).padStart(9, "0")}`
    const values: Array<readonly [string, string | Uint8Array]> = [
      ["path", path],
      ["mtime", time],
      ["uid", String(node.uid)],
      ...Object.entries(node.xattrs).map(([name, value]) => [`SCHILY.xattr.${name}`, value] as const)
    ]
    const entry = { name: path, mode: node.mode & 0o7777, gid: node.gid, link: node.target ?? "" }
    if (node.content !== undefined && node.content.length > 20_000) {
      const format = this.#pick<SparseFormat>(["old", "0.0", "0.1", "1.0"])
      return sparse({ ...entry, uid: node.uid }, node.content.length, this.#pieces(node.content), format, values)
    }
    const flags = { "100": "0", "120": "2", "020": "3", "060": "4", "040": "5", "010": "6" } as const
    if (node.target !== undefined) values.push(["linkpath", node.target])
    return this.#withPax(
      {
        ...entry,
        flag: flags[((node.mode & 0o170000) >> 9).toString(8).padStart(3, "0") as keyof typeof flags],
        major: node.device?.[0] ?? 0,
        minor: node.device?.[1] ?? 0,
        data: node.content ?? new Uint8Array(0)
      },
      values
    )
  }

  /** The stretches of a content that hold something, cut at odd places. */
  #pieces(content: Buffer): Pieces {
    const found: Array<{ offset: number; data: Buffer }> = []
    for (let at = 0; at < content.length; ) {
      if (content[at] === 0) {
        at++
        continue
      }
      let end = at + 1
      while (end < content.length && content.subarray(end, end + 300).some((byte) => byte !== 0)) end++
      found.push({ offset: at, data: content.subarray(at, end) })
      at = end
    }
    return found
  }

  /** What `listTree` must say of the mounted merge. */
  listing(): Map<string, Listed> {
    const result = new Map<string, Listed>()
    const firsts = new Map<Node, string>()
    const names = new Map<Node, number>()
    const count = (node: Node): void => {
      names.set(node, (names.get(node) ?? 0) + 1)
      for (const child of node.children?.values() ?? []) count(child)
    }
    count(this.root)
    const visit = (path: string, node: Node): void => {
      if (!firsts.has(node)) firsts.set(node, path)
      const directories = [...(node.children?.values() ?? [])].filter((child) => child.children !== undefined).length
      result.set(path, {
        mode: node.mode.toString(8),
        owner: `${node.uid}:${node.gid}`,
        mtime: String(BigInt(node.seconds) * 1_000_000_000n + BigInt(node.nanos)),
        nlink: node.children === undefined ? names.get(node)! : 2 + directories,
        size: node.content?.length ?? 0,
        target: node.target,
        device: node.device === undefined ? undefined : node.device.join(":"),
        xattrs: Object.fromEntries(
          Object.entries(node.xattrs)
            .map(([name, value]) => [name, value.toString("hex")] as const)
            .sort()
        ),
        sha256:
          node.content === undefined ? undefined : new Bun.CryptoHasher("sha256").update(node.content).digest("hex"),
        first: firsts.get(node)!
      })
      for (const name of [...(node.children?.keys() ?? [])].sort())
        visit(path === "/" ? `/${name}` : `${path}/${name}`, node.children!.get(name)!)
    }
    visit("/", this.root)
    return result
  }
}
