/**
 * Spells a VM as the command line of qemu-system-x86_64: a microvm board without firmware, ACPI or PCI.
 * A pure function of its input; opens nothing and starts nothing.
 */
import { CARD_FD, CARD_MAC, type RunnerDisk } from "../runner/protocol.ts"

export interface QemuMachine {
  /** ELF kernel with a PVH entry. */
  readonly kernel: string
  readonly cpus: number
  /** MiB. */
  readonly memoryMb: number
  /** In the order of /dev/vda, vdb, …; at most five, for the board has eight transports. */
  readonly disks: ReadonlyArray<RunnerDisk>
  /** Socket of a virtiofsd and the tag of what it shares; it needs the guest's memory to be shared with it. */
  readonly share?: { readonly socket: string; readonly tag: string } | undefined
  /** True: descriptor CARD_FD is the network card's; else there is none. */
  readonly card: boolean
  /** File that the guest's console is appended to. */
  readonly consolePath: string
  /** Unix sockets that QEMU listens on, for the guest's ports `bunker.0`, `bunker.1`, … */
  readonly slots: ReadonlyArray<string>
  /** See `bootWords`. */
  readonly brief: boolean
  /** See `bootWords`; for one processor only. */
  readonly soon: boolean
  /** Rate of the host's time stamp counter in kHz, where known. */
  readonly tscKhz: number | undefined
}

/**
 * The kernel command line of both worlds ends in these words; BUNKER_CHANNEL becomes the agent's environment. `soon`: without the
 * local APIC's timer, whose calibration takes 0.2 s on every machine; the guest has the PIT instead, which wakes it, and its host,
 * some forty times a second when it is idle, and serves one processor. `brief`: without a file system that takes 20 ms to register, and
 * that nothing of a run which is soon over has: btrfs.
 */
export const bootWords = (
  channel: "vsock" | "virtio",
  { brief, soon }: { readonly brief: boolean; readonly soon: boolean }
): ReadonlyArray<string> => [
  "root=/dev/vda",
  "rootfstype=erofs",
  "ro",
  "init=/init",
  // A self-test of a source of randomness that no caller here has: 95 of 640 ms on the lab's clock. The kernel has RDRAND and
  // virtio-rng; the only user of this one, the crypto API's DRBG, goes on without.
  `initcall_blacklist=jent_mod_init${brief ? ",init_btrfs_fs" : ""}`,
  // Loop devices are made when they are asked for.
  "loop.max_loop=0",
  ...(soon ? ["nolapic_timer"] : []),
  `BUNKER_CHANNEL=${channel}`
]

const KERNEL_WORDS = "console=hvc0 panic=-1 reboot=t mitigations=off random.trust_cpu=on no_timer_check quiet"

/** MiB of the host's memory for translated code of one VM; a boot needs some 60. */
const TRANSLATED_MB = 128

/** Commas end a value in QEMU's option syntax; two of them stand for one. */
const escape = (value: string): string => value.replaceAll(",", ",,")

export const qemuArguments = (machine: QemuMachine): ReadonlyArray<string> => {
  // Without its rate the guest measures the counter against the emulated clock and, on a busy host, gives up on it.
  const tsc = machine.tscKhz === undefined ? "" : `tsc_early_khz=${machine.tscKhz} tsc=reliable`
  return [
    ["-M", `microvm,acpi=off,rtc=on${machine.share === undefined ? "" : ",memory-backend=memory"}`],
    // Translated code of a guest that runs for long would else take up to a GiB of the host's memory.
    ["-accel", `tcg,thread=multi,tb-size=${TRANSLATED_MB}`],
    ["-cpu", "max,-la57"],
    ["-smp", String(machine.cpus)],
    ["-m", String(machine.memoryMb)],
    ...(machine.share === undefined
      ? []
      : [["-object", `memory-backend-memfd,id=memory,size=${machine.memoryMb}M,share=on`]]),
    ["-nodefaults", "-no-user-config", "-no-reboot"],
    ["-display", "none"],
    // The emulator parses what a hostile guest writes; it starts no program and gains no right.
    ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
    ["-global", "virtio-mmio.force-legacy=false"],
    ["-kernel", machine.kernel],
    ["-append", [KERNEL_WORDS, tsc, ...bootWords("virtio", machine)].filter((word) => word !== "").join(" ")],
    ...machine.disks.map((disk, index) => diskArguments(disk, index)),
    shareArguments(machine),
    cardArguments(machine),
    ["-device", `virtio-serial-device,max_ports=${machine.slots.length + 1},bus=${transport(0)}`],
    // The console has a port of its own, or its output would land on the agent's.
    ["-chardev", `file,id=console,append=on,path=${escape(machine.consolePath)}`],
    ["-device", "virtconsole,chardev=console"],
    ...machine.slots.map((path, index) => [
      ...["-chardev", `socket,id=slot${index},server=on,wait=off,path=${escape(path)}`],
      ...["-device", `virtserialport,chardev=slot${index},name=bunker.${index},nr=${index + 1}`]
    ])
  ].flat()
}

/**
 * The board's transports, in the order in which the guest finds them: QEMU puts the highest address first on the kernel
 * command line. The console comes before the disks, so that a panic over a missing root can be read.
 */
const transport = (index: number): string => `virtio-mmio-bus.${7 - index}`

const shareArguments = ({ share, disks }: QemuMachine): ReadonlyArray<string> =>
  share === undefined
    ? []
    : [
        ...["-chardev", `socket,id=share,path=${escape(share.socket)}`],
        ...["-device", `vhost-user-fs-device,chardev=share,tag=${share.tag},bus=${transport(disks.length + 1)}`]
      ]

/** Without a virtio header there is no segmentation by the host: the largest MTU takes its place. */
const cardArguments = ({ card, share, disks }: QemuMachine): ReadonlyArray<string> =>
  card
    ? [
        ...["-netdev", `stream,id=card,server=off,addr.type=fd,addr.str=${CARD_FD}`],
        "-device",
        `virtio-net-device,netdev=card,mac=${CARD_MAC},host_mtu=65535,bus=${transport(disks.length + (share === undefined ? 1 : 2))}`
      ]
    : []

const diskArguments = (disk: RunnerDisk, index: number): ReadonlyArray<string> => {
  // Image files of many VMs are shared and read-only: locks would only fail on file systems that lack them.
  const locking = disk.readOnly ? "off" : "auto"
  const node = {
    driver: disk.format,
    "node-name": `disk${index}`,
    "read-only": disk.readOnly,
    file: { driver: "file", filename: disk.path, locking, "read-only": disk.readOnly }
  }
  return [
    ...["-blockdev", JSON.stringify(node)],
    // A full disk of the host is an error that the guest sees: QEMU would stop the machine, and nobody would wake it.
    ...["-device", `virtio-blk-device,drive=disk${index},bus=${transport(index + 1)},werror=report`]
  ]
}
