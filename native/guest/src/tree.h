/* Records of a tree of files, as they travel between host and guest: headers and names. Pure, no input or output.
 *
 * A record is a header of TREE_HEADER bytes, little endian, then its name, its target, and for a file its bytes. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  TREE_HEADER = 40,
  TREE_NAME_MAX = 4096,
  TREE_PART_MAX = 255,
  TREE_DEPTH_MAX = 256,
  TREE_TARGET_MAX = 4095,
};

enum tree_type {
  TREE_FILE = 1,
  TREE_DIRECTORY = 2, /* made here; its mode and times come with TREE_DONE, after everything in it */
  TREE_SYMLINK = 3,
  TREE_LINK = 4,    /* a hard link to a file that came before */
  TREE_SKIPPED = 5, /* something that is not carried; the target says why */
  TREE_END = 6,     /* the last record */
  TREE_DONE = 7,    /* end of a directory */
};

struct tree_record {
  uint8_t type;
  uint16_t name_length, target_length, mode;
  uint32_t uid, gid, mtime_ns;
  int64_t mtime;
  uint64_t size;
};

/** Reads a header; false when it breaks the format's bounds. */
bool tree_decode(const uint8_t header[TREE_HEADER], struct tree_record *record);
void tree_encode(uint8_t header[TREE_HEADER], const struct tree_record *record);
/** True for a relative path without empty, `.` and `..` parts, within all bounds; the empty name is the tree itself. */
bool tree_name_is_safe(const char *name, size_t length);
/** True when a whole record may stand: names are safe, and there is a target exactly where one belongs. */
bool tree_record_is_sound(const struct tree_record *record, const char *name, const char *target);
