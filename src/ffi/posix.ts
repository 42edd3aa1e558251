/**
 * Binds the few POSIX and Linux calls that node:fs and node:process lack: locks, limits, descriptors, sessions, execve.
 * Holds no policy. Linux with glibc on x86-64 only.
 *
 * Holds for every call unless its line says otherwise: it works on plain integers, borrows no memory, does not block and
 * affects the calling process. A failed call throws CallFailed with the name of errno, which is read on the same thread
 * right after the call.
 */
import { dlopen, FFIType, type Pointer, ptr, read } from "bun:ffi"
import { CallFailed, errnoName } from "./errno.ts"

const { i32, i64, u32, u64, ptr: pointer } = FFIType

let loaded: ReturnType<typeof load> | undefined

const load = () =>
  dlopen("libc.so.6", {
    __errno_location: { args: [], returns: pointer },
    flock: { args: [i32, i32], returns: i32 },
    prctl: { args: [i32, u64, u64, u64, u64], returns: i32 },
    setsid: { args: [], returns: i32 },
    getppid: { args: [], returns: i32 },
    getrlimit: { args: [i32, pointer], returns: i32 },
    setrlimit: { args: [i32, pointer], returns: i32 },
    fcntl: { args: [i32, i32, i64], returns: i32 },
    chroot: { args: [pointer], returns: i32 },
    fallocate: { args: [i32, i32, i64, i64], returns: i32 },
    dup2: { args: [i32, i32], returns: i32 },
    socketpair: { args: [i32, i32, i32, pointer], returns: i32 },
    socket: { args: [i32, i32, i32], returns: i32 },
    connect: { args: [i32, pointer, u32], returns: i32 },
    close: { args: [i32], returns: i32 },
    kill: { args: [i32, i32], returns: i32 },
    poll: { args: [pointer, u64, i32], returns: i32 },
    sigaction: { args: [i32, pointer, pointer], returns: i32 },
    syscall: { args: [i64, i64, i64, i64, i64], returns: i64 },
    execve: { args: [pointer, pointer, pointer], returns: i32 }
  }).symbols

/** libc is looked up at the first call, so importing this file costs nothing. */
const libc = () => (loaded ??= load())

const check = (call: string, argument: string, result: number | bigint): number => {
  if (Number(result) >= 0) return Number(result)
  throw new CallFailed(call, argument, errnoName(read.i32(libc().__errno_location() as Pointer, 0)))
}

const LOCK_SH = 1
const LOCK_EX = 2
const LOCK_NB = 4

/**
 * Takes a flock(2) lock on an open descriptor without waiting; false when another open description holds one that excludes it.
 * The lock belongs to the open file description: it survives execve and fork and ends when the last copy is closed.
 */
const tryLock = (fd: number, kind: number): boolean => {
  try {
    check("flock", String(fd), libc().flock(fd, kind | LOCK_NB))
    return true
  } catch (cause) {
    if (cause instanceof CallFailed && cause.errno === "EAGAIN") return false
    throw cause
  }
}

/** Takes a lock that nobody else may hold with us. */
export const tryLockExclusive = (fd: number): boolean => tryLock(fd, LOCK_EX)

/** Takes a lock that others may share. */
export const tryLockShared = (fd: number): boolean => tryLock(fd, LOCK_SH)

const PR_SET_PDEATHSIG = 1

/**
 * Has the kernel send `signal` to this process when the *thread* that started it ends; 0 switches it off. A parent that is
 * gone already is not noticed: compare parentPid() afterwards. Survives execve.
 */
export const setParentDeathSignal = (signal: number): void => {
  check("prctl", "PR_SET_PDEATHSIG", libc().prctl(PR_SET_PDEATHSIG, BigInt(signal), 0n, 0n, 0n))
}

/** Process id of the parent as it is now; process.ppid may be the one from the start. */
export const parentPid = (): number => libc().getppid()

/** Makes this process the leader of a session of its own, without a terminal. A process that leads a group keeps its session. */
export const ownSession = (): void => {
  try {
    check("setsid", "", libc().setsid())
  } catch (cause) {
    if (!(cause instanceof CallFailed && cause.errno === "EPERM")) throw cause
  }
}

/** Resource numbers of setrlimit(2). */
export const RLIMIT_CORE = 4
export const RLIMIT_NOFILE = 7

/** Soft and hard limit of a resource; the kernel reads or writes 16 bytes of ours during the call. */
export const getLimit = (resource: number): { readonly soft: bigint; readonly hard: bigint } => {
  const pair = new BigUint64Array(2)
  check("getrlimit", String(resource), libc().getrlimit(resource, ptr(pair)))
  return { soft: pair[0]!, hard: pair[1]! }
}

