/* Prepares what a VM's process sees of the host's directories, then becomes that process: a private mount namespace, a bind
 * of every shared path with its flags, and, when asked, virtiofsd beside it. Reads no file and keeps no process behind.
 *
 * usage: stage DIRECTORY [--serve VIRTIOFSD SOCKET] [--jail] (--keep ro|rw PATH)...
 *              (--share ro|rw DEV INO PATH [--hide PLACE]...)... -- PROGRAM [ARG...]
 *
 * DIRECTORY becomes a read-only tmpfs, in this namespace only, with the shares as shares/0, shares/1, ... The flags are the kernel's: no
 * device, no set-user-id, and read-only where asked, on everything mounted below, too. A PATH must be free of links and
 * still be the file that DEV and INO name. --hide puts an empty directory over PLACE, a path below the share before it.
 * --keep shows a file or directory of ours at the same path below DIRECTORY, and --jail the descriptors of this process as
 * /proc/self/fd, so that the program can make DIRECTORY its root: whoever serves files to a hostile kernel should.
 * Failures are one line of JSON on descriptor 4, and exit code 125. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

/* Of linux/mount.h, linux/openat2.h and linux/capability.h, which musl does not have and glibc's headers quarrel with. */
struct attributes {
  uint64_t set, clear, propagation, user_namespace;
};
struct how {
  uint64_t flags, mode, resolve;
};
enum { ATTR_RDONLY = 1, ATTR_NOSUID = 2, ATTR_NODEV = 4, TREE_CLONE = 1, TREE_RECURSIVE = 0x8000, EMPTY_PATH = 0x1000 };
enum { MOVE_FROM_EMPTY_PATH = 4, NO_SYMLINKS = 4 };
enum { CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER = 3, CAP_FSETID, CAP_SETGID = 6, CAP_SETUID, CAP_SYS_CHROOT = 18 };
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

enum { REPORT_FD = 4, FAILED = 125, SERVER_FD = 3 };

static void quoted(FILE *out, const char *text) {
  for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
    if (*c == '"' || *c == '\\') fprintf(out, "\\%c", *c);
    else if (*c < 0x20) fprintf(out, "\\u%04x", *c);
    else fputc(*c, out);
  }
}

static _Noreturn void fail(const char *call, const char *argument, const char *why) {
  FILE *out = fdopen(REPORT_FD, "w");
  if (out) {
    fprintf(out, "{\"event\":\"error\",\"call\":\"%s\",\"argument\":\"", call);
    quoted(out, argument);
    fputs("\",\"errno\":\"", out);
    quoted(out, why);
    fputs("\"}\n", out);
    fflush(out);
  }
  _exit(FAILED);
}

static _Noreturn void fail_errno(const char *call, const char *argument) { fail(call, argument, strerror(errno)); }

static void write_text(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, text, strlen(text)) < 0) fail_errno("unshare", path);
  close(fd);
}

/* As root a mount namespace is enough; anybody else gets one of their own with a user namespace, where the owner of this
 * process is root and nobody else is anybody. */
static void enter_namespace(void) {
  char map[64];
  uid_t uid = geteuid();
  gid_t gid = getegid();
  if (unshare(CLONE_NEWNS) < 0) {
    if (errno != EPERM) fail_errno("unshare", "mount namespace");
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) fail_errno("unshare", "user and mount namespace");
    write_text("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "0 %u 1", uid);
    write_text("/proc/self/uid_map", map);
    snprintf(map, sizeof map, "0 %u 1", gid);
    write_text("/proc/self/gid_map", map);
  }
  /* Nothing here speaks to a network. Where that is not allowed, it stays as it was. */
  if (unshare(CLONE_NEWNET) < 0) errno = 0;
  /* What the host unmounts goes here, too; nothing of ours is seen there. */
  if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0) fail_errno("mount", "/");
}

