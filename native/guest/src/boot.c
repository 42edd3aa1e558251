/* Answers the boot request: clock, names, mounts. Runs its steps in order and says which one failed. */
#include "boot.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "card.h"
#include "control.h"
#include "mounts.h"
#include "power.h"
#include "shares.h"

bool boot_set_clock(const char *unix_ns) {
  int64_t ns = 0;
  if (!unix_ns || !*unix_ns) return false;
  for (; *unix_ns; unix_ns++) {
    if (*unix_ns < '0' || *unix_ns > '9' || __builtin_mul_overflow(ns, 10, &ns) ||
        __builtin_add_overflow(ns, *unix_ns - '0', &ns))
      return false;
  }
  struct timespec t = {ns / 1000000000, ns % 1000000000};
  if (!agent.native && clock_settime(CLOCK_REALTIME, &t) < 0) agent_log_errno("clock", "", errno);
  return true;
}

static void loopback_up(void) {
  struct ifreq request = {.ifr_name = "lo"};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  if (ioctl(fd, SIOCGIFFLAGS, &request) == 0) {
    request.ifr_flags |= IFF_UP | IFF_RUNNING;
    if (ioctl(fd, SIOCSIFFLAGS, &request) < 0) agent_log_errno("loopback", "", errno);
  }
  close(fd);
}

static void write_file(const char *path, const char *text, bool create) {
  int flags = O_WRONLY | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT | O_EXCL : 0);
  /* The image's own may be a link to anywhere. */
  if (create) unlink(path);
  int fd = open(path, flags, 0644);
  size_t length = strlen(text);
  if (fd < 0 || write(fd, text, length) != (ssize_t)length) agent_log_errno("can not write", path, errno);
  if (fd >= 0) close(fd);
}

static void write_names(const struct json *doc, const char *hostname) {
  char buffer[256];
  struct text line = TEXT_IN(buffer);
  const char *hosts = json_string(doc, json_get(doc, 0, "hosts"));
  const char *resolv = json_string(doc, json_get(doc, 0, "resolv"));
  mkdir("/etc", 0755);
  if (hostname) {
    text_add(&line, hostname);
    text_add(&line, "\n");
    write_file("/etc/hostname", text_end(&line), true);
  }
  if (hosts) write_file("/etc/hosts", hosts, true);
  if (resolv) card_resolver(resolv);
}

/* Unprivileged users may bind low ports and ping, as in every container. */
static void set_sysctls(void) {
  write_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0", false);
  write_file("/proc/sys/net/ipv4/ping_group_range", "0 2147483647", false);
}

static bool run(const struct json *doc, struct text *why) {
  long root = json_get(doc, 0, "root"), upper = json_get(doc, 0, "upper"), mounts = json_get(doc, 0, "mounts");
  const char *hostname = json_string(doc, json_get(doc, 0, "hostname"));
  const char *clock = json_string(doc, json_get(doc, 0, "unix_ns"));
  const char *kind = json_string(doc, json_get(doc, upper, "kind"));
  struct mount_plan plan = {
      .root_device = json_string(doc, json_get(doc, root, "device")),
      .root_type = json_string(doc, json_get(doc, root, "type")),
      .upper_device = json_string(doc, json_get(doc, upper, "device")),
  };
  bool persistent = kind && strcmp(kind, "ext4") == 0;
  if (!plan.root_device || !plan.root_type || !kind || (!persistent && strcmp(kind, "tmpfs") != 0) ||
      (persistent && !plan.upper_device) || (clock && !boot_set_clock(clock)) ||
      (hostname && strlen(hostname) > 64)) {
    text_add(why, "a field of the boot request is missing or wrong");
    return false;
  }
  if (!persistent) plan.upper_device = NULL;
  if (hostname && sethostname(hostname, strlen(hostname)) < 0) agent_log_errno("hostname", hostname, errno);
  loopback_up();
  if (!mounts_stage(why) || !shares_open(doc, mounts, why) || !mounts_switch_root(&plan, why)) return false;
  /* Before the shares: a mount over /etc is not written to. */
  write_names(doc, hostname);
  if (!card_up(doc, json_get(doc, 0, "net"), why) || !shares_mount(doc, mounts, why)) return false;
  set_sysctls();
  return true;
}

/* Absent or wrong: no limit. */
static int64_t limit_of(const struct json *doc, const char *name) {
  int64_t ms = 0;
  return json_integer(doc, json_get(doc, json_get(doc, 0, "limits"), name), 1, INT64_MAX / 2, &ms) ? ms : 0;
}

void boot_request(const struct json *doc, int64_t request, uint32_t generation) {
  char buffer[400];
  struct text why = TEXT_IN(buffer);
  int64_t started = now_us();
  bool already = agent.booted;
  if (!already && !agent.native && !run(doc, &why)) {
    agent_log("boot failed", text_end(&why));
    return control_reply_error(request, generation, "failed", text_end(&why));
  }
  if (!already) power_limit(limit_of(doc, "max_ms"), limit_of(doc, "idle_ms"));
  agent.booted = true;
  text_add(&why, "\"phases\":{\"mount_us\":");
  text_int(&why, already ? 0 : now_us() - started);
  text_add(&why, already ? "},\"already\":true" : "}");
  control_reply_ok(request, generation, &why);
}

void boot_early(void) { mounts_early(); }

void boot_unmount(void) { mounts_read_only(); }
