/** A token server as docker/distribution describes it: checks a password, signs RS256 tokens that docker-registry accepts. Runs until the scope ends. */

import { Effect } from "effect"
import { selfSigned } from "./registry.ts"

/** One request that the token server got. */
export interface TokenRequest {
  readonly method: string
  readonly authorization: string | null
  readonly scope: string | null
  readonly service: string | null
  readonly refreshToken: string | null
}

export interface TokenServerOptions {
  readonly username?: string
  readonly password?: string
  /** Token taken in place of a password. */
  readonly identityToken?: string
  /** Seconds [300]. */
  readonly lifetime?: number
}

const base64url = (value: string | Uint8Array): string => Buffer.from(value as string).toString("base64url")

const pemBody = (pem: string): string => pem.replace(/-----[^-]+-----|\s/g, "")

/** Starts the server; `registry` is what `startRegistry` takes to trust it. */
export const startTokenServer = Effect.fn("test.tokenServer")(function* (options: TokenServerOptions = {}) {
  const { key: keyFile, certificate: certificateFile } = yield* selfSigned()
  const [keyPem, certificatePem] = yield* Effect.promise(() =>
    Promise.all([Bun.file(keyFile).text(), Bun.file(certificateFile).text()])
  )
  const algorithm = { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" }
  const key = yield* Effect.promise(() =>
    crypto.subtle.importKey("pkcs8", Buffer.from(pemBody(keyPem), "base64"), algorithm, false, ["sign"])
  )
  const issuer = "test issuer"
  const service = "test registry"
  const requests: Array<TokenRequest> = []
  let serial = 0

  const sign = async (scope: string | null): Promise<string> => {
    const now = Math.floor(Date.now() / 1000)
    const [type = "", name = "", actions = ""] = (scope ?? "").split(":")
    const claims = {
      iss: issuer,
      sub: "someone",
      aud: service,
      exp: now + (options.lifetime ?? 300),
      nbf: now - 60,
      iat: now,
      jti: String(++serial),
      access: scope === null ? [] : [{ type, name, actions: actions.split(",") }]
    }
    const head = { typ: "JWT", alg: "RS256", x5c: [pemBody(certificatePem)] }
    const text = `${base64url(JSON.stringify(head))}.${base64url(JSON.stringify(claims))}`
    return `${text}.${base64url(new Uint8Array(await crypto.subtle.sign(algorithm, key, Buffer.from(text))))}`
  }

  const server = yield* Effect.acquireRelease(
    Effect.sync(() =>
      Bun.serve({
        port: 0,
        hostname: "127.0.0.1",
        fetch: async (request) => {
          const form =
            request.method === "POST" ? new URLSearchParams(await request.text()) : new URL(request.url).searchParams
          const authorization = request.headers.get("authorization")
          const refreshToken = form.get("refresh_token")
          requests.push({
            method: request.method,
            authorization,
            scope: form.get("scope"),
            service: form.get("service"),
            refreshToken
          })
          const wanted = `Basic ${btoa(`${options.username}:${options.password}`)}`
          const passed =
            (options.password === undefined && options.identityToken === undefined) ||
            (options.password !== undefined && authorization === wanted) ||
            (options.identityToken !== undefined && refreshToken === options.identityToken)
          if (!passed) return new Response('{"details":"incorrect username or password"}', { status: 401 })
          const token = await sign(form.get("scope"))
          return Response.json({
            [request.method === "POST" ? "access_token" : "token"]: token,
            expires_in: options.lifetime ?? 300
          })
        }
      })
    ),
    (server) => Effect.promise(() => server.stop(true))
  )
  const realm = `http://127.0.0.1:${server.port}/token`
  return { realm, requests, registry: { kind: "token", realm, service, issuer, certificateFile } as const }
})
