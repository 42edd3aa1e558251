/**
 * Runs benches by name: `bun run bench` lists them, `bun run bench vm cli` runs two. Each prints a table and writes its numbers
 * to bench/results/.
 */

const benches: Readonly<Record<string, { readonly about: string; readonly run: () => Promise<void> }>> = {
  vm: {
    about: "boot, exec, stop and memory against bare libkrun, microsandbox and BoxLite, in the KVM lab (15 minutes)",
    run: async () => (await import("./vm/vm.ts")).benchVm()
  },
  leases: {
    about: "refused leases per second, sweeps of small and large tables",
    run: async () => (await import("./leases/leases.ts")).benchLeases()
  },
  sessions: {
    about: "commits, paths, collections and lists of sessions, beside the same work over bun:sqlite (2 minutes)",
    run: async () => (await import("./sessions/sessions.ts")).benchSessions()
  },
  phases: {
    about: "every named step of one run, and the guest kernel's messages, in the KVM lab (3 minutes)",
    run: async () => (await import("./phases/phases.ts")).benchPhases()
  },
  kernel: {
    about: "guest boot by kernel words, in the KVM lab (a quarter of a minute a boot)",
    run: async () => (await import("./kernel/kernel.ts")).benchKernel()
  },
  images: {
    about:
      "cold pulls from a local registry against skopeo + umoci and microsandbox; warm persists; prune of 1,000 images",
    run: async () => (await import("./images/images.ts")).benchImages()
  },
  models: {
    about: "installs of models from disk and over HTTP against cp, curl and sha256sum; a quick look at 20,000 files",
    run: async () => (await import("./models/models.ts")).benchModels()
  },
  streams: {
    about: "100 MB through a command and as a file, in and out of a running sandbox, and one word (2 minutes)",
    run: async () => (await import("./streams/streams.ts")).benchStreams()
  },
  net: {
    about:
      "the network stack against slirp4netns, this machine's own TCP as the guest: bytes both ways, first byte, rest (2 minutes)",
    run: async () => (await import("./net/net.ts")).benchNet()
  },
  cli: {
    about: "start-up time and memory of the compiled program and of ./bunker",
    run: async () => (await import("./cli/cli.ts")).benchCli()
  }
}

const names = process.argv.slice(2)
const unknown = names.filter((name) => benches[name] === undefined)
if (names.length === 0 || unknown.length > 0) {
  for (const name of unknown) console.error(`bench: there is no bench "${name}"`)
  console.log("usage: bun run bench NAME...\n")
  for (const [name, { about }] of Object.entries(benches)) console.log(`  ${name.padEnd(8)} ${about}`)
  process.exit(unknown.length > 0 ? 1 : 0)
}
for (const name of names) await benches[name]!.run()
