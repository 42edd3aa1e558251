/* Reads what the kernel counts: uptime, memory, processor time, load. What can not be read is left out. */
#include "stats.h"

#include <fcntl.h>
#include <string.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

static const char *read_file(const char *path, char *buffer, size_t room) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  ssize_t n = fd < 0 ? 0 : read(fd, buffer, room - 1);
  if (fd >= 0) close(fd);
  buffer[n > 0 ? n : 0] = 0;
  return buffer;
}

static const char *number_at(const char *at, int64_t *value) {
  while (*at && (*at < '0' || *at > '9')) at++;
  for (*value = 0; *at >= '0' && *at <= '9'; at++) *value = *value * 10 + (*at - '0');
  return at;
}

static void field(struct text *t, const char *name, int64_t value) {
  text_add(t, ",\"");
  text_add(t, name);
  text_add(t, "\":");
  text_int(t, value);
}

static void memory(struct text *t, const char *info, const char *key, const char *name) {
  int64_t kib;
  const char *line = strstr(info, key);
  if (!line) return;
  number_at(line, &kib);
  field(t, name, kib * 1024);
}

void stats_write(struct text *t) {
  char buffer[2048];
  struct timespec up;
  clock_gettime(CLOCK_BOOTTIME, &up);
  text_add(t, "\"uptime_ms\":");
  text_int(t, (int64_t)up.tv_sec * 1000 + up.tv_nsec / 1000000);
  const char *at = read_file("/proc/meminfo", buffer, sizeof buffer);
  memory(t, at, "MemTotal:", "memory_total");
  memory(t, at, "MemAvailable:", "memory_available");
  static const char *const times[] = {"cpu_user", "cpu_nice", "cpu_system", "cpu_idle",
                                      "cpu_iowait", "cpu_irq", "cpu_softirq", "cpu_steal"};
  at = read_file("/proc/stat", buffer, sizeof buffer);
  for (size_t i = 0; strncmp(buffer, "cpu ", 4) == 0 && i < sizeof times / sizeof *times; i++) {
    int64_t ticks;
    at = number_at(at, &ticks);
    field(t, times[i], ticks);
  }
  struct statfs root;
  if (statfs("/", &root) == 0) {
    field(t, "disk_total", (int64_t)root.f_blocks * root.f_bsize);
    field(t, "disk_free", (int64_t)root.f_bfree * root.f_bsize);
  }
  field(t, "ticks_per_second", sysconf(_SC_CLK_TCK));
  at = read_file("/proc/loadavg", buffer, sizeof buffer);
  char *end = strchr(buffer, ' ');
  if (!end || end - buffer > 12) return;
  *end = 0;
  text_add(t, ",\"load\":");
  text_add(t, at);
}
