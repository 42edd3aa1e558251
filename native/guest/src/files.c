/* Reads, writes, lists, looks at, makes and removes files, in a child of the agent's, as the user that was asked for: a file
 * system that hangs stops nobody else, and the kernel checks the rights. Trees are in pack.c and unpack.c. */
#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exec.h"

enum { CHUNK = 65536, DEPTH_MAX = 2048, LIST_MAX = 50000 };

static const char *const operations[] = {"get", "put", "list", "stat", "remove", "mkdir", "pack", "unpack"};

bool files_op(const struct json *doc, int64_t id, uint32_t generation) {
  int64_t number, slot = 0;
  const char *what = json_string(doc, json_get(doc, 0, "do")), *path = json_string(doc, json_get(doc, 0, "path"));
  json_integer(doc, json_get(doc, 0, "slot"), 1, SLOT_MAX - 1, &slot);
  bool known = false;
  for (size_t i = 0; what && i < sizeof operations / sizeof *operations; i++) known |= strcmp(what, operations[i]) == 0;
  if (!known || !path || *path != '/' || strlen(path) >= PATH_MAX ||
      !json_integer(doc, json_get(doc, 0, "exec"), 0, UINT32_MAX, &number) ||
      (agent.channel == CHANNEL_VIRTIO && slot == 0))
    return false;
  exec_request(doc, EXEC_FILE, (uint32_t)number, (int)slot, id, generation);
  return true;
}

static const char *word_of(int code) {
  switch (code) {
    case ENOENT: return "not_found";
    case EEXIST: return "exists";
    case ENOTEMPTY: return "not_empty";
    case ENOTDIR: return "not_directory";
    case EISDIR: return "is_directory";
    case EACCES:
    case EPERM: return "permission";
    case EROFS: return "read_only";
    case ENOSPC:
    case EDQUOT: return "no_space";
    case ELOOP: return "loop";
    default: return "failed";
  }
}

static void write_all(int fd, const void *bytes, size_t n) {
  for (size_t at = 0; at < n;) {
    ssize_t done = write(fd, (const char *)bytes + at, n - at);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0 && fd == STDOUT_FILENO) _exit(1); /* nobody reads */
    if (done < 0) return;
    at += (size_t)done;
  }
}

_Noreturn void files_fail(const char *error, const char *what, const char *detail, int code) {
  char buffer[3 * PATH_MAX];
  struct text json = TEXT_IN(buffer);
  text_add(&json, "{\"error\":");
  text_quoted(&json, error ? error : word_of(code));
  text_add(&json, ",\"path\":");
  text_quoted(&json, what);
  text_add(&json, ",\"message\":");
  text_quoted(&json, *detail ? detail : strerror(code));
  text_add(&json, "}");
  if (!json.overflow) write_all(STDERR_FILENO, json.at, json.length);
  _exit(1);
}

void files_out(const void *bytes, size_t n) { write_all(STDOUT_FILENO, bytes, n); }

size_t files_in(void *bytes, size_t n) {
  size_t got = 0;
  while (got < n) {
    ssize_t done = read(STDIN_FILENO, (char *)bytes + got, n - got);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) break;
    got += (size_t)done;
  }
  return got;
}

static void get(const char *path) {
  static char chunk[CHUNK];
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0 || fstat(fd, &st) < 0) files_fail(NULL, path, "", errno);
  if (S_ISDIR(st.st_mode)) files_fail(NULL, path, "", EISDIR);
  if (!S_ISREG(st.st_mode)) files_fail("special", path, "it is a device, pipe or socket", 0);
  for (;;) {
    ssize_t n = read(fd, chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) files_fail(NULL, path, "", errno);
    if (n == 0) return;
    files_out(chunk, (size_t)n);
  }
}

static void temporary_name(struct new_file *file) {
  struct text name = TEXT_IN(file->name);
  text_add(&name, ".bunker-");
  text_int(&name, getpid());
  text_add(&name, "-");
  text_int(&name, now_us());
  text_end(&name);
}

