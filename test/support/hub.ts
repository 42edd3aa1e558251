/**
 * A Hub on loopback that behaves like Hugging Face's on the wire: two origins (the Hub and its storage), commits, trees in pages
 * with a `Link` header, `resolve/` with redirects, entity tags and `X-` headers, ranges, gated repositories, and faults on demand.
 * Remembers every request.
 */
import net from "node:net"
import { sha256 } from "./models.ts"

export interface HubRepository {
  /** Files by path; large ones (as git LFS keeps them) are listed in `large`. */
  readonly files: Readonly<Record<string, Uint8Array | string>>
  readonly large?: ReadonlyArray<string>
  /** Only this token may read it. */
  readonly token?: string
}

export interface HubRequest {
  readonly origin: "hub" | "storage"
  readonly method: string
  readonly path: string
  readonly authorization: string | null
  readonly range: string | null
}

export interface HubFaults {
  /** Answers of a path (ending so) that are this one instead, first to last. */
  readonly answers?: Record<string, Array<() => Response>>
  /** Cuts the connection of a file after so many bytes of an answer, as often as there are numbers. */
  readonly cuts?: Record<string, Array<number>>
  /** Storage that knows no ranges. */
  readonly noRanges?: boolean
  /** Changes headers of `resolve/`. */
  readonly headers?: (headers: Headers, path: string) => void
  /** What storage sends in place of a file's bytes. */
  readonly spoil?: (path: string, bytes: Uint8Array) => Uint8Array
  /** Waits before the bytes of a file are sent. */
  readonly gate?: Promise<void>
}

const bytesOf = (content: Uint8Array | string): Uint8Array =>
  typeof content === "string" ? new TextEncoder().encode(content) : content

const gitBlob = (content: Uint8Array | string): string => {
  const bytes = bytesOf(content)
  return new Bun.CryptoHasher("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex")
}

/** Entries in a page of a tree. */
const pageEntries = 3

