/* The process that becomes a VM, in C: reads its configuration, holds the sandbox's lock, and enters libkrun or QEMU. Does
 * what src/vm/runner/runner.ts does, which stands in for it where it could not be compiled, in a fifth of the time and without
 * 30 MiB of JavaScript engine beside the guest. Supervises nothing and logs nothing.
 *
 * Descriptors, document and report are those of src/vm/runner/protocol.ts. The lock is held before anything of the VM is
 * touched; a failure before the guest runs is one line of the report, and exit code 125. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "../common/json.h"
#include "harden.h"

enum { CONFIG_FD = 3, REPORT_FD = 4, LOCK_FD = 5, CARD_FD = 6, FAILED = 125, CONFIG_MAX = 65536, NODE_MAX = 4096 };
/* Checksums and segmentation by the host, of TCP over both IPs and of UDP, in both directions (NET_FEATURE_* of libkrun.h). */
enum { CARD_FEATURES = 0x5d83 };
enum { DISK_RAW = 0, DISK_VMDK = 2, WORD_MAX = 31, WORD_BYTES_MAX = 2048, ARGUMENT_MAX = 512, PLACES_MAX = 64 };

static char text[CONFIG_MAX + 1];
static struct json_node nodes[NODE_MAX];
static struct json doc = {text, nodes, 0, NODE_MAX};
static struct timespec began;

