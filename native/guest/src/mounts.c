/* Mounts the init disk's kernel file systems, then the sandbox's root, and moves into it. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "agent.h"

#define LOWER "/mnt/lower"
#define STORE "/mnt/upper"
#define ROOT "/mnt/root"

/* Current directory for later: the upper's file system can not be reached by a path after the switch. */
static int upper_fd = -1;

struct kernel_mount {
  const char *type, *at, *options;
  unsigned long flags;
};

static void mount_all(const struct kernel_mount *list, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const struct kernel_mount *m = &list[i];
    if (mkdir(m->at, 0755) < 0 && errno != EEXIST) agent_log_errno("mkdir", m->at, errno);
    if (mount(m->type, m->at, m->type, m->flags, m->options) < 0 && errno != EBUSY)
      agent_log_errno("mount", m->at, errno);
  }
}

void mounts_early(void) {
  static const struct kernel_mount early[] = {
      {"devtmpfs", "/dev", "mode=755", MS_NOSUID | MS_NOEXEC},
      {"proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
      {"sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
  };
  /* The init disk has these directories and is read-only: mkdir says EEXIST. */
  mount_all(early, sizeof early / sizeof *early);
}

static bool wait_for(const char *device, struct text *why) {
  int64_t until = now_ms() + DEVICE_WAIT_MS;
  while (access(device, F_OK) < 0) {
    if (now_ms() >= until) return text_failed(why, "disk", device);
    usleep(2000);
  }
  return true;
}

static bool mount_lower(const struct mount_plan *plan, struct text *why) {
  if (!wait_for(plan->root_device, why)) return false;
  if (mount(plan->root_device, LOWER, plan->root_type, MS_RDONLY | MS_NOATIME, NULL) < 0)
    return text_failed(why, "mount the image", plan->root_device);
  return true;
}

/* linux/fs.h and ext4's own header, which no libc has. */
#define DEVICE_BYTES _IOR(0x12, 114, size_t)
#define EXT4_GROW _IOW('f', 16, uint64_t)

/* A disk that the host has made larger: the file system takes it all, by itself and while it is mounted. */
static void grow_upper(const char *device) {
  struct statvfs now;
  uint64_t bytes = 0, blocks;
  int disk = open(device, O_RDONLY | O_CLOEXEC), root = open(STORE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (disk >= 0 && root >= 0 && ioctl(disk, DEVICE_BYTES, &bytes) == 0 && fstatvfs(root, &now) == 0) {
    blocks = bytes / now.f_bsize;
    /* EBUSY and the like: it is as large as before. The same size is no work. */
    if (ioctl(root, EXT4_GROW, &blocks) < 0) agent_log_errno("can not grow", device, errno);
  }
  if (disk >= 0) close(disk);
  if (root >= 0) close(root);
}

static bool mount_upper(const struct mount_plan *plan, struct text *why) {
  if (!plan->upper_device) {
    if (mount("tmpfs", STORE, "tmpfs", MS_NOATIME, "mode=755") < 0) return text_failed(why, "mount", "a tmpfs upper");
  } else {
    if (!wait_for(plan->upper_device, why)) return false;
    if (mount(plan->upper_device, STORE, "ext4", MS_NOATIME, NULL) < 0)
      return text_failed(why, "mount the upper", plan->upper_device);
    grow_upper(plan->upper_device);
  }
  if ((mkdir(STORE "/upper", 0755) < 0 && errno != EEXIST) || (mkdir(STORE "/work", 0755) < 0 && errno != EEXIST))
    return text_failed(why, "prepare", "the upper");
  upper_fd = open(STORE, O_PATH | O_DIRECTORY | O_CLOEXEC);
  return true;
}

static bool mount_overlay(struct text *why) {
#define DIRECTORIES "lowerdir=" LOWER ",upperdir=" STORE "/upper,workdir=" STORE "/work"
  /* With redirect_dir a directory of the image can be renamed; without it rename answers EXDEV. */
  if (mount("overlay", ROOT, "overlay", MS_NOATIME, DIRECTORIES ",redirect_dir=on") == 0) return true;
  if (mount("overlay", ROOT, "overlay", MS_NOATIME, DIRECTORIES) == 0) return true;
  return text_failed(why, "mount", "the overlay");
}

static bool move(const char *from, const char *to, struct text *why) {
  if (mkdir(to, 0755) < 0 && errno != EEXIST) return text_failed(why, "mkdir", to);
  if (mount(from, to, NULL, MS_MOVE, NULL) < 0) return text_failed(why, "move", to);
  return true;
}

static void mount_rest(void) {
  static const struct kernel_mount rest[] = {
      {"devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666", MS_NOSUID | MS_NOEXEC},
      {"tmpfs", "/dev/shm", "mode=1777", MS_NOSUID | MS_NODEV},
      {"tmpfs", "/run", "mode=755", MS_NOSUID | MS_NODEV},
      {"cgroup2", "/sys/fs/cgroup", "nsdelegate", MS_NOSUID | MS_NODEV | MS_NOEXEC},
  };
  static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
                                         {"/proc/self/fd/0", "/dev/stdin"},
                                         {"/proc/self/fd/1", "/dev/stdout"},
                                         {"/proc/self/fd/2", "/dev/stderr"}};
  mount_all(rest, sizeof rest / sizeof *rest);
  for (size_t i = 0; i < sizeof links / sizeof *links; i++)
    if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST) agent_log_errno("link", links[i][1], errno);
}

bool mounts_stage(struct text *why) {
  if (mount("tmpfs", "/mnt", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755") < 0) return text_failed(why, "mount", "/mnt");
  return true;
}

bool mounts_switch_root(const struct mount_plan *plan, struct text *why) {
  mkdir(LOWER, 0755);
  mkdir(STORE, 0755);
  mkdir(ROOT, 0755);
  if (!mount_lower(plan, why) || !mount_upper(plan, why) || !mount_overlay(why)) return false;
  if (!move("/dev", ROOT "/dev", why) || !move("/proc", ROOT "/proc", why) || !move("/sys", ROOT "/sys", why))
    return false;
  if (chdir(ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
    return text_failed(why, "switch to", ROOT);
  mount_rest();
  return true;
}

static void read_only(const char *what) {
  /* Writers that were just killed may hold files a moment longer. */
  for (int i = 0; i < 50; i++) {
    if (mount(NULL, ".", NULL, MS_REMOUNT | MS_RDONLY, NULL) == 0) return;
    if (errno != EBUSY) break;
    usleep(10000);
  }
  agent_log_errno("can not make read-only", what, errno);
}

void mounts_read_only(void) {
  sync();
  if (upper_fd < 0) return;
  if (chdir("/") == 0) read_only("root");
  if (fchdir(upper_fd) == 0) read_only("upper");
}
