import { expect, test } from "bun:test"
import { handshakeWith, parseProxies, proxyFor } from "../../../src/net/dial/proxy.ts"

test("the proxies of the host's variables are read as other programs read them", () => {
  const { excepted, http, others } = parseProxies({
    http: "http://proxy.test:3128",
    https: "socks5h://user:p%40ss@[::1]",
    no: "localhost, .internal example.com:8443,10.0.0.0/8"
  })
  expect(http).toEqual({ kind: "http", host: "proxy.test", port: 3128 })
  expect(others).toEqual({ kind: "socks5", host: "::1", port: 1080, credentials: "user:p@ss" })
  expect(excepted).toEqual(["localhost", ".internal", "example.com:8443", "10.0.0.0/8"])
  expect(parseProxies({ all: "proxy.test:8080" }).http).toEqual({ kind: "http", host: "proxy.test", port: 8080 })
  expect(parseProxies({ http: "ftp://x", https: "", all: "%%" })).toEqual({
    http: undefined,
    others: undefined,
    excepted: []
  })
})

test("exceptions go by name, subdomain, port, address and CIDR", () => {
  const proxies = parseProxies({ all: "http://p:1", no: "a.test .b.test *.c.test d.test:99 10.0.0.0/8 192.0.2.1" })
  const direct = (host: string, port = 443) => proxyFor(proxies, host, port) === undefined
  expect(
    ["a.test", "x.a.test", "b.test", "x.b.test", "x.c.test", "10.9.9.9", "192.0.2.1"].filter((each) => !direct(each))
  ).toEqual([])
  expect(["xa.test", "e.test", "11.0.0.1", "192.0.2.2", "a.test.evil"].filter((each) => direct(each))).toEqual([])
  expect([direct("d.test", 99), direct("d.test", 98)]).toEqual([true, false])
  expect(proxyFor(parseProxies({ all: "http://p:1", no: "*" }), "x.test", 1)).toBeUndefined()
})

test("CONNECT: consent, refusal, nonsense, an endless answer", () => {
  const { hello, next } = handshakeWith({ kind: "http", host: "p", port: 1, credentials: "u:p" }, "x.test", 443)
  expect(Buffer.from(hello).toString()).toBe(
    "CONNECT x.test:443 HTTP/1.1\r\nHost: x.test:443\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
  )
  expect(next(Buffer.from("HTTP/1.1 200 OK\r\nA: b\r\n"))).toBeUndefined()
  expect(next(Buffer.from("HTTP/1.1 200 OK\r\n\r\nmore"))).toEqual({ used: 19, done: true })
  expect(next(Buffer.from("HTTP/1.1 403 No\r\n\r\n"))).toBe("the proxy answers 403")
  expect(next(Buffer.from("SSH-2.0\r\n\r\n"))).toBe("the proxy answers no HTTP")
  expect(next(Buffer.alloc(20_000, 65))).toBe("the proxy's answer is too long")
})

test("SOCKS5: with login, by name, cut anywhere", () => {
  const { hello, next } = handshakeWith({ kind: "socks5", host: "p", port: 1, credentials: "u:pw" }, "x.test", 443)
  expect([...hello]).toEqual([5, 2, 0, 2])
  expect(next(Buffer.from([5]))).toBeUndefined()
  expect(next(Buffer.from([5, 2]))).toEqual({ used: 2, say: Buffer.from([1, 1, 117, 2, 112, 119]), done: false })
  const request = next(Buffer.from([1, 0]))
  expect(request).toEqual({ used: 2, say: Buffer.from([5, 1, 0, 3, 6, ...Buffer.from("x.test"), 1, 187]), done: false })
  expect(next(Buffer.from([5, 0, 0, 1, 0, 0, 0, 0, 0]))).toBeUndefined()
  expect(next(Buffer.from([5, 0, 0, 1, 0, 0, 0, 0, 0, 0, 7]))).toEqual({ used: 10, done: true })
  expect(handshakeWith({ kind: "socks5", host: "p", port: 1 }, "x", 1).next(Buffer.from([5, 255]))).toBe(
    "the proxy wants another login"
  )
})