static const char *errno_name(int error) {
  static const struct {
    int number;
    const char *name;
  } names[] = {{EPERM, "EPERM"},   {ENOENT, "ENOENT"}, {ESRCH, "ESRCH"},     {EINTR, "EINTR"},   {EIO, "EIO"},
               {ENXIO, "ENXIO"},   {EBADF, "EBADF"},   {EAGAIN, "EAGAIN"},   {ENOMEM, "ENOMEM"}, {EACCES, "EACCES"},
               {EFAULT, "EFAULT"}, {EBUSY, "EBUSY"},   {EEXIST, "EEXIST"},   {ENODEV, "ENODEV"}, {ENOTDIR, "ENOTDIR"},
               {EISDIR, "EISDIR"}, {EINVAL, "EINVAL"}, {EMFILE, "EMFILE"},   {ENOSPC, "ENOSPC"}, {EROFS, "EROFS"},
               {ELOOP, "ELOOP"},   {ENOSYS, "ENOSYS"}, {ENOEXEC, "ENOEXEC"}, {E2BIG, "E2BIG"},   {EFBIG, "EFBIG"}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (names[i].number == error) return names[i].name;
  return strerror(error);
}

static void quoted(FILE *out, const char *of) {
  for (const unsigned char *c = (const unsigned char *)of; *c; c++) {
    if (*c == '"' || *c == '\\') fprintf(out, "\\%c", *c);
    else if (*c < 0x20) fprintf(out, "\\u%04x", *c);
    else fputc(*c, out);
  }
}

/* A supervisor that is gone is no reason to stop. */
static void report(const char *line) {
  if (write(REPORT_FD, line, strlen(line)) < 0) return;
}

static _Noreturn void fail(const char *call, const char *argument, const char *why) {
  char line[8192] = "";
  FILE *out = fmemopen(line, sizeof line - 1, "w");
  if (out) {
    fprintf(out, "{\"event\":\"error\",\"call\":\"%s\",\"argument\":\"", call);
    quoted(out, argument);
    fputs("\",\"errno\":\"", out);
    quoted(out, why);
    fputs("\"}\n", out);
    fclose(out);
    report(line);
  }
  _exit(FAILED);
}

static void check(const char *call, const char *argument, long result) {
  if (result < 0) fail(call, argument, errno_name(errno));
}

static _Noreturn void malformed(const char *field) {
  char argument[128];
  snprintf(argument, sizeof argument, "configuration field %s", field);
  fail("read", argument, "EINVAL");
}

static long member(long of, const char *key) {
  long found = json_get(&doc, of, key);
  if (found < 0) malformed(key);
  return found;
}

static const char *string(long of, const char *key) {
  const char *found = json_string(&doc, member(of, key));
  if (!found) malformed(key);
  return found;
}

static const char *path(long of, const char *key) {
  const char *found = string(of, key);
  if (*found != '/') malformed(key);
  return found;
}

static int64_t number(long of, const char *key, int64_t min, int64_t max) {
  int64_t found;
  if (!json_integer(&doc, member(of, key), min, max, &found)) malformed(key);
  return found;
}

static bool flag(long of, const char *key) {
  long found = member(of, key);
  if (!json_is(&doc, found, JSON_TRUE) && !json_is(&doc, found, JSON_FALSE)) malformed(key);
  return json_is(&doc, found, JSON_TRUE);
}

/* A NULL-terminated table of a list of strings. */
static char **strings(long of, const char *key, size_t max, size_t before) {
  long list = member(of, key);
  if (!json_is(&doc, list, JSON_ARRAY) || doc.nodes[list].count > max) malformed(key);
  char **table = calloc(before + doc.nodes[list].count + 1, sizeof *table);
  if (!table) fail("malloc", key, "ENOMEM");
  for (uint32_t i = (uint32_t)list + 1, n = 0; i < doc.nodes[list].end; i = doc.nodes[i].end, n++) {
    table[before + n] = (char *)json_string(&doc, i);
    if (!table[before + n]) malformed(key);
  }
  return table;
}

static long read_config(void) {
  size_t length = 0;
  for (;;) {
    ssize_t n = read(CONFIG_FD, text + length, sizeof text - length);
    if (n < 0 && errno == EINTR) continue;
    check("read", "configuration", n);
    length += (size_t)n;
    if (length > CONFIG_MAX) fail("read", "configuration", "EFBIG");
    if (n == 0) break;
  }
  close(CONFIG_FD);
  if (!json_parse(&doc, text, length) || !json_is(&doc, 0, JSON_OBJECT)) malformed("document");
  number(0, "version", 1, 1);
  return member(0, "start");
}

static void set_close_on_exec(int fd, bool closed) {
  int flags = fcntl(fd, F_GETFD);
  check("fcntl", "F_GETFD", flags);
  check("fcntl", "F_SETFD", fcntl(fd, F_SETFD, closed ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC));
}

static void prepare_process(void) {
  struct rlimit limit;
  /* Neither QEMU nor what libkrun might start inherits the report: its end of file tells the supervisor of the switch. */
  set_close_on_exec(REPORT_FD, true);
  if (setsid() < 0 && errno != EPERM) fail("setsid", "", errno_name(errno));
  if (flag(0, "dieWithParent")) {
    check("prctl", "PR_SET_PDEATHSIG", prctl(PR_SET_PDEATHSIG, SIGKILL));
    /* A parent that ended before the line above sends no signal any more. */
    int parent = (int)number(0, "parentPid", 0, INT32_MAX);
    char argument[32];
    snprintf(argument, sizeof argument, "parent %d", parent);
    if (getppid() != parent) fail("getppid", argument, "ESRCH");
  }
  umask(077);
  check("getrlimit", "RLIMIT_NOFILE", getrlimit(RLIMIT_NOFILE, &limit));
  limit.rlim_cur = limit.rlim_max;
  check("setrlimit", "RLIMIT_NOFILE", setrlimit(RLIMIT_NOFILE, &limit));
  /* A core dump would write the guest's memory to the host's disk. */
  limit = (struct rlimit){0, 0};
  check("setrlimit", "RLIMIT_CORE", setrlimit(RLIMIT_CORE, &limit));
}

/* The lock's descriptor stays open and inheritable: the lock lives as long as this process, under whatever program. */
static void take_lock(void) {
  char stat[1024] = "", line[64];
  unsigned long long ticks = 0;
  if (flock(LOCK_FD, LOCK_EX | LOCK_NB) < 0) {
    if (errno != EWOULDBLOCK) fail("flock", "", errno_name(errno));
    report("{\"event\":\"already_running\"}\n");
    _exit(FAILED);
  }
  set_close_on_exec(LOCK_FD, false);
  int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
  check("open", "/proc/self/stat", fd);
  check("read", "/proc/self/stat", read(fd, stat, sizeof stat - 1));
  close(fd);
  /* Field 22, counted from the third, which follows the name in parentheses. */
  char *at = strrchr(stat, ')');
  for (int field = 2; at && field < 22; field++) at = strchr(at + 1, ' ');
  if (at) ticks = strtoull(at, NULL, 10);
  const char *file = path(0, "pidPath");
  fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  check("open", file, fd);
  int length = snprintf(line, sizeof line, "%d %llu\n", getpid(), ticks);
  check("write", file, write(fd, line, (size_t)length));
  close(fd);
}

static void enter(void) {
  struct timespec now;
  char line[64];
  clock_gettime(CLOCK_MONOTONIC, &now);
  long ms = (now.tv_sec - began.tv_sec) * 1000 + (now.tv_nsec - began.tv_nsec) / 1000000;
  snprintf(line, sizeof line, "{\"event\":\"entering\",\"afterMs\":%ld}\n", ms);
  report(line);
}

static void *library(const char *file) {
  void *found = dlopen(file, RTLD_NOW | RTLD_GLOBAL);
  if (!found) fail("dlopen", file, dlerror());
  return found;
}

static void *krun;

typedef int32_t function();

static function *look_up(const char *name) {
  function *found;
  void *symbol = dlsym(krun, name);
  if (!symbol) fail(name, "", "the library lacks it");
  memcpy(&found, &symbol, sizeof found);
  return found;
}

static int32_t done(const char *name, const char *argument, int32_t result) {
  if (result < 0) fail(name, argument, errno_name(-result));
  return result;
}
#define CALL(name, argument, types, ...) done(#name, argument, ((int32_t (*) types)look_up(#name))(__VA_ARGS__))

/* They become a part of the kernel command line: another byte aborts the process, and more of them hang it. */
static void check_words(const char *program, char **words) {
  size_t bytes = 0;
  for (char **word = words; *word; word++) bytes += strlen(*word) + 1;
  if (bytes > WORD_BYTES_MAX) fail("krun_set_exec", "words are longer than 2048 bytes", "EINVAL");
  for (const char *word = program; word; word = *words++)
    for (const char *c = word; *c; c++)
      if (*c <= 0x20 || *c == '"' || *c == '\\' || *c > 0x7e) fail("krun_set_exec", "a word is not plain", "EINVAL");
}

/* libkrun opens the names that a guest's kernel sends: with shares, nothing but these is left to be opened. */
static void change_root(const char *root) {
  check("chroot", root, chroot(root));
  check("chdir", "/", chdir("/"));
}

/* What serving files to a guest takes: nothing else keeps a right. */
static const uint64_t serving = 1 << HARDEN_CHOWN | 1 << HARDEN_DAC_OVERRIDE | 1 << HARDEN_FOWNER | 1 << HARDEN_FSETID |
                                1 << HARDEN_SETGID | 1 << HARDEN_SETUID;

/* Where the machine does not allow or have one of these, the guest still has all of the VM's boundary before it: `--check` tells
 * (cli/doctor.ts). `root`: a root of its own, which an earlier program has taken the network from, too. */
static void harden(long start, const char *root, bool emulator) {
  struct harden_places places = {(const char *const *)strings(start, "reads", PLACES_MAX, 0),
                                 (const char *const *)strings(start, "writes", PLACES_MAX, 0)};
  harden_no_new_privileges();
  if (!root) {
    harden_network();
    harden_files(&places);
  } else change_root(root);
  harden_capabilities(root ? serving : 0);
  harden_calls(emulator);
  /* What changes rights may clear this. */
  if (flag(0, "dieWithParent")) check("prctl", "PR_SET_PDEATHSIG", prctl(PR_SET_PDEATHSIG, SIGKILL));
}

/* Without any network device libkrun lets the guest use the host's network (TSI). One whose other end is never read takes that
 * away; vsock ports keep working. Both ends stay open: a closed one hangs the start. */
static int idle_card(void) {
  int idle[2];
  check("socketpair", "", socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, idle));
  return idle[0];
}

