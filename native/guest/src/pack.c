/* Says a tree of files as records on stdout: each directory before what is in it, a file with several names once. Follows no
 * link below its start; what is neither file, directory nor link is named and left out. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files.h"
#include "tree.h"

enum { CHUNK = 65536, LINKS_MAX = 65536, OUT_ROOM = 32768 };

/* Files with more than one name that were said. What is beyond LINKS_MAX becomes a file of its own. */
static struct link {
  dev_t device;
  ino_t inode;
  char *name;
} *links;
static size_t link_count, link_room;

static char out[OUT_ROOM];
static size_t out_length;
static char name[TREE_NAME_MAX + 1];
static size_t name_length;

static void flush(void) {
  files_out(out, out_length);
  out_length = 0;
}

static void say(const void *bytes, size_t n) {
  if (n > sizeof out - out_length) flush();
  if (n > sizeof out) return files_out(bytes, n);
  memcpy(out + out_length, bytes, n);
  out_length += n;
}

static void record(uint8_t type, const struct stat *st, const char *target, uint64_t size) {
  uint8_t header[TREE_HEADER];
  struct tree_record r = {.type = type, .name_length = (uint16_t)name_length, .target_length = (uint16_t)strlen(target), .size = size};
  if (st) {
    r.mode = st->st_mode & 07777;
    r.uid = st->st_uid;
    r.gid = st->st_gid;
    r.mtime = st->st_mtim.tv_sec;
    r.mtime_ns = (uint32_t)st->st_mtim.tv_nsec;
  }
  tree_encode(header, &r);
  say(header, sizeof header);
  say(name, name_length);
  say(target, r.target_length);
}

static void skip(const char *why) { record(TREE_SKIPPED, NULL, why, 0); }

/* The name under which this file was said before, NULL for a new one, which is remembered. */
static const char *said_before(const struct stat *st) {
  for (size_t i = 0; i < link_count; i++)
    if (links[i].inode == st->st_ino && links[i].device == st->st_dev) return links[i].name;
  if (link_count == link_room && link_room < LINKS_MAX) {
    size_t room = link_room ? link_room * 2 : 64;
    struct link *more = realloc(links, room * sizeof *links);
    if (more) links = more, link_room = room;
  }
  char *copy = link_count < link_room ? strdup(name) : NULL;
  if (copy) links[link_count++] = (struct link){st->st_dev, st->st_ino, copy};
  return NULL;
}

/* Exactly as many bytes as were announced: a file that shrinks is filled up, one that grows is cut. */
static void contents(int fd, uint64_t size) {
  static char chunk[CHUNK];
  bool whole = true;
  flush();
  for (uint64_t left = size; left;) {
    size_t n = left < sizeof chunk ? (size_t)left : sizeof chunk;
    ssize_t got = whole ? read(fd, chunk, n) : 0;
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      whole = false;
      memset(chunk, 0, n);
      got = (ssize_t)n;
    }
    files_out(chunk, (size_t)got);
    left -= (uint64_t)got;
  }
  if (!whole) skip("it changed while it was read");
}

static void file(int at, const char *own, struct stat *st) {
  const char *first = st->st_nlink > 1 ? said_before(st) : NULL;
  if (first) return record(TREE_LINK, st, first, 0);
  int fd = openat(at, own, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return skip(strerror(errno));
  if (fstat(fd, st) < 0 || !S_ISREG(st->st_mode)) {
    skip("it changed while it was read");
  } else {
    record(TREE_FILE, st, "", (uint64_t)st->st_size);
    contents(fd, (uint64_t)st->st_size);
  }
  close(fd);
}

static void symlink_(int at, const char *own, const struct stat *st) {
  char target[TREE_TARGET_MAX + 1];
  ssize_t n = readlinkat(at, own, target, sizeof target);
  if (n <= 0 || n > TREE_TARGET_MAX) return skip(n < 0 ? strerror(errno) : "its target is too long");
  target[n] = 0;
  record(TREE_SYMLINK, st, target, 0);
}

static void walk(int at, const char *own, bool follow, int depth);

static void directory(int at, const char *own, const struct stat *st, bool follow, int depth) {
  if (depth >= TREE_DEPTH_MAX) return skip("it is too deep");
  int fd = openat(at, own, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW));
  DIR *entries = fd < 0 ? NULL : fdopendir(fd);
  if (!entries) return skip(strerror(errno));
  record(TREE_DIRECTORY, st, "", 0);
  size_t length = name_length;
  for (struct dirent *entry; (entry = readdir(entries));) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    size_t n = strlen(entry->d_name);
    if (length + n + 1 > TREE_NAME_MAX) {
      skip("a name in it is too long");
      continue;
    }
    if (length) name[name_length++] = '/';
    memcpy(name + name_length, entry->d_name, n + 1);
    name_length += n;
    walk(fd, entry->d_name, false, depth + 1);
    name_length = length;
    name[length] = 0;
  }
  closedir(entries);
  record(TREE_DONE, st, "", 0);
}

static void walk(int at, const char *own, bool follow, int depth) {
  struct stat st;
  if (fstatat(at, own, &st, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0) return skip(strerror(errno));
  if (S_ISDIR(st.st_mode)) return directory(at, own, &st, follow, depth);
  if (S_ISREG(st.st_mode)) return file(at, own, &st);
  if (S_ISLNK(st.st_mode)) return symlink_(at, own, &st);
  skip("it is a device, pipe or socket");
}

void files_pack(const char *path, bool follow) {
  static char resolved[4096];
  struct stat st;
  if (follow && realpath(path, resolved)) path = resolved;
  if (lstat(path, &st) < 0) files_fail(NULL, path, "", errno);
  walk(AT_FDCWD, path, false, 0);
  record(TREE_END, NULL, "", 0);
  flush();
}