static void set_flags(int tree, bool recursive, uint64_t flags, const char *path) {
  struct attributes attr = {.set = flags, .propagation = MS_PRIVATE};
  long done = syscall(SYS_mount_setattr, tree, "", EMPTY_PATH | (recursive ? TREE_RECURSIVE : 0), &attr, sizeof attr);
  if (done < 0 && errno == ENOSYS) fail("mount_setattr", path, "the kernel lacks this call; Linux 5.12 has it");
  if (done < 0) fail_errno("mount_setattr", path);
}

/* PLACE below a share is an empty directory. */
static void hide(int stage, int number, const char *path) {
  char place[4200], fd_path[40];
  struct how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = NO_SYMLINKS};
  if (number < 0 || !*path || *path == '/') fail("mount", path, "no place below a share");
  if (snprintf(place, sizeof place, "shares/%d/%s", number, path) >= (int)sizeof place) fail("mount", path, "too long");
  int fd = (int)syscall(SYS_openat2, stage, place, &how, sizeof how);
  if (fd < 0 && errno == ENOENT) return;
  if (fd < 0) fail_errno("openat2", path);
  snprintf(fd_path, sizeof fd_path, "/proc/self/fd/%d", fd);
  if (mount("tmpfs", fd_path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0,size=4k") < 0)
    fail_errno("mount", path);
  close(fd);
}

static void share(int stage, int number, char **word) {
  const char *path = word[3];
  struct stat found;
  char name[24];
  int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &found) < 0) fail_errno("open", path);
  if (found.st_dev != strtoull(word[1], NULL, 10) || found.st_ino != strtoull(word[2], NULL, 10))
    fail("open", path, "it was replaced while the sandbox started");
  if (!S_ISDIR(found.st_mode) && !S_ISREG(found.st_mode)) fail("open", path, "it is neither a directory nor a file");
  int tree = (int)syscall(SYS_open_tree, fd, "", EMPTY_PATH | TREE_CLONE | TREE_RECURSIVE | O_CLOEXEC);
  if (tree < 0) fail_errno("open_tree", path);
  set_flags(tree, true, ATTR_NOSUID | ATTR_NODEV | (strcmp(word[0], "ro") == 0 ? ATTR_RDONLY : 0), path);
  snprintf(name, sizeof name, "shares/%d", number);
  int made = S_ISDIR(found.st_mode) ? mkdirat(stage, name, 0755) : openat(stage, name, O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (made < 0) fail_errno("mkdir", name);
  if (!S_ISDIR(found.st_mode)) close(made);
  if (syscall(SYS_move_mount, tree, "", stage, name, MOVE_FROM_EMPTY_PATH) < 0) fail_errno("move_mount", path);
  close(tree);
  close(fd);
}

/* The same path below the new root, with everything above it. */
static void keep(int stage, const char *mode, const char *path) {
  char place[4200];
  struct stat found;
  size_t length = strlen(path);
  if (*path != '/' || length >= sizeof place) fail("keep", path, "no absolute path");
  int fd = open(path, O_PATH | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &found) < 0) fail_errno("keep", path);
  int tree = (int)syscall(SYS_open_tree, fd, "", EMPTY_PATH | TREE_CLONE | TREE_RECURSIVE | O_CLOEXEC);
  if (tree < 0) fail_errno("open_tree", path);
  /* Devices are kept by name only. */
  uint64_t flags = ATTR_NOSUID | (S_ISCHR(found.st_mode) ? 0 : ATTR_NODEV) | (strcmp(mode, "ro") == 0 ? ATTR_RDONLY : 0);
  set_flags(tree, true, flags, path);
  for (size_t i = 1; i <= length; i++) {
    if (path[i] != '/' && path[i]) continue;
    memcpy(place, path + 1, i - 1);
    place[i - 1] = 0;
    if (path[i] || S_ISDIR(found.st_mode)) {
      if (mkdirat(stage, place, 0755) < 0 && errno != EEXIST) fail_errno("keep", path);
    } else {
      int made = openat(stage, place, O_CREAT | O_CLOEXEC, 0644);
      if (made < 0) fail_errno("keep", path);
      close(made);
    }
  }
  if (syscall(SYS_move_mount, tree, "", stage, place, MOVE_FROM_EMPTY_PATH) < 0) fail_errno("move_mount", path);
  close(tree);
  close(fd);
}

