/* See harden.h. Calls the kernel directly: of what is used here, not every C library's headers know all. */
#define _GNU_SOURCE
#include "harden.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int harden_no_new_privileges(void) { return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? errno : 0; }

static int write_text(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC), error = 0;
  if (fd < 0 || write(fd, text, strlen(text)) < 0) error = errno;
  if (fd >= 0) close(fd);
  return error;
}

/* An empty network namespace: no interface is up in it. Without the right to make one, in a user namespace where this user is
 * the only one. Sockets that have a path in the file system are reached as before. */
int harden_network(void) {
  char map[64];
  unsigned uid = geteuid(), gid = getegid();
  int error;
  if (unshare(CLONE_NEWNET) == 0) return 0;
  if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0) return errno;
  error = write_text("/proc/self/setgroups", "deny");
  snprintf(map, sizeof map, "%u %u 1", uid, uid);
  if (!error) error = write_text("/proc/self/uid_map", map);
  snprintf(map, sizeof map, "%u %u 1", gid, gid);
  return error ? error : write_text("/proc/self/gid_map", map);
}

/* Of linux/landlock.h. */
enum { CREATE_RULESET = 444, ADD_RULE, RESTRICT_SELF };
enum { PATH_BENEATH = 1, GET_VERSION = 1 };
enum {
  FS_EXECUTE = 1 << 0,
  FS_WRITE_FILE = 1 << 1,
  FS_READ_FILE = 1 << 2,
  FS_READ_DIR = 1 << 3,
  FS_ALL_1 = (1 << 13) - 1, /* what the first version knows */
  FS_REFER = 1 << 13,
  FS_TRUNCATE = 1 << 14,
};
enum { NET_ALL = 3, SCOPE_ALL = 3 };
struct ruleset {
  uint64_t files, network, scoped;
};
struct beneath {
  uint64_t allowed;
  int32_t parent;
} __attribute__((packed));

static int allow(int rules, const char *path, uint64_t access) {
  int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC), error = 0;
  if (fd < 0 && errno == ENOTDIR) {
    /* Rights over a directory's entries mean nothing for a file, and are refused. */
    access &= FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE;
    fd = open(path, O_PATH | O_CLOEXEC);
  }
  if (fd < 0) return 0;
  struct beneath rule = {access, fd};
  if (syscall(ADD_RULE, rules, PATH_BENEATH, &rule, 0) < 0) error = errno;
  close(fd);
  return error;
}

/* What programs and libraries need of the system, and nothing of its users. */
static const char *const system_places[] = {"/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/opt", "/nix/store",
                                            "/gnu/store", "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/alternatives",
                                            "/etc/localtime", "/proc", "/sys", "/dev/null", "/dev/zero", "/dev/random",
                                            "/dev/urandom", NULL};
static const char *const device_places[] = {"/dev/kvm", "/dev/null", "/dev/shm", NULL};

int harden_files(const struct harden_places *places) {
  long version = syscall(CREATE_RULESET, NULL, 0, GET_VERSION);
  if (version < 0) return errno;
  uint64_t all = FS_ALL_1 | (version >= 2 ? FS_REFER : 0) | (version >= 3 ? FS_TRUNCATE : 0);
  struct ruleset what = {all, version >= 4 ? NET_ALL : 0, version >= 6 ? SCOPE_ALL : 0};
  size_t size = version >= 6 ? sizeof what : version >= 4 ? offsetof(struct ruleset, scoped) : offsetof(struct ruleset, network);
  int rules = (int)syscall(CREATE_RULESET, &what, size, 0), error = 0;
  if (rules < 0) return errno;
  uint64_t reading = FS_EXECUTE | FS_READ_FILE | FS_READ_DIR;
  const struct {
    const char *const *list;
    uint64_t access;
  } groups[] = {{system_places, reading},
                {places->readable, reading},
                {device_places, all & ~(uint64_t)FS_EXECUTE},
                {places->writable, all & ~(uint64_t)FS_EXECUTE}};
  for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
    for (const char *const *path = groups[i].list; *path && !error; path++) error = allow(rules, *path, groups[i].access);
  if (!error && syscall(RESTRICT_SELF, rules, 0) < 0) error = errno;
  close(rules);
  return error;
}

