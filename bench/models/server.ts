/** A Hub with one repository, the files of a directory, in a process of its own: prints where it listens and ends when killed. */
import fs from "node:fs"
import path from "node:path"

const root = process.argv[2]!
const names = fs
  .readdirSync(root, { recursive: true, encoding: "utf8" })
  .filter((name) => fs.statSync(path.join(root, name)).isFile())
const commit = "c".repeat(40)

const sha256 = async (file: string): Promise<string> => {
  const hash = new Bun.CryptoHasher("sha256")
  for await (const chunk of Bun.file(file).stream()) hash.update(chunk)
  return hash.digest("hex")
}
const tree: Array<object> = []
for (const name of names) {
  const size = fs.statSync(path.join(root, name)).size
  tree.push({
    type: "file",
    path: name,
    size,
    oid: "a".repeat(40),
    lfs: { oid: await sha256(path.join(root, name)), size }
  })
}

const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  idleTimeout: 0,
  fetch: (request) => {
    const { pathname } = new URL(request.url)
    if (pathname.includes("/revision/")) return Response.json({ _id: "1", id: "org/large", sha: commit })
    if (pathname.includes("/tree/")) return Response.json(tree)
    return new Response(Bun.file(path.join(root, pathname.split(`/resolve/${commit}/`)[1] ?? "")))
  }
})
const endpoint = `http://127.0.0.1:${server.port}`
console.log(JSON.stringify({ endpoint, urls: names.map((name) => `${endpoint}/org/large/resolve/${commit}/${name}`) }))