static _Noreturn void enter_krun(long start) {
  static const uint8_t mac[6] = {0x02, 0x42, 0x4b, 0x00, 0x00, 0x01};
  const char *fw = path(start, "libkrunfw"), *lib = path(start, "libkrun"), *root = NULL;
  char **words = strings(start, "words", WORD_MAX, 0), *const none[] = {NULL};
  const char *console = path(start, "consolePath"), *socket_path = path(start, "socketPath"), *exec = path(start, "exec");
  char name[32];
  bool card = flag(start, "card");
  check_words(exec, words);
  library(fw);
  krun = library(lib);
  CALL(krun_set_log_level, "1", (uint32_t), 1);
  uint32_t ctx = (uint32_t)CALL(krun_create_ctx, "", (void), );
  CALL(krun_set_vm_config, "", (uint32_t, uint8_t, uint32_t), ctx, (uint8_t)number(start, "cpus", 1, 64),
       (uint32_t)number(start, "memoryMb", 64, UINT32_MAX));
  long disks = member(start, "disks");
  if (!json_is(&doc, disks, JSON_ARRAY) || doc.nodes[disks].count > 32) malformed("disks");
  int index = 0;
  for (uint32_t i = (uint32_t)disks + 1; i < doc.nodes[disks].end; i = doc.nodes[i].end, index++) {
    const char *format = string(i, "format"), *file = path(i, "path");
    if (strcmp(format, "raw") != 0 && strcmp(format, "vmdk") != 0) malformed("format");
    snprintf(name, sizeof name, "disk%d", index);
    CALL(krun_add_disk2, file, (uint32_t, const char *, const char *, uint32_t, bool), ctx, name, file,
         strcmp(format, "vmdk") == 0 ? DISK_VMDK : DISK_RAW, flag(i, "readOnly"));
  }
  long share = json_get(&doc, start, "share");
  if (share >= 0) {
    root = path(share, "root");
    CALL(krun_add_virtiofs, "/shares", (uint32_t, const char *, const char *), ctx, string(share, "tag"), "/shares");
  }
  CALL(krun_add_net_unixstream, "", (uint32_t, const char *, int, const uint8_t *, uint32_t, uint32_t), ctx, NULL,
       card ? CARD_FD : idle_card(), mac, card ? CARD_FEATURES : 0, 0);
  CALL(krun_add_vsock_port2, socket_path, (uint32_t, uint32_t, const char *, bool), ctx,
       (uint32_t)number(start, "vsockPort", 1, UINT32_MAX - 1), socket_path, false);
  CALL(krun_set_console_output, console, (uint32_t, const char *), ctx, console);
  CALL(krun_set_exec, exec, (uint32_t, const char *, char *const *, char *const *), ctx, exec, none, words);
  harden(start, root, false);
  enter();
  CALL(krun_start_enter, "", (uint32_t), ctx);
  fail("krun_start_enter", "", "no error, but came back");
}

