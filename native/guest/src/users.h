/* Finds out who a process runs as from the texts of /etc/passwd and /etc/group. Reads no file. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

enum { GROUPS_MAX = 256, HOME_MAX = 1024 };

struct identity {
  uid_t uid;
  gid_t gid;
  gid_t groups[GROUPS_MAX];
  int group_count;
  char home[HOME_MAX];
};

/** Resolves "", "name", "uid", "name:group", "uid:gid" as docker does: "" is user 0; a number that passwd does not know is
 * taken as it is, with group 0 and home "/"; supplementary groups count only when no group is named. */
bool user_resolve(const char *passwd, const char *group, const char *user, struct identity *found);