/* Without a name where the file system can do that: then nothing is left of a file whose writer was killed. */
bool files_new(int at, struct new_file *file) {
  *file->name = 0;
  file->fd = openat(at, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
  if (file->fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return file->fd >= 0;
  temporary_name(file);
  file->fd = openat(at, file->name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0600);
  return file->fd >= 0;
}

void files_drop(int at, struct new_file *file) {
  close(file->fd);
  if (*file->name) unlinkat(at, file->name, 0);
}

static bool give_name(int at, int fd, const char *name) {
  char buffer[40];
  struct text link = TEXT_IN(buffer);
  text_add(&link, "/proc/self/fd/");
  text_int(&link, fd);
  return linkat(AT_FDCWD, text_end(&link), at, name, AT_SYMLINK_FOLLOW) == 0;
}

int files_place(int at, struct new_file *file, const char *name) {
  int error = 0;
  if (!*file->name) {
    if (give_name(at, file->fd, name)) return close(file->fd) < 0 ? errno : 0;
    temporary_name(file);
    if (errno != EEXIST || !give_name(at, file->fd, file->name)) {
      error = errno;
      *file->name = 0;
    }
  }
  if (!error && renameat(at, file->name, at, name) < 0) error = errno;
  if (error) files_drop(at, file);
  else if (close(file->fd) < 0) error = errno;
  return error;
}

/* The file that is written: the target of a link, not the link. */
static int place_of(const char *path, struct stat *old, bool *replaces, const char **last) {
  static char resolved[PATH_MAX];
  if (!realpath(path, resolved)) strcpy(resolved, path);
  *replaces = stat(resolved, old) == 0;
  if (*replaces && S_ISDIR(old->st_mode)) files_fail(NULL, path, "", EISDIR);
  if (*replaces && !S_ISREG(old->st_mode)) files_fail("special", path, "it is a device, pipe or socket", 0);
  char *slash = strrchr(resolved, '/');
  if (!slash[1]) files_fail(NULL, path, "", EISDIR);
  *last = slash + 1;
  *slash = 0;
  const char *directory = *resolved ? resolved : "/";
  int at = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (at < 0) files_fail(NULL, directory, "", errno);
  return at;
}

/* Others see the old file or the whole new one. */
static void put(const char *path, int64_t mode) {
  static char chunk[CHUNK];
  struct stat old;
  struct new_file file;
  const char *last;
  bool replaces;
  int at = place_of(path, &old, &replaces, &last), error = 0;
  if (!files_new(at, &file)) files_fail(NULL, path, "", errno);
  for (size_t n; !error && (n = files_in(chunk, sizeof chunk)) > 0;)
    for (size_t done = 0; !error && done < n;) {
      ssize_t written = write(file.fd, chunk + done, n - done);
      if (written >= 0) done += (size_t)written;
      else if (errno != EINTR) error = errno;
    }
  /* Who may not give a file away keeps it. */
  if (!error && replaces && fchown(file.fd, old.st_uid, old.st_gid) < 0 && errno != EPERM) error = errno;
  if (!error && fchmod(file.fd, mode >= 0 ? (mode_t)mode : replaces ? old.st_mode & 07777 : 0644) < 0) error = errno;
  if (error) files_drop(at, &file);
  else error = files_place(at, &file, last);
  if (error) files_fail(NULL, path, "", error);
}

static const char *type_of(mode_t mode) {
  if (S_ISREG(mode)) return "file";
  if (S_ISDIR(mode)) return "directory";
  if (S_ISLNK(mode)) return "symlink";
  if (S_ISCHR(mode)) return "char";
  if (S_ISBLK(mode)) return "block";
  if (S_ISFIFO(mode)) return "fifo";
  return "socket";
}

static void field(struct text *json, const char *name, int64_t value) {
  text_add(json, name);
  text_int(json, value);
}

/* One line of JSON; `at` and `name` say where a link's target is read. */
static void describe(int at, const char *name, const char *shown, const struct stat *st) {
  char buffer[8 * PATH_MAX], target[PATH_MAX];
  struct text json = TEXT_IN(buffer);
  text_add(&json, "{\"name\":");
  text_quoted(&json, shown);
  text_add(&json, ",\"type\":");
  text_quoted(&json, type_of(st->st_mode));
  field(&json, ",\"size\":", st->st_size);
  field(&json, ",\"mode\":", st->st_mode & 07777);
  field(&json, ",\"uid\":", st->st_uid);
  field(&json, ",\"gid\":", st->st_gid);
  field(&json, ",\"mtime_ms\":", (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000);
  ssize_t n = S_ISLNK(st->st_mode) ? readlinkat(at, name, target, sizeof target - 1) : -1;
  if (n >= 0) {
    target[n] = 0;
    text_add(&json, ",\"target\":");
    text_quoted(&json, target);
  }
  text_add(&json, "}\n");
  if (!json.overflow) files_out(json.at, json.length);
}

static void list(const char *path) {
  DIR *directory = opendir(path);
  if (!directory) files_fail(NULL, path, "", errno);
  struct stat st;
  int count = 0;
  for (struct dirent *entry; (entry = readdir(directory));) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (fstatat(dirfd(directory), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0) continue;
    if (++count > LIST_MAX) files_fail("limit", path, "it has more than 50,000 entries", 0);
    describe(dirfd(directory), entry->d_name, entry->d_name, &st);
  }
}

static void look(const char *path, bool follow) {
  struct stat st;
  if (fstatat(AT_FDCWD, path, &st, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0) files_fail(NULL, path, "", errno);
  const char *slash = strrchr(path, '/');
  describe(AT_FDCWD, path, slash[1] ? slash + 1 : path, &st);
}

/* False with errno. Enters no link: each directory is opened below its parent, and only when it is one. */
static bool remove_below(int at, const char *name, int depth) {
  if (unlinkat(at, name, 0) == 0) return true;
  if (errno != EISDIR && errno != EPERM) return false;
  if (unlinkat(at, name, AT_REMOVEDIR) == 0) return true;
  if (errno != ENOTEMPTY && errno != EEXIST) return false;
  if (depth > DEPTH_MAX) return errno = ELOOP, false;
  int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  DIR *directory = fd < 0 ? NULL : fdopendir(fd);
  if (!directory) return false;
  bool whole = true;
  for (struct dirent *entry; whole && (errno = 0, entry = readdir(directory));) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    whole = remove_below(fd, entry->d_name, depth + 1) || errno == ENOENT;
  }
  int error = errno;
  closedir(directory);
  errno = error;
  return whole && unlinkat(at, name, AT_REMOVEDIR) == 0;
}

static void remove_path(const char *path, bool recursive) {
  static char resolved[PATH_MAX];
  struct stat st;
  if (lstat(path, &st) < 0) files_fail(NULL, path, "", errno);
  if (realpath(path, resolved) && !resolved[1]) files_fail("failed", path, "the root stays", 0);
  if (recursive ? !remove_below(AT_FDCWD, path, 0) : unlinkat(AT_FDCWD, path, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) < 0)
    files_fail(NULL, path, "", errno);
}

static void make(const char *path, int64_t mode, bool parents) {
  char at[PATH_MAX];
  struct stat st;
  strcpy(at, path);
  for (char *slash = at; parents && (slash = strchr(slash + 1, '/'));) {
    *slash = 0;
    if (mkdir(at, 0755) < 0 && errno != EEXIST) files_fail(NULL, at, "", errno);
    *slash = '/';
  }
  if (mkdir(path, 0755) < 0) {
    int error = errno;
    if (parents && error == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return;
    files_fail(NULL, path, "", error);
  }
  if (mode >= 0 && chmod(path, (mode_t)mode) < 0) files_fail(NULL, path, "", errno);
}

_Noreturn void files_run(const struct json *doc) {
  const char *what = json_string(doc, json_get(doc, 0, "do")), *path = json_string(doc, json_get(doc, 0, "path"));
  int64_t mode = -1;
  bool recursive = json_is(doc, json_get(doc, 0, "recursive"), JSON_TRUE);
  bool follow = json_is(doc, json_get(doc, 0, "follow"), JSON_TRUE);
  json_integer(doc, json_get(doc, 0, "mode"), 0, 07777, &mode);
  if (strcmp(what, "get") == 0) get(path);
  else if (strcmp(what, "put") == 0) put(path, mode);
  else if (strcmp(what, "list") == 0) list(path);
  else if (strcmp(what, "stat") == 0) look(path, follow);
  else if (strcmp(what, "remove") == 0) remove_path(path, recursive);
  else if (strcmp(what, "mkdir") == 0) make(path, mode, recursive);
  else if (strcmp(what, "pack") == 0) files_pack(path, follow);
  else files_unpack(path, json_is(doc, json_get(doc, 0, "owners"), JSON_TRUE));
  _exit(0);
}
