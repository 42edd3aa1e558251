/** Instructions of an import, as people know them from Dockerfiles. */
import { describe, expect, test } from "bun:test"
import { Result } from "effect"
import { parseChanges, type RunConfig } from "../../../src/domain/image/imageChanges.ts"

const shell = (line: string) => ["/bin/sh", "-c", line]
const good: ReadonlyArray<readonly [ReadonlyArray<string>, RunConfig]> = [
  [[], {}],
  [['CMD ["a", "b c"]'], { Cmd: ["a", "b c"] }],
  [["cmd echo $HOME  x"], { Cmd: shell("echo $HOME  x") }],
  [["ENTRYPOINT []"], { Entrypoint: [] }],
  [['ENV A=1 B=\'x y\' C="z\\""', "ENV A=2", "ENV D e  f"], { Env: ["B=x y", 'C=z"', "A=2", "D=e  f"] }],
  [["ENV PATH=/a:/b=c"], { Env: ["PATH=/a:/b=c"] }],
  [["LABEL a=b c=", "LABEL a=d"], { Labels: { a: "d", c: "" } }],
  [["EXPOSE 80 53/udp"], { ExposedPorts: { "80/tcp": {}, "53/udp": {} } }],
  [["VOLUME /a /b", 'VOLUME ["/c d"]'], { Volumes: { "/a": {}, "/b": {}, "/c d": {} } }],
  [["USER me:us ", "WORKDIR /a b", "STOPSIGNAL SIGINT"], { User: "me:us", WorkingDir: "/a b", StopSignal: "SIGINT" }]
]
const bad: ReadonlyArray<readonly [string, string]> = [
  ["", "INSTRUCTION VALUE"],
  ["CMD", "INSTRUCTION VALUE"],
  ["RUN make", "only CMD"],
  ['CMD ["a", 1]', "a list"],
  ["CMD [a]", "a list"],
  ["ENV A", "no value"],
  ["ENV A=1 B", "not NAME=value"],
  ["ENV A='1", "quote"],
  ["EXPOSE http", "not a port"],
  ["WORKDIR here", "absolute"]
]

describe("changes of an import", () => {
  for (const [instructions, config] of good)
    test(`${instructions.join("; ") || "nothing"}`, () => {
      expect(Result.getOrThrow(parseChanges(instructions))).toEqual(config)
    })
  for (const [instruction, word] of bad)
    test(`"${instruction}" is refused`, () => {
      const error = Result.getOrThrow(Result.flip(parseChanges(["USER a", instruction])))
      expect(error).toMatchObject({ _tag: "InvalidSpec", field: "--change" })
      expect(error.message).toContain(word)
    })
})
