/* Makes a tree of files from records on stdin, below a directory that exists. Each part of a name is opened below the one
 * before it and never through a link, so that nothing lands elsewhere. A file replaces what is no directory in its place. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "files.h"
#include "tree.h"

enum { CHUNK = 65536 };

static char name[TREE_NAME_MAX + 1], target[TREE_NAME_MAX + 1];
static const char *where;
static bool owners;
/* By depth: the directory that is being filled was made here, so that its mode and times are ours to set. */
static bool made[TREE_DEPTH_MAX + 1];

static size_t depth_of(const char *path) {
  size_t depth = *path != 0;
  for (; *path; path++) depth += *path == '/';
  return depth;
}

static _Noreturn void fail(int error) {
  char buffer[2 * TREE_NAME_MAX];
  struct text path = TEXT_IN(buffer);
  text_add(&path, where);
  if (*name && where[strlen(where) - 1] != '/') text_add(&path, "/");
  text_add(&path, name);
  files_fail(NULL, text_end(&path), "", error);
}

static _Noreturn void malformed(void) { files_fail("bad_stream", where, "the stream is malformed or was cut off", 0); }

/* Opens the directory that holds the last part of a name; `last` becomes that part, the directory itself for "". */
static int parent_of(int root, const char *path, const char **last) {
  char part[TREE_PART_MAX + 1];
  int at = fcntl(root, F_DUPFD_CLOEXEC, 3);
  for (const char *slash; at >= 0 && (slash = strchr(path, '/')); path = slash + 1) {
    size_t n = (size_t)(slash - path);
    memcpy(part, path, n);
    part[n] = 0;
    int next = openat(at, part, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int error = errno;
    close(at);
    errno = error;
    at = next;
  }
  *last = *path ? path : ".";
  return at;
}

/* Removes what stands in the way of something new: anything but a directory. */
static void clear(int at, const char *last) {
  if (unlinkat(at, last, 0) < 0 && errno != ENOENT) fail(errno);
}

static void dress(int at, const char *last, const struct tree_record *r) {
  struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = r->mtime, .tv_nsec = (long)r->mtime_ns}};
  /* Owner before mode: a change of owner clears setuid. */
  if (owners && fchownat(at, last, r->uid, r->gid, AT_SYMLINK_NOFOLLOW) < 0) fail(errno);
  if (r->type != TREE_SYMLINK && fchmodat(at, last, r->mode, 0) < 0) fail(errno);
  if (utimensat(at, last, times, AT_SYMLINK_NOFOLLOW) < 0 && errno != EPERM) fail(errno);
}

static void dress_file(int fd, const struct tree_record *r) {
  struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = r->mtime, .tv_nsec = (long)r->mtime_ns}};
  if (owners && fchown(fd, r->uid, r->gid) < 0) fail(errno);
  if (fchmod(fd, r->mode) < 0) fail(errno);
  futimens(fd, times);
}

static void make_file(int at, const char *last, const struct tree_record *r) {
  static char chunk[CHUNK];
  struct new_file file;
  int error = 0;
  if (!files_new(at, &file)) fail(errno);
  for (uint64_t left = r->size; left && !error;) {
    size_t n = files_in(chunk, left < sizeof chunk ? (size_t)left : sizeof chunk);
    left -= n;
    if (n == 0) {
      files_drop(at, &file);
      malformed();
    }
    for (size_t done = 0; done < n && !error;) {
      ssize_t written = write(file.fd, chunk + done, n - done);
      if (written > 0) done += (size_t)written;
      else if (errno != EINTR) error = errno;
    }
  }
  if (error) {
    files_drop(at, &file);
    fail(error);
  }
  dress_file(file.fd, r);
  if ((error = files_place(at, &file, last))) fail(error);
}

static void make_directory(int at, const char *last) {
  struct stat st;
  bool *mine = &made[depth_of(name)];
  *mine = false;
  if (*last == '.' && !last[1]) return;
  if (mkdirat(at, last, 0700) == 0) {
    *mine = true;
    return;
  }
  if (errno != EEXIST) fail(errno);
  if (fstatat(at, last, &st, AT_SYMLINK_NOFOLLOW) < 0) fail(errno);
  if (!S_ISDIR(st.st_mode)) fail(ENOTDIR);
}

static void make_link(int root, int at, const char *last) {
  const char *first;
  int from = parent_of(root, target, &first);
  clear(at, last);
  if (from < 0 || linkat(from, first, at, last, 0) < 0) fail(errno);
  close(from);
}

static void make(int root, const struct tree_record *r) {
  const char *last;
  if (r->type == TREE_SKIPPED) return;
  int at = parent_of(root, name, &last);
  if (at < 0) fail(errno);
  switch (r->type) {
    case TREE_DIRECTORY: make_directory(at, last); break;
    case TREE_DONE:
      if (made[depth_of(name)]) dress(at, last, r);
      break;
    case TREE_LINK: make_link(root, at, last); break;
    case TREE_SYMLINK:
      clear(at, last);
      if (symlinkat(target, at, last) < 0) fail(errno);
      dress(at, last, r);
      break;
    default:
      if (!*name) malformed();
      make_file(at, last, r);
  }
  close(at);
}

void files_unpack(const char *path, bool with_owners) {
  uint8_t header[TREE_HEADER];
  struct tree_record r;
  where = path;
  owners = with_owners;
  umask(0);
  int root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (root < 0) fail(errno);
  for (;;) {
    *name = 0;
    if (files_in(header, sizeof header) != sizeof header || !tree_decode(header, &r)) malformed();
    if (files_in(name, r.name_length) != r.name_length || files_in(target, r.target_length) != r.target_length) malformed();
    name[r.name_length] = target[r.target_length] = 0;
    if (!tree_record_is_sound(&r, name, target)) malformed();
    if (r.type == TREE_END) return;
    make(root, &r);
  }
}
