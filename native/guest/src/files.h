/* File operations, which run in a child of the agent's: what they say goes to its stdout, why they fail to its stderr. */
#pragma once
#include <stdbool.h>
#include <sys/stat.h>

#include "json.h"
#include "text.h"

/** Takes a file request; false when a field of it is missing or wrong. */
bool files_op(const struct json *doc, int64_t id, uint32_t generation);
/** Child side: does what the request asks for, and ends. */
_Noreturn void files_run(const struct json *doc);

/* Shared by its parts, all in the child. */

/** Says what failed as JSON on stderr and ends with 1. `error` is a word of the protocol or NULL for that of errno. */
_Noreturn void files_fail(const char *error, const char *what, const char *detail, int code);
/** Writes all of it to stdout, or ends. */
void files_out(const void *bytes, size_t n);
/** Reads up to `n` bytes of stdin, fewer only at its end. */
size_t files_in(void *bytes, size_t n);
/** A file that has no name yet, or one of its own. */
struct new_file {
  int fd;
  char name[40]; /* "" while it has none */
};
/** Opens a new file in the directory `at`; false with errno. It goes with files_place or files_drop. */
bool files_new(int at, struct new_file *file);
/** Gives it its name, in place of any file there, at once; 0 or an errno, and then it is gone. */
int files_place(int at, struct new_file *file, const char *name);
void files_drop(int at, struct new_file *file);
void files_pack(const char *path, bool follow);
void files_unpack(const char *path, bool owners);