export const setLimit = (resource: number, soft: bigint, hard: bigint): void => {
  const pair = BigUint64Array.of(soft, hard)
  check("setrlimit", String(resource), libc().setrlimit(resource, ptr(pair)))
}

const F_GETFD = 1
const F_SETFD = 2
const FD_CLOEXEC = 1

/** Says whether a descriptor survives execve; node:fs opens all of its own close-on-exec. */
export const setCloseOnExec = (fd: number, closed: boolean): void => {
  const flags = check("fcntl", `${fd}, F_GETFD`, libc().fcntl(fd, F_GETFD, 0n))
  const wanted = closed ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC
  check("fcntl", `${fd}, F_SETFD`, libc().fcntl(fd, F_SETFD, BigInt(wanted)))
}

/** Makes `to` another name of `from`, closing what `to` was; the copy survives execve. */
export const duplicateTo = (from: number, to: number): void => {
  check("dup2", `${from}, ${to}`, libc().dup2(from, to))
}

const FALLOC_FL_KEEP_SIZE = 1
const FALLOC_FL_PUNCH_HOLE = 2

/** Gives the blocks of a part of a file back to the file system; the part reads as zeros, the file's length stays. May block. */
export const punchHole = (fd: number, offset: number, length: number): void => {
  const mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
  check("fallocate", `${fd}`, libc().fallocate(fd, mode, BigInt(offset), BigInt(length)))
}

const AF_UNIX = 1
const SOCK_STREAM = 1
const SOCK_CLOEXEC = 0o2000000

/** Two connected unix stream sockets, close-on-exec; the caller closes both. */
export const socketPair = (): readonly [number, number] => {
  const pair = new Int32Array(2)
  check("socketpair", "AF_UNIX", libc().socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ptr(pair)))
  return [pair[0]!, pair[1]!]
}

const AF_INET = 2
const AF_INET6 = 10
const SOCK_DGRAM = 2
const SOCK_NONBLOCK = 0o4000
const IPPROTO_ICMP = 1
const IPPROTO_ICMPV6 = 58

/**
 * A non-blocking socket for ICMP echo messages to and from one address (4 or 16 bytes); the caller closes it. EACCES where the system
 * lets its users have none (net.ipv4.ping_group_range). Borrows an address structure for the call.
 */
export const openEchoSocket = (address: Uint8Array): number => {
  const four = address.length === 4
  const kind = SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK
  const created = libc().socket(four ? AF_INET : AF_INET6, kind, four ? IPPROTO_ICMP : IPPROTO_ICMPV6)
  const fd = check("socket", "ICMP", created)
  const name = new Uint8Array(four ? 16 : 28)
  name[0] = four ? AF_INET : AF_INET6
  name.set(address, four ? 4 : 8)
  try {
    check("connect", "ICMP", libc().connect(fd, ptr(name), name.length))
  } catch (cause) {
    libc().close(fd)
    throw cause
  }
  return fd
}

const POLLOUT = 4

/** Whether a write would be taken now: at least a quarter of a unix stream's buffer is free. Borrows 8 bytes for the call. */
export const isWritable = (fd: number): boolean => {
  const entry = new Int32Array([fd, POLLOUT])
  check("poll", String(fd), libc().poll(ptr(entry), 1n, 0))
  return entry[1]! >>> 16 === POLLOUT
}

const POLLHUP = 16

/** Whether the peer of a stream socket has closed its end. Borrows 8 bytes for the call. */
export const isHungUp = (fd: number): boolean => {
  const entry = new Int32Array([fd, 0])
  check("poll", String(fd), libc().poll(ptr(entry), 1n, 0))
  return ((entry[1]! >>> 16) & POLLHUP) !== 0
}

const SYS_CAPGET = 125n
const SYS_CAPSET = 126n
const CAPABILITY_VERSION_3 = 0x2008_0522
const CAP_SYS_CHROOT = 18

/**
 * Makes a directory the root of this process, all its threads included, and gives up the right to do so again on this thread and
 * those it starts. Open descriptors stay what they are. The path and the 32 bytes of capabilities are borrowed for the calls.
 */
export const changeRoot = (directory: string): void => {
  check("chroot", directory, libc().chroot(ptr(Buffer.from(`${directory}\0`, "utf8"))))
  process.chdir("/")
  const header = Uint32Array.of(CAPABILITY_VERSION_3, 0)
  const sets = new Uint32Array(6)
  check("capget", "", libc().syscall(SYS_CAPGET, BigInt(ptr(header)), BigInt(ptr(sets)), 0n, 0n))
  // Effective, permitted and inheritable, of the first 32 rights.
  for (const index of [0, 1, 2]) sets[index]! &= ~(1 << CAP_SYS_CHROOT)
  check("capset", "", libc().syscall(SYS_CAPSET, BigInt(ptr(header)), BigInt(ptr(sets)), 0n, 0n))
}