int harden_capabilities(uint64_t kept) {
  struct {
    uint32_t version;
    int pid;
  } header = {0x20080522, 0};
  uint32_t sets[6]; /* effective, permitted, inheritable, of the first 32 and of the others */
  /* A program that is started later gets none back; who has no right to say so starts with none. */
  for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
    if (cap > 63 || !(kept >> cap & 1)) prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  if (syscall(SYS_capget, &header, sets) < 0) return errno;
  for (int i = 0; i < 6; i++) sets[i] &= i % 3 == 2 ? 0 : (uint32_t)(kept >> (i < 3 ? 0 : 32));
  return syscall(SYS_capset, &header, sets) < 0 ? errno : 0;
}

#if defined(__x86_64__)
enum { ARCHITECTURE = AUDIT_ARCH_X86_64 };
#elif defined(__aarch64__)
enum { ARCHITECTURE = AUDIT_ARCH_AARCH64 };
#else
enum { ARCHITECTURE = 0 };
#endif

/* What neither libkrun nor QEMU ever calls once it is started. */
static const int refused[] = {
    SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kexec_load, SYS_bpf, SYS_perf_event_open, SYS_mount, SYS_umount2,
    SYS_pivot_root, SYS_setns, SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_keyctl, SYS_add_key, SYS_request_key,
    SYS_userfaultfd, SYS_open_by_handle_at, SYS_reboot, SYS_swapon, SYS_swapoff, SYS_settimeofday, SYS_clock_settime, SYS_acct,
    SYS_sethostname, SYS_setdomainname, SYS_quotactl, SYS_personality, SYS_fanotify_init, SYS_syslog,
    SYS_vhangup,
#ifdef SYS_open_tree
    SYS_open_tree, SYS_move_mount, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick,
#endif
#ifdef SYS_mount_setattr
    SYS_mount_setattr,
#endif
#ifdef SYS_pidfd_getfd
    SYS_pidfd_getfd,
#endif
};
/* What libkrun does not call either; QEMU's own filter speaks for itself. */
static const int refused_to_krun[] = {SYS_execve, SYS_execveat};

static struct sock_filter program[160];
static size_t length;

static void add(uint16_t code, uint32_t k, uint8_t yes, uint8_t no) { program[length++] = (struct sock_filter){code, yes, no, k}; }
static void load(size_t offset) { add(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0); }
static void refuse(int error) { add(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error, 0, 0); }
static void refuse_call(int number) {
  add(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 1);
  refuse(EPERM);
}

enum { NUMBER = offsetof(struct seccomp_data, nr), FIRST = offsetof(struct seccomp_data, args[0]) };
enum { NEW_NAMESPACES = 0x7e020080 }; /* CLONE_NEW*, of linux/sched.h */

/* Refuses a call unless its first argument has none of some bits. Both architectures are little-endian. */
static void refuse_bits(int number, uint32_t bits) {
  add(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 4);
  load(FIRST);
  add(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1);
  refuse(EPERM);
  load(NUMBER);
}

int harden_calls(bool emulator) {
  if (ARCHITECTURE == 0) return ENOSYS;
  length = 0;
  load(offsetof(struct seccomp_data, arch));
  add(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
  add(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS, 0, 0);
  load(NUMBER);
#ifdef __x86_64__
  /* The numbers of x32, by which all could be called again. */
  add(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1);
  refuse(ENOSYS);
#endif
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) refuse_call(refused[i]);
  for (size_t i = 0; !emulator && i < sizeof refused_to_krun / sizeof *refused_to_krun; i++) refuse_call(refused_to_krun[i]);
  refuse_bits(SYS_unshare, NEW_NAMESPACES);
  refuse_bits(SYS_clone, NEW_NAMESPACES & ~0x80u); /* its low byte is a signal */
#ifdef SYS_clone3
  /* Its flags are in memory: the C library goes on with clone. */
  add(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1);
  refuse(ENOSYS);
#endif
  /* Sockets of this machine only. */
  add(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 3);
  load(FIRST);
  add(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 1, 0);
  refuse(EPERM);
  add(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
  struct sock_fprog whole = {(unsigned short)length, program};
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &whole) != 0 ? errno : 0;
}
