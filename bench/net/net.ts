/**
 * Measures the network stack beside slirp4netns. The guest is a network namespace with a TAP device, so its TCP is this machine's, and
 * guest, stack and server share the processors: only ratios count. BENCH_MB (400), BENCH_RUNS (5), BENCH_CONNECTS (200).
 */
import fs from "node:fs"
import path from "node:path"
import { missingForTap } from "../../test/support/tapWorld.ts"
import { environment, writeResult } from "../support/results.ts"
import { summarize, table } from "../support/statistics.ts"

const megabytes = Number(process.env["BENCH_MB"] ?? 400)
const runs = Number(process.env["BENCH_RUNS"] ?? 5)
const connects = Number(process.env["BENCH_CONNECTS"] ?? 200)
const restMs = 5000

interface Contender {
  readonly name: string
  /** How the guest calls the host's loopback. */
  readonly host: string
  /** A process in the guest's namespace, and the one whose memory and time count. */
  readonly guest: number
  readonly pid: number
  readonly stop: () => Promise<void>
}

const firstLine = async (stream: ReadableStream<Uint8Array>): Promise<string> => {
  let text = ""
  for await (const piece of stream) {
    text += Buffer.from(piece).toString()
    if (text.includes("\n")) break
  }
  return text.split("\n", 1)[0]!
}

const ours = async (): Promise<Contender> => {
  const child = Bun.spawn([process.execPath, path.join(import.meta.dirname, "world.ts")], {
    stdio: ["pipe", "pipe", "inherit"]
  })
  const guest = Number(await firstLine(child.stdout))
  const stop = async (): Promise<void> => {
    await child.stdin.end()
    await child.exited
  }
  return { name: "bunker", host: "host.test", guest, pid: child.pid, stop }
}

const slirp = async (): Promise<Contender> => {
  if (Bun.which("slirp4netns") === null)
    throw new Error("slirp4netns is missing, on Debian: sudo apt-get install slirp4netns")
  const guest = Bun.spawn(["unshare", "-n", "sh", "-c", "ip link set lo up; exec sleep 100000"], {
    stdio: ["ignore", "ignore", "inherit"]
  })
  await Bun.sleep(300)
  const ready = Bun.spawn(["slirp4netns", "-c", "-m", "65520", "-r", "3", String(guest.pid), "tap0"], {
    stdio: ["ignore", "ignore", "ignore", "pipe"]
  })
  await Bun.sleep(1000)
  const stop = async (): Promise<void> => {
    ready.kill()
    guest.kill()
    await Promise.all([ready.exited, guest.exited])
  }
  return { name: "slirp4netns", host: "10.0.2.2", guest: guest.pid, pid: ready.pid, stop }
}

const clockTicks = 100
const cpuMsOf = (pid: number): number => {
  const fields = fs.readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]!.split(" ")
  return ((Number(fields[11]) + Number(fields[12])) * 1000) / clockTicks
}

const wakesOf = (pid: number): number => {
  const tasks = fs.readdirSync(`/proc/${pid}/task`)
  return tasks.reduce((sum, task) => {
    const status = fs.readFileSync(`/proc/${pid}/task/${task}/status`, "latin1")
    return sum + Number(/^voluntary_ctxt_switches:\s*(\d+)/m.exec(status)?.[1])
  }, 0)
}

const pssKibOf = (pid: number): number =>
  Number(/^Pss:\s*(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/smaps_rollup`, "latin1"))?.[1])

const servers = () => {
  const piece = Buffer.alloc(1_048_576)
  const go = (socket: Bun.Socket<{ left: number }>): void => {
    while (socket.data.left > 0) {
      const taken = socket.write(piece, 0, Math.min(socket.data.left, piece.length))
      if (taken <= 0) return
      socket.data.left -= taken
    }
    socket.end()
  }
  const sending = (bytes: number) =>
    Bun.listen<{ left: number }>({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        open: (socket) => {
          socket.data = { left: bytes }
          go(socket)
        },
        drain: go,
        data: () => {}
      }
    })
  const up = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    allowHalfOpen: true,
    socket: { data: () => {}, end: (socket) => void socket.end() }
  })
  return { up, down: sending(megabytes * 1e6), first: sending(1) }
}

export const benchNet = async (): Promise<void> => {
  const missing = missingForTap()
  if (missing !== undefined) throw new Error(`missing: ${missing}`)
  const { down, first, up } = servers()
  const contenders = [await ours(), await slirp()]
  const peer = path.join(import.meta.dirname, "peer.ts")
  const measure = async ({ guest, host, pid }: Contender, what: string, port: number, amount: number) => {
    const before = cpuMsOf(pid)
    const child = Bun.spawn(
      [
        "nsenter",
        "-t",
        String(guest),
        "-n",
        "-m",
        "--",
        process.execPath,
        peer,
        what,
        host,
        String(port),
        String(amount)
      ],
      { stdio: ["ignore", "pipe", "inherit"] }
    )
    const ms = Number(await new Response(child.stdout).text())
    return { ms, cpuMs: cpuMsOf(pid) - before }
  }
  try {
    const found = contenders.map(({ name }) => ({
      name,
      up: [] as number[],
      down: [] as number[],
      firstMs: [] as number[],
      upCpu: [] as number[],
      downCpu: [] as number[]
    }))
    // In turns, so that what else the machine does hits both.
    for (let run = 0; run <= runs; run++)
      for (const [index, contender] of contenders.entries()) {
        const [sent, got, byte] = [
          await measure(contender, "up", up.port, megabytes * 1e6),
          await measure(contender, "down", down.port, 0),
          await measure(contender, "first", first.port, connects)
        ]
        if (run === 0) continue
        found[index]!.up.push((megabytes * 1000) / sent.ms)
        found[index]!.down.push((megabytes * 1000) / got.ms)
        found[index]!.firstMs.push(byte.ms)
        found[index]!.upCpu.push(sent.cpuMs / megabytes)
        found[index]!.downCpu.push(got.cpuMs / megabytes)
      }
    const rest: Array<{ readonly wakesPerSecond: number; readonly pssMib: number }> = []
    for (const { pid } of contenders) {
      const before = wakesOf(pid)
      await Bun.sleep(restMs)
      rest.push({ wakesPerSecond: ((wakesOf(pid) - before) * 1000) / restMs, pssMib: pssKibOf(pid) / 1024 })
    }
    const rows = found.map(({ down, firstMs, name, up, downCpu, upCpu }, index) => ({
      name,
      "up, MB/s": summarize(up),
      "down, MB/s": summarize(down),
      "first byte, ms": summarize(firstMs),
      "up, ms of processor a MB": summarize(upCpu),
      "down, ms of processor a MB": summarize(downCpu),
      ...rest[index]!
    }))
    const medians = [
      "up, MB/s",
      "down, MB/s",
      "first byte, ms",
      "up, ms of processor a MB",
      "down, ms of processor a MB"
    ] as const
    console.log(
      table([
        ["", ...rows.map(({ name }) => name)],
        ...medians.map((what) => [what, ...rows.map((row) => String(row[what]?.median))]),
        ["wake-ups a second at rest", ...rows.map(({ wakesPerSecond }) => wakesPerSecond.toFixed(1))],
        ["PSS, MiB", ...rows.map(({ pssMib }) => pssMib.toFixed(1))]
      ])
    )
    console.log(writeResult("net", { environment: environment(), megabytes, runs, connects, rows }))
  } finally {
    for (const { stop } of contenders) await stop()
    for (const server of [up, down, first]) server.stop(true)
  }
}
