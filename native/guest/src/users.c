/* Resolves user and group names. Lines that are not well-formed are passed over, like the C library does. */
#include "users.h"

#include <stdint.h>
#include <string.h>

struct field {
  const char *at;
  size_t length;
};

enum { FIELD_MAX = 7 };

/* Splits the line at colons and returns the line after it, NULL at the end of the text. */
static const char *next_line(const char *text, struct field fields[FIELD_MAX], int *count) {
  if (!*text) return NULL;
  size_t length = strcspn(text, "\n");
  const char *end = text + length, *from = text;
  *count = 0;
  for (const char *p = text; p <= end && *count < FIELD_MAX; p++) {
    if (p != end && *p != ':') continue;
    fields[(*count)++] = (struct field){from, (size_t)(p - from)};
    from = p + 1;
  }
  return *end ? end + 1 : end;
}

static bool is(struct field f, struct field wanted) {
  return f.length == wanted.length && memcmp(f.at, wanted.at, f.length) == 0;
}

static bool number(struct field f, uint32_t *value) {
  uint64_t n = 0;
  if (f.length == 0 || f.length > 10) return false;
  for (size_t i = 0; i < f.length; i++) {
    if (f.at[i] < '0' || f.at[i] > '9') return false;
    n = n * 10 + (uint64_t)(f.at[i] - '0');
  }
  /* The last number means "no change" to the system calls. */
  if (n >= UINT32_MAX) return false;
  *value = (uint32_t)n;
  return true;
}

static bool find_user(const char *passwd, struct field wanted, struct identity *found, struct field *name) {
  struct field f[FIELD_MAX];
  int count;
  uint32_t by_number = UINT32_MAX, uid, gid;
  number(wanted, &by_number);
  for (const char *at = passwd; (at = next_line(at, f, &count));) {
    if (count < 6 || !number(f[2], &uid) || !number(f[3], &gid)) continue;
    if (!is(f[0], wanted) && uid != by_number) continue;
    *name = f[0];
    found->uid = uid;
    found->gid = gid;
    if (f[5].length > 0 && f[5].length < HOME_MAX) {
      memcpy(found->home, f[5].at, f[5].length);
      found->home[f[5].length] = 0;
    }
    return true;
  }
  if (by_number == UINT32_MAX) return false;
  found->uid = by_number;
  return true;
}

static bool find_group(const char *group, struct field wanted, gid_t *found) {
  struct field f[FIELD_MAX];
  int count;
  uint32_t gid;
  for (const char *at = group; (at = next_line(at, f, &count));)
    if (count >= 3 && is(f[0], wanted) && number(f[2], &gid)) return *found = gid, true;
  if (!number(wanted, &gid)) return false;
  *found = gid;
  return true;
}

static bool has_member(struct field members, struct field name) {
  const char *end = members.at + members.length;
  for (const char *at = members.at; at <= end;) {
    const char *comma = memchr(at, ',', (size_t)(end - at));
    if (!comma) comma = end;
    if (is((struct field){at, (size_t)(comma - at)}, name)) return true;
    at = comma + 1;
  }
  return false;
}

static void add_memberships(const char *group, struct field name, struct identity *found) {
  struct field f[FIELD_MAX];
  int count;
  uint32_t gid;
  for (const char *at = group; (at = next_line(at, f, &count));) {
    if (found->group_count == GROUPS_MAX) return;
    if (count < 4 || !number(f[2], &gid) || gid == found->gid || !has_member(f[3], name)) continue;
    found->groups[found->group_count++] = gid;
  }
}

bool user_resolve(const char *passwd, const char *group, const char *user, struct identity *found) {
  *found = (struct identity){.home = "/"};
  const char *colon = strchr(user, ':');
  struct field wanted = {user, colon ? (size_t)(colon - user) : strlen(user)}, name = {"", 0};
  if (wanted.length == 0) wanted = (struct field){"0", 1};
  if (!find_user(passwd, wanted, found, &name)) return false;
  if (colon && colon[1]) {
    if (!find_group(group, (struct field){colon + 1, strlen(colon + 1)}, &found->gid)) return false;
  } else if (name.length) {
    add_memberships(group, name, found);
  }
  return true;
}