const PR_SET_NO_NEW_PRIVS = 38
const PR_CAPBSET_DROP = 24
const PR_CAP_AMBIENT = 47
const PR_CAP_AMBIENT_CLEAR_ALL = 4n

/**
 * Gives up every right beyond those of the user on the calling thread, and the way to more by execve; threads that are there already
 * keep theirs until an execve ends them. The 32 bytes of capabilities are borrowed for the call.
 */
export const dropRights = (): void => {
  check("prctl", "PR_SET_NO_NEW_PRIVS", libc().prctl(PR_SET_NO_NEW_PRIVS, 1n, 0n, 0n, 0n))
  libc().prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0n, 0n, 0n)
  // Who may not narrow the bounding set has nothing in the other ones.
  for (let right = 0n; libc().prctl(PR_CAPBSET_DROP, right, 0n, 0n, 0n) === 0; ) right += 1n
  const header = Uint32Array.of(CAPABILITY_VERSION_3, 0)
  const sets = new Uint32Array(6)
  check("capset", "", libc().syscall(SYS_CAPSET, BigInt(ptr(header)), BigInt(ptr(sets)), 0n, 0n))
}

const SYS_PIDFD_GETFD = 438n
const SYS_PIDFD_SEND_SIGNAL = 424n
const SYS_PIDFD_OPEN = 434n

/** A descriptor of a living process that stays bound to it when the number is used again; ESRCH when there is none. Close it. */
export const pidfdOpen = (pid: number): number =>
  check("pidfd_open", String(pid), libc().syscall(SYS_PIDFD_OPEN, BigInt(pid), 0n, 0n, 0n))

/** A copy of a descriptor of another process, close-on-exec; EPERM where this process may not look into that one. Close it. */
export const pidfdGetDescriptor = (pidfd: number, fd: number): number =>
  check("pidfd_getfd", String(fd), libc().syscall(SYS_PIDFD_GETFD, BigInt(pidfd), BigInt(fd), 0n, 0n))

/** Sends a signal to the process behind a pidfd, and to no other that got its number; ESRCH when it has ended. */
export const pidfdSendSignal = (pidfd: number, signal: number): void => {
  check(
    "pidfd_send_signal",
    String(signal),
    libc().syscall(SYS_PIDFD_SEND_SIGNAL, BigInt(pidfd), BigInt(signal), 0n, 0n)
  )
}

const PR_SET_PTRACER = 0x59616d61
const PR_SET_PTRACER_ANY = 0xffff_ffff_ffff_ffffn

/** Lets every process of this user look into this one where Yama would let none but its ancestors; without Yama nothing changes. */
export const allowInspection = (): void => void libc().prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0n, 0n, 0n)

/** Sends a signal to a process, or to a process group when `pid` is negative. */
export const kill = (pid: number, signal: number): void => {
  check("kill", `${pid}, ${signal}`, libc().kill(pid, signal))
}

/**
 * Replaces this process by another program, with every descriptor that is not close-on-exec, and does not come back: all
 * threads end, no JavaScript runs any more. Throws when the kernel refuses. Strings are borrowed until the switch.
 */
export const execve = (file: string, argv: ReadonlyArray<string>, env: ReadonlyArray<string>): never => {
  const owned: Array<Uint8Array> = []
  const text = (of: string): Pointer => {
    if (of.includes("\0")) throw new CallFailed("execve", "a string with a NUL", "EINVAL")
    const bytes = Buffer.from(`${of}\0`, "utf8")
    owned.push(bytes)
    return ptr(bytes)
  }
  const table = (of: ReadonlyArray<string>): BigUint64Array =>
    BigUint64Array.from([...of.map((each) => BigInt(text(each))), 0n])
  const [argvTable, envTable] = [table(argv), table(env)]
  check("execve", file, libc().execve(text(file), ptr(argvTable), ptr(envTable)))
  throw new CallFailed("execve", file, `no error (${owned.length} strings)`)
}

/** Sets what a signal does, and tells what it did before; NULL leaves either out. Both structures are borrowed for the call. */
export const sigaction = (signal: number, action: Pointer | null, former: Pointer | null): void => {
  check("sigaction", String(signal), libc().sigaction(signal, action, former))
}
