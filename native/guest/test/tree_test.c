/* Tests of tree records: round trips, every bound at both sides of it, names that lead elsewhere. */
#include "../src/tree.h"

#include <stdlib.h>

#include "check.h"
#include "tests.h"

static const struct tree_record file = {
    .type = TREE_FILE, .name_length = 4096, .target_length = 7, .mode = 07777, .uid = 1u << 31, .gid = 5,
    .mtime_ns = 999999999, .mtime = -5, .size = 1ull << 40};

static void carries_every_field(void) {
  uint8_t header[TREE_HEADER];
  struct tree_record found;
  tree_encode(header, &file);
  CHECK(tree_decode(header, &found));
  CHECK(found.type == file.type && found.name_length == 4096 && found.target_length == 7 && found.mode == 07777);
  CHECK(found.uid == file.uid && found.gid == 5 && found.mtime == -5 && found.mtime_ns == 999999999);
  CHECK(found.size == file.size);
}

static void refuses_what_is_out_of_bounds(void) {
  static const struct {
    int at;
    uint8_t value;
  } wrong[] = {{0, 'X'}, {3, '2'}, {4, 0}, {4, 8}, {5, 1}, {7, 0x11}, {9, 0x11}, {11, 0x10}, {23, 0xff}, {39, 0x80}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    uint8_t header[TREE_HEADER];
    struct tree_record found;
    tree_encode(header, &file);
    header[wrong[i].at] = wrong[i].value;
    CHECK(!tree_decode(header, &found));
  }
  uint8_t header[TREE_HEADER];
  struct tree_record directory = file, found;
  directory.type = TREE_DIRECTORY;
  tree_encode(header, &directory);
  CHECK(!tree_decode(header, &found)); /* only files have bytes */
}

static bool safe(const char *name) {
  /* Exactly as large as the name: a sanitizer sees one byte read too far. */
  size_t n = strlen(name);
  char *copy = malloc(n ? n : 1);
  memcpy(copy, name, n);
  bool is = tree_name_is_safe(copy, n);
  free(copy);
  return is;
}

static void judges_names(void) {
  static const char *const good[] = {"", "a", "a/b", "...", "a/..b", ".a", "a.", "\xff\xfe", "a\nb"};
  static const char *const bad[] = {"/", "/a", "a/", "a//b", ".", "..", "./a", "a/.", "../a", "a/../b", "a/.."};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) CHECK(safe(good[i]));
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CHECK(!safe(bad[i]));
  CHECK(!tree_name_is_safe("a\0b", 3));
  char part[TREE_PART_MAX + 2] = {0}, deep[2 * TREE_DEPTH_MAX + 4] = "a";
  memset(part, 'x', TREE_PART_MAX);
  CHECK(safe(part));
  memset(part, 'x', TREE_PART_MAX + 1);
  CHECK(!safe(part));
  for (int i = 1; i < TREE_DEPTH_MAX; i++) strcat(deep, "/a");
  CHECK(safe(deep));
  strcat(deep, "/a");
  CHECK(!safe(deep));
}

static bool sound(uint8_t type, const char *name, const char *target) {
  struct tree_record r = {.type = type, .name_length = (uint16_t)strlen(name), .target_length = (uint16_t)strlen(target)};
  return tree_record_is_sound(&r, name, target);
}

static void judges_targets(void) {
  CHECK(sound(TREE_SYMLINK, "a", "/etc/passwd") && sound(TREE_SYMLINK, "a", "../..") && !sound(TREE_SYMLINK, "a", ""));
  CHECK(sound(TREE_LINK, "a", "b/c") && !sound(TREE_LINK, "a", "/b") && !sound(TREE_LINK, "a", "../b"));
  CHECK(!sound(TREE_LINK, "", "b") && !sound(TREE_LINK, "a", ""));
  CHECK(sound(TREE_FILE, "a", "") && !sound(TREE_FILE, "a", "b") && !sound(TREE_DIRECTORY, "a", "b"));
  CHECK(sound(TREE_SKIPPED, "a", "why") && sound(TREE_END, "", "") && !sound(TREE_END, "a", ""));
}

void tree_tests(void) {
  carries_every_field();
  refuses_what_is_out_of_bounds();
  judges_names();
  judges_targets();
}
