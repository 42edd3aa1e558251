/* Finds and kills what a process left behind in its session. Processes that made a session of their own are not ours. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exec.h"

/* Fourth number after the name in /proc/<pid>/stat; the name may hold anything, so it is looked for from the end. */
static long session_of(int proc, const char *pid) {
  char path[32], stat[512];
  struct text at = TEXT_IN(path);
  text_add(&at, pid);
  text_add(&at, "/stat");
  int fd = openat(proc, text_end(&at), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t n = read(fd, stat, sizeof stat - 1);
  close(fd);
  if (n <= 0) return -1;
  stat[n] = 0;
  char *field = strrchr(stat, ')');
  for (int i = 0; field && i < 4; i++) {
    field = strchr(field + 1, ' ');
  }
  return field ? strtol(field, NULL, 10) : -1;
}

void session_kill(pid_t leader) {
  kill(-leader, SIGKILL);
  DIR *proc = opendir("/proc");
  if (!proc) return;
  for (struct dirent *entry; (entry = readdir(proc));) {
    char *end;
    long pid = strtol(entry->d_name, &end, 10);
    if (*end || pid <= 1 || session_of(dirfd(proc), entry->d_name) != leader) continue;
    kill((pid_t)pid, SIGKILL);
  }
  closedir(proc);
}
