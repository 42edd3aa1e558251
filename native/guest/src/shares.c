/* Mounts the boot request's list: shares of the host, each a name below one virtiofs, and tmpfs. Trusts the host's order. */
#include "shares.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

#define STORE "/mnt/shares"
#define TAG "bunker"

/* The virtiofs lies below the old root: after the switch only this descriptor leads to it. */
static int store = -1;

static bool any_share(const struct json *doc, long mounts) {
  for (uint32_t i = (uint32_t)mounts + 1; i < doc->nodes[mounts].end; i = doc->nodes[i].end)
    if (json_get(doc, i, "share") >= 0) return true;
  return false;
}

bool shares_open(const struct json *doc, long mounts, struct text *why) {
  if (!json_is(doc, mounts, JSON_ARRAY) || !any_share(doc, mounts)) return true;
  if (mkdir(STORE, 0700) < 0) return text_failed(why, "mkdir", STORE);
  if (mount(TAG, STORE, "virtiofs", MS_NOSUID | MS_NODEV | MS_NOATIME, NULL) < 0)
    return text_failed(why, "mount", "the host's shares");
  store = open(STORE, O_PATH | O_DIRECTORY | O_CLOEXEC);
  return store >= 0 || text_failed(why, "open", STORE);
}

/* The directories above the last name, and the place itself: a directory, or an empty file to mount a file on. */
static bool make_place(const char *target, bool file, struct text *why) {
  char path[PATH_MAX];
  struct stat there;
  if (strlen(target) >= sizeof path) return errno = ENAMETOOLONG, text_failed(why, "mount", target);
  for (size_t i = 1; target[i - 1]; i++) {
    if (target[i] != '/' && target[i]) continue;
    if (target[i - 1] == '/') continue;
    memcpy(path, target, i);
    path[i] = 0;
    if (stat(path, &there) == 0) continue;
    bool last = !target[i] || !target[i + strspn(target + i, "/")];
    if (last && file) {
      int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
      if (fd < 0) return text_failed(why, "create", path);
      close(fd);
    } else if (mkdir(path, 0755) < 0) {
      return text_failed(why, "create", path);
    }
  }
  if (stat(target, &there) < 0) return text_failed(why, "mount", target);
  if (S_ISDIR(there.st_mode) == file)
    return errno = file ? EISDIR : ENOTDIR, text_failed(why, "mount", target);
  return true;
}

static bool mount_share(const char *name, const char *target, bool read_only, struct text *why) {
  char buffer[64];
  struct text from = TEXT_IN(buffer);
  struct stat there;
  text_add(&from, "/proc/self/fd/");
  text_int(&from, store);
  text_add(&from, "/");
  text_add(&from, name);
  const char *source = text_end(&from);
  if (stat(source, &there) < 0) return text_failed(why, "find the share for", target);
  if (!make_place(target, !S_ISDIR(there.st_mode), why)) return false;
  if (mount(source, target, NULL, MS_BIND, NULL) < 0) return text_failed(why, "mount", target);
  /* The host's own flag is the one that counts; this one gives its name to the error. */
  unsigned long flags = MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | MS_NOATIME | (read_only ? MS_RDONLY : 0);
  if (mount(NULL, target, NULL, flags, NULL) < 0) return text_failed(why, "mount", target);
  return true;
}

static bool mount_tmpfs(int64_t size_mb, const char *target, struct text *why) {
  char buffer[64];
  struct text options = TEXT_IN(buffer);
  text_add(&options, "mode=1777");
  if (size_mb > 0) {
    text_add(&options, ",size=");
    text_int(&options, size_mb);
    text_add(&options, "m");
  }
  if (!make_place(target, false, why)) return false;
  if (mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, text_end(&options)) < 0) return text_failed(why, "mount", target);
  return true;
}

static bool plain_name(const char *name) {
  size_t digits = strspn(name, "0123456789");
  return digits > 0 && digits < 8 && !name[digits];
}

bool shares_mount(const struct json *doc, long mounts, struct text *why) {
  if (!json_is(doc, mounts, JSON_ARRAY)) return true;
  for (uint32_t i = (uint32_t)mounts + 1; i < doc->nodes[mounts].end; i = doc->nodes[i].end) {
    const char *target = json_string(doc, json_get(doc, i, "target"));
    const char *share = json_string(doc, json_get(doc, i, "share"));
    int64_t size_mb = 0;
    json_integer(doc, json_get(doc, i, "size_mb"), 1, INT32_MAX, &size_mb);
    if (!target || *target != '/' || (share && !plain_name(share)))
      return text_add(why, "a mount of the boot request is wrong"), false;
    if (share ? !mount_share(share, target, json_is(doc, json_get(doc, i, "read_only"), JSON_TRUE), why)
              : !mount_tmpfs(size_mb, target, why))
      return false;
  }
  if (store >= 0) close(store);
  store = -1;
  return true;
}
