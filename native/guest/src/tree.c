/* Encodes and decodes headers of tree records, and judges names. Hostile bytes on either side: every bound is checked here. */
#include "tree.h"

#include <string.h>

enum { NANOS = 1000000000 };

static uint64_t get(const uint8_t *b, int n) {
  uint64_t value = 0;
  for (int i = 0; i < n; i++) value |= (uint64_t)b[i] << (8 * i);
  return value;
}

static void put(uint8_t *b, uint64_t value, int n) {
  for (int i = 0; i < n; i++) b[i] = (uint8_t)(value >> (8 * i));
}

bool tree_decode(const uint8_t h[TREE_HEADER], struct tree_record *r) {
  if (memcmp(h, "BKT1", 4) != 0 || h[4] < TREE_FILE || h[4] > TREE_DONE || h[5] != 0) return false;
  *r = (struct tree_record){
      .type = h[4],
      .name_length = (uint16_t)get(h + 6, 2),
      .target_length = (uint16_t)get(h + 8, 2),
      .mode = (uint16_t)get(h + 10, 2),
      .uid = (uint32_t)get(h + 12, 4),
      .gid = (uint32_t)get(h + 16, 4),
      .mtime_ns = (uint32_t)get(h + 20, 4),
      .mtime = (int64_t)get(h + 24, 8),
      .size = get(h + 32, 8),
  };
  return r->name_length <= TREE_NAME_MAX && r->target_length <= TREE_NAME_MAX && r->mode <= 07777 && r->mtime_ns < NANOS &&
         r->size <= INT64_MAX && (r->type == TREE_FILE || r->size == 0);
}

void tree_encode(uint8_t h[TREE_HEADER], const struct tree_record *r) {
  memcpy(h, "BKT1", 4);
  h[4] = r->type;
  h[5] = 0;
  put(h + 6, r->name_length, 2);
  put(h + 8, r->target_length, 2);
  put(h + 10, r->mode, 2);
  put(h + 12, r->uid, 4);
  put(h + 16, r->gid, 4);
  put(h + 20, r->mtime_ns, 4);
  put(h + 24, (uint64_t)r->mtime, 8);
  put(h + 32, r->size, 8);
}

bool tree_name_is_safe(const char *name, size_t length) {
  if (length > TREE_NAME_MAX || memchr(name, 0, length)) return false;
  int depth = 0;
  for (size_t at = 0, part; length && at <= length; at += part + 1) {
    const char *slash = memchr(name + at, '/', length - at);
    part = slash ? (size_t)(slash - name) - at : length - at;
    if (part == 0 || part > TREE_PART_MAX || ++depth > TREE_DEPTH_MAX) return false;
    if (name[at] == '.' && (part == 1 || (part == 2 && name[at + 1] == '.'))) return false;
  }
  return true;
}

bool tree_record_is_sound(const struct tree_record *r, const char *name, const char *target) {
  if (!tree_name_is_safe(name, r->name_length)) return false;
  switch (r->type) {
    case TREE_SYMLINK:
      return r->target_length > 0 && r->target_length <= TREE_TARGET_MAX && !memchr(target, 0, r->target_length);
    case TREE_LINK: return r->name_length > 0 && r->target_length > 0 && tree_name_is_safe(target, r->target_length);
    case TREE_SKIPPED: return true;
    case TREE_END: return r->name_length == 0 && r->target_length == 0;
    default: return r->target_length == 0;
  }
}