/* Lives no longer than this process, whatever program that is by then. */
static void serve(const char *program, const char *path, const char *directory) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  char source[4200];
  pid_t parent = getpid();
  if (strlen(path) >= sizeof address.sun_path) fail("bind", path, "too long");
  strcpy(address.sun_path, path);
  unlink(path);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 1) < 0)
    fail_errno("bind", path);
  snprintf(source, sizeof source, "source=%s/shares", directory);
  pid_t child = fork();
  if (child < 0) fail_errno("fork", program);
  if (child == 0) {
    char *const env[] = {"PATH=/usr/bin:/bin", NULL};
    char *const argv[] = {(char *)program, "-f", "--fd=3", "-o", source, "-o", "cache=auto,announce_submounts",
                          "-o", "log_level=err", "-o", "modcaps=-mknod", "-o", "sandbox=namespace", NULL};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || dup2(listener, SERVER_FD) < 0) _exit(FAILED);
    syscall(SYS_close_range, SERVER_FD + 1, ~0u, 0);
    execve(program, argv, env);
    perror(program);
    _exit(FAILED);
  }
  close(listener);
}

/* What serving files to a guest takes, and no more: above all no device nodes and no reach around file permissions by handle. */
static void drop_rights(bool jail) {
  const int kept[] = {CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID,
                      CAP_SETGID, CAP_SETUID,       jail ? CAP_SYS_CHROOT : CAP_CHOWN};
  for (int cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++) {
    bool keep = false;
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) keep |= kept[i] == cap;
    if (!keep && prctl(PR_CAPBSET_READ, cap) == 1 && prctl(PR_CAPBSET_DROP, cap) < 0) fail_errno("prctl", "rights");
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) fail_errno("prctl", "rights");
}

int main(int argc, char **argv) {
  const char *directory = argv[1], *server = NULL, *socket_path = NULL;
  int number = 0, i = 2;
  bool jail = false;
  if (argc < 4) fail("stage", "", "arguments are missing");
  enter_namespace();
  if (mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,size=1m") < 0)
    fail_errno("mount", directory);
  int stage = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (stage < 0) fail_errno("open", directory);
  umask(022);
  if (mkdirat(stage, "shares", 0755) < 0) fail_errno("mkdir", "shares");
  for (; i < argc && strcmp(argv[i], "--") != 0; i++) {
    if (strcmp(argv[i], "--hide") == 0 && i + 1 < argc) hide(stage, number - 1, argv[++i]);
    else if (strcmp(argv[i], "--serve") == 0 && i + 2 < argc) server = argv[i + 1], socket_path = argv[i + 2], i += 2;
    else if (strcmp(argv[i], "--share") == 0 && i + 4 < argc) share(stage, number++, &argv[i + 1]), i += 4;
    else if (strcmp(argv[i], "--keep") == 0 && i + 2 < argc) keep(stage, argv[i + 1], argv[i + 2]), i += 2;
    else if (strcmp(argv[i], "--jail") == 0) jail = true;
    else fail("stage", argv[i], "unknown word");
  }
  if (i + 1 >= argc) fail("stage", "", "no program");
  if (jail) keep(stage, "ro", "/proc/self/fd");
  set_flags(stage, false, ATTR_RDONLY, directory);
  close(stage);
  if (server) serve(server, socket_path, directory);
  drop_rights(jail);
  execv(argv[i + 1], &argv[i + 1]);
  fail_errno("execve", argv[i + 1]);
}