static _Noreturn void enter_qemu(long start) {
  char *const env[] = {"PATH=/usr/bin:/bin", "LC_ALL=C", NULL};
  const char *file = path(start, "file");
  char **argv = strings(start, "arguments", ARGUMENT_MAX, 1);
  argv[0] = (char *)file;
  harden(start, NULL, true);
  enter();
  execve(file, argv, env);
  fail("execve", file, errno_name(errno));
}

/* Says as JSON what this machine allows of `harden`: null, or why not. */
static int tell_hardening(void) {
  static const char *const none[] = {NULL};
  static const char *const names[] = {"no_new_privileges", "network", "files", "capabilities", "calls"};
  const struct harden_places places = {none, none};
  int errors[5];
  errors[0] = harden_no_new_privileges();
  errors[1] = harden_network();
  errors[2] = harden_files(&places);
  errors[3] = harden_capabilities(0);
  errors[4] = harden_calls(false);
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
    printf("%s\"%s\":", i ? "," : "{", names[i]);
    if (errors[i]) printf("\"%s\"", errno_name(errors[i]));
    else fputs("null", stdout);
  }
  return puts("}") < 0 || fflush(stdout) != 0;
}

int main(int argc, char **argv) {
  clock_gettime(CLOCK_MONOTONIC, &began);
  if (argc == 2 && strcmp(argv[1], "--check") == 0) return tell_hardening();
  long start = read_config();
  const char *kind = string(start, "kind");
  if (strcmp(kind, "krun") != 0 && strcmp(kind, "qemu") != 0) malformed("start.kind");
  prepare_process();
  take_lock();
  if (strcmp(kind, "krun") == 0) enter_krun(start);
  enter_qemu(start);
}

/* Binds the launcher to symbols that glibc 2.28 has, though it is linked with a newer one: the same file runs on either. Four of them
 * have a newer version since libdl became part of libc (2.34), the entry point of crt1.o among them, so that it has its own here. */
#if defined(__x86_64__) && defined(__GLIBC__)
__asm__(".symver dlopen,dlopen@GLIBC_2.2.5\n"
        ".symver dlsym,dlsym@GLIBC_2.2.5\n"
        ".symver dlerror,dlerror@GLIBC_2.2.5\n"
        ".symver __libc_start_main,__libc_start_main@GLIBC_2.2.5\n");
/* System V ABI, 3.4.1: argc is on the stack, argv above it, rdx has what to call at exit. No constructors: both of their arguments are 0. */
__asm__(".text\n"
        ".globl _start\n"
        ".type _start, @function\n"
        "_start:\n"
        "  xor %ebp, %ebp\n"
        "  mov %rdx, %r9\n"
        "  pop %rsi\n"
        "  mov %rsp, %rdx\n"
        "  and $-16, %rsp\n"
        "  push %rax\n"
        "  push %rsp\n"
        "  xor %r8d, %r8d\n"
        "  xor %ecx, %ecx\n"
        "  lea main(%rip), %rdi\n"
        "  call *__libc_start_main@GOTPCREL(%rip)\n"
        "  hlt\n");
#endif