export const startHub = (repositories: Record<string, HubRepository>, faults: HubFaults = {}) => {
  const requests: Array<HubRequest> = []
  /** Commit that a branch or tag of a repository names; a commit names itself. */
  const commits: Record<string, Record<string, string>> = {}
  const seen = (origin: HubRequest["origin"], request: Request): void => {
    const url = new URL(request.url)
    requests.push({
      origin,
      method: request.method,
      path: url.pathname + url.search,
      authorization: request.headers.get("authorization"),
      range: request.headers.get("range")
    })
  }
  const commitOf = (name: string, revision: string): string | undefined => {
    const known = commits[name] ?? { main: sha256(name).slice(0, 40) }
    return known[revision] ?? Object.values(known).find((commit) => commit === revision)
  }
  const refuse = (status: number, code: string): Response =>
    Response.json({ error: code }, { status, headers: { "x-error-code": code, "x-error-message": code } })

  const faultFor = (path: string): Response | undefined => {
    for (const [tail, answers] of Object.entries(faults.answers ?? {})) {
      if (path.endsWith(tail) && answers.length > 0) return answers.shift()!()
    }
    return undefined
  }

  /** The bytes of a file, or a part of them; cut short on demand. */
  const send = async (request: Request, path: string, content: Uint8Array, headers: Headers): Promise<Response> => {
    await faults.gate
    const bytes = faults.spoil?.(path, content) ?? content
    const range = faults.noRanges === true ? null : /^bytes=(\d+)-$/.exec(request.headers.get("range") ?? "")
    const from = Number(range?.[1] ?? 0)
    if (range !== null && from >= bytes.length) {
      return new Response(null, { status: 416, headers: { "content-range": `bytes */${bytes.length}` } })
    }
    if (range !== null) headers.set("content-range", `bytes ${from}-${bytes.length - 1}/${bytes.length}`)
    headers.set("accept-ranges", "bytes")
    const cut = faults.cuts?.[path]?.shift()
    if (cut === undefined) return new Response(bytes.slice(from), { status: range === null ? 200 : 206, headers })
    headers.set("x-cut", String(cut))
    return new Response(bytes.slice(from), { status: range === null ? 200 : 206, headers })
  }

  const storage = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    idleTimeout: 0,
    fetch: (request) => {
      seen("storage", request)
      const url = new URL(request.url)
      const path = decodeURIComponent(url.pathname.split("/").slice(4).join("/"))
      const [, , owner, name] = url.pathname.split("/")
      const content = repositories[`${owner}/${name}`]?.files[path]
      if (content === undefined) return new Response(null, { status: 404 })
      const faulty = faultFor(`storage:${path}`)
      if (faulty !== undefined) return faulty
      // Storage takes signed addresses and refuses any other credential, as S3 does.
      if (request.headers.has("authorization")) return new Response(null, { status: 400 })
      if (url.searchParams.get("signature") !== "good") return new Response(null, { status: 403 })
      return send(request, path, bytesOf(content), new Headers({ etag: `"${sha256(bytesOf(content))}"` }))
    }
  })
  const cutting = cutProxy(storage.port!)

  const hub = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    idleTimeout: 0,
    fetch: (request) => {
      seen("hub", request)
      const url = new URL(request.url)
      const faulty = faultFor(url.pathname)
      if (faulty !== undefined) return faulty
      const api = /^\/api\/models\/([^/]+\/[^/]+)\/(revision|tree)\/([^/]+)$/.exec(url.pathname)
      const file = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(url.pathname)
      const [, name = "", kind, rev = ""] = api ?? [file?.[0], file?.[1], "resolve", file?.[2]]
      const repository = repositories[name]
      if (repository === undefined) return refuse(401, "RepoNotFound")
      if (repository.token !== undefined && request.headers.get("authorization") !== `Bearer ${repository.token}`) {
        return refuse(request.headers.has("authorization") ? 403 : 401, "GatedRepo")
      }
      const commit = commitOf(name, decodeURIComponent(rev))
      if (commit === undefined) return refuse(404, "RevisionNotFound")
      if (kind === "revision") return Response.json({ _id: "1", id: name, sha: commit, private: false, gated: false })
      const isLarge = (path: string) => repository.large?.includes(path) === true
      if (kind === "tree") {
        const all = Object.entries(repository.files)
        const from = Number(url.searchParams.get("cursor") ?? 0)
        const entries = all.slice(from, from + pageEntries).map(([path, content]) => {
          const bytes = bytesOf(content)
          if (!isLarge(path)) return { type: "file", oid: gitBlob(bytes), size: bytes.length, path }
          const lfs = { oid: sha256(bytes), size: bytes.length, pointerSize: 134 }
          return { type: "file", oid: gitBlob("pointer"), size: bytes.length, lfs, xetHash: sha256("xet"), path }
        })
        entries.push({ type: "directory", oid: gitBlob("d"), size: 0, path: `dir${from}` })
        const next = new URL(url)
        next.searchParams.set("cursor", String(from + pageEntries))
        const more = from + pageEntries < all.length ? { link: `<${next.href}>; rel="next"` } : {}
        return Response.json(entries, { headers: more })
      }
      const path = decodeURIComponent(file![3]!)
      const content = repository.files[path]
      if (content === undefined) return refuse(404, "EntryNotFound")
      const bytes = bytesOf(content)
      const headers = new Headers({ "x-repo-commit": commit })
      if (isLarge(path)) {
        headers.set("x-linked-etag", `"${sha256(bytes)}"`)
        headers.set("x-linked-size", String(bytes.length))
        headers.set("etag", `"${sha256("pointer")}"`)
        const address = `/repos/${name}/${path.split("/").map(encodeURIComponent).join("/")}?signature=good`
        headers.set("location", `http://127.0.0.1:${cutting.port()}${address}`)
        faults.headers?.(headers, path)
        return new Response("Found. Redirecting", { status: 302, headers })
      }
      headers.set("etag", `"${gitBlob(bytes)}"`)
      faults.headers?.(headers, path)
      return send(request, path, bytes, headers)
    }
  })

  return {
    endpoint: `http://127.0.0.1:${hub.port}`,
    requests,
    /** Requests for the bytes of a file. */
    downloads: (path: string) => requests.filter((each) => each.origin === "storage" && each.path.includes(path)),
    /** Points a branch or tag at a commit. */
    setCommit: (name: string, revision: string, commit: string) => {
      commits[name] = { ...commits[name], [revision]: commit }
    },
    commitOf,
    stop: async () => {
      cutting.stop()
      await hub.stop(true)
      await storage.stop(true)
    }
  }
}

/** Stands before the storage and cuts an answer that carries `x-cut: N` after N bytes of its body, by a reset. */
const cutProxy = (target: number) => {
  const server = net.createServer((client) => {
    const upstream = net.connect(target, "127.0.0.1")
    let head: Buffer | undefined = Buffer.alloc(0)
    let left = Number.POSITIVE_INFINITY
    const end = () => {
      client.destroy()
      upstream.destroy()
    }
    client.on("data", (data) => {
      // A new request on the same connection: a new head follows.
      head = Buffer.alloc(0)
      left = Number.POSITIVE_INFINITY
      upstream.write(data)
    })
    client.on("close", end)
    client.on("error", end)
    upstream.on("error", end)
    upstream.on("close", () => client.end())
    upstream.on("data", (data: Buffer) => {
      let body = data
      if (head !== undefined) {
        head = Buffer.concat([head, data])
        const at = head.indexOf("\r\n\r\n")
        if (at < 0) return
        const text = head.subarray(0, at + 4).toString("latin1")
        left = Number(/x-cut: (\d+)/i.exec(text)?.[1] ?? Number.POSITIVE_INFINITY)
        body = head.subarray(at + 4)
        client.write(head.subarray(0, at + 4))
        head = undefined
      }
      if (left > 0) client.write(body.subarray(0, Math.min(body.length, left)))
      left -= body.length
      // As a network does it: what was sent has long arrived when the connection breaks.
      if (left <= 0) setTimeout(end, 100)
    })
  })
  server.listen(0, "127.0.0.1")
  return { port: () => (server.address() as net.AddressInfo).port, stop: () => server.close() }
}
