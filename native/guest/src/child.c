/* Turns a forked copy of the agent into the process that was asked for, and reports what stops it. Never returns. */
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "files.h"
#include "limits.h"
#include "users.h"

enum { REPORT_FD = 3, FILE_MAX = 4 << 20, NOFILE_SOFT = 65536, NOFILE_HARD = 1048576 };

static _Noreturn void refuse(const char *error, const char *what, const char *detail) {
  struct spawn_report why = {0};
  struct text code = TEXT_IN(why.error), message = TEXT_IN(why.message);
  text_add(&code, error);
  text_add(&message, what);
  text_add(&message, *detail ? ": " : "");
  text_add(&message, detail);
  text_end(&code);
  text_end(&message);
  while (write(REPORT_FD, &why, sizeof why) < 0 && errno == EINTR) continue;
  _exit(127);
}

/* Text of a regular file in the guest's root, "" when there is none. */
static char *file_text(const char *path) {
  static char nothing[1];
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return nothing;
  char *text = NULL;
  size_t length = 0;
  if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= FILE_MAX) text = malloc((size_t)st.st_size + 1);
  for (ssize_t n = 1; text && n > 0 && length < (size_t)st.st_size; length += (size_t)(n > 0 ? n : 0))
    n = read(fd, text + length, (size_t)st.st_size - length);
  close(fd);
  if (!text) return nothing;
  text[length] = 0;
  return text;
}

static void reset_signals(void) {
  sigset_t none;
  for (int s = 1; s <= 64; s++) signal(s, SIG_DFL);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

static void take_stdio(struct plan *plan) {
  setsid();
  if (plan->terminal) {
    ioctl(plan->stdio[0], TIOCSCTTY, 0);
    plan->stdio[1] = plan->stdio[2] = plan->stdio[0];
  }
  /* The agent's own 0 to 2 are always open, so none of these is below 3. */
  for (int i = 0; i < 3; i++) dup2(plan->stdio[i], i);
  if (plan->report != REPORT_FD) dup3(plan->report, REPORT_FD, O_CLOEXEC);
  /* Everything of ours is close-on-exec; this is for what is not ours. */
  syscall(SYS_close_range, REPORT_FD + 1, ~0u, 0);
}

static void set_limits(void) {
  struct rlimit files;
  /* A host gives what it gives; in a VM these numbers are always allowed. */
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    struct rlimit wanted = {NOFILE_SOFT, NOFILE_HARD};
    if (agent.native || setrlimit(RLIMIT_NOFILE, &wanted) < 0) {
      files.rlim_cur = files.rlim_max < NOFILE_SOFT ? files.rlim_max : NOFILE_SOFT;
      setrlimit(RLIMIT_NOFILE, &files);
    }
  }
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd >= 0) {
    if (write(fd, "0", 1) < 0) errno = 0;
    close(fd);
  }
  umask(022);
}

static void become(const struct plan *plan, struct identity *who) {
  const char *user = plan->user ? plan->user : "";
  if (!user_resolve(file_text("/etc/passwd"), file_text("/etc/group"), user, who)) refuse("bad_user", user, "");
  if (plan->terminal) {
    /* Group 5 is tty by the habit of every distribution; devpts is mounted with it. */
    if (fchown(0, who->uid, (gid_t)-1) < 0) errno = 0;
    fchmod(0, 0620);
  }
  bool same = agent.native && who->uid == getuid() && who->uid != 0;
  if (same) return;
  if (setgroups((size_t)who->group_count, who->groups) < 0 || setgid(who->gid) < 0 || setuid(who->uid) < 0)
    refuse("bad_user", user, strerror(errno));
}

static const char *env_get(char **env, const char *name) {
  size_t n = strlen(name);
  for (; *env; env++)
    if (strncmp(*env, name, n) == 0 && (*env)[n] == '=') return *env + n + 1;
  return NULL;
}

static void env_default(char **env, const char *name, const char *value) {
  size_t n = strlen(name) + strlen(value) + 2;
  char *entry;
  if (env_get(env, name) || !(entry = malloc(n))) return;
  struct text at = {entry, 0, n, false};
  text_add(&at, name);
  text_add(&at, "=");
  text_add(&at, value);
  text_end(&at);
  while (*env) env++;
  *env = entry;
}

static _Noreturn void refuse_command(const char *name, const char *path, int error) {
  if (error == ENOENT || error == ENOTDIR) {
    /* The file is there: what is missing is the interpreter in its first line or its ELF header. */
    if (access(path, F_OK) == 0) refuse("not_found", name, "its interpreter is missing");
    refuse("not_found", name, "");
  }
  if (error == EACCES || error == ENOEXEC || error == EISDIR || error == EPERM || error == ELIBBAD || error == ETXTBSY)
    refuse("not_executable", name, strerror(error));
  refuse("failed", name, strerror(error));
}

/* What execvp does, but telling "there is none" from "there is one that can not run". */
static _Noreturn void run(struct plan *plan) {
  const char *name = plan->argv[0], *path = env_get(plan->env, "PATH");
  if (strchr(name, '/')) {
    execve(name, plan->argv, plan->env);
    refuse_command(name, name, errno);
  }
  char file[4096];
  int error = ENOENT;
  for (const char *dir = path; dir;) {
    size_t n = strcspn(dir, ":");
    struct text at = TEXT_IN(file);
    text_bytes(&at, dir, n);
    text_add(&at, n ? "/" : "");
    text_add(&at, name);
    text_end(&at);
    dir = dir[n] ? dir + n + 1 : NULL;
    if (at.overflow) continue;
    execve(file, plan->argv, plan->env);
    if (errno == ENOENT && access(file, F_OK) == 0) refuse_command(name, file, ENOENT);
    if (errno == EACCES) error = EACCES;
    else if (errno != ENOENT && errno != ENOTDIR) refuse_command(name, file, errno);
  }
  refuse_command(name, "", error);
}

/* What fails here fails again at chdir. */
static void make_directories(const char *path) {
  char at[PATH_MAX];
  if (strlen(path) >= sizeof at) return;
  strcpy(at, path);
  for (char *slash = at; (slash = strchr(slash + 1, '/'));) {
    *slash = 0;
    if (mkdir(at, 0755) < 0 && errno != EEXIST) return;
    *slash = '/';
  }
  mkdir(at, 0755);
}

_Noreturn void child_run(struct plan *plan) {
  struct identity who;
  reset_signals();
  take_stdio(plan);
  set_limits();
  const char *limit = limits_set(plan->spec, json_get(plan->spec, 0, "rlimits"));
  if (limit) refuse("failed", "rlimit", limit);
  /* As root first: an image's working directory may be closed to its user, who still starts in it. */
  const char *cwd = plan->cwd && *plan->cwd ? plan->cwd : "/";
  bool inside = chdir(cwd) == 0;
  if (!inside && plan->make_cwd && errno == ENOENT) {
    make_directories(cwd);
    inside = chdir(cwd) == 0;
  }
  become(plan, &who);
  if (plan->files) {
    close(REPORT_FD);
    files_run(plan->spec);
  }
  env_default(plan->env, "PATH", DEFAULT_PATH);
  env_default(plan->env, "HOME", who.home);
  if (plan->terminal) env_default(plan->env, "TERM", "xterm");
  if (!inside && chdir(cwd) < 0) refuse("bad_cwd", cwd, strerror(errno));
  run(plan);
}
