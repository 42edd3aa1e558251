/* Reads and sets resource limits. Knows the names that the host may use, without "RLIMIT_". */
#include "limits.h"

#include <string.h>
#include <sys/resource.h>

static const struct {
  const char *name;
  int resource;
} resources[] = {{"as", RLIMIT_AS},
                 {"core", RLIMIT_CORE},
                 {"cpu", RLIMIT_CPU},
                 {"data", RLIMIT_DATA},
                 {"fsize", RLIMIT_FSIZE},
                 {"locks", RLIMIT_LOCKS},
                 {"memlock", RLIMIT_MEMLOCK},
                 {"msgqueue", RLIMIT_MSGQUEUE},
                 {"nice", RLIMIT_NICE},
                 {"nofile", RLIMIT_NOFILE},
                 {"nproc", RLIMIT_NPROC},
                 {"rss", RLIMIT_RSS},
                 {"rtprio", RLIMIT_RTPRIO},
                 {"sigpending", RLIMIT_SIGPENDING},
                 {"stack", RLIMIT_STACK}};

static int resource_of(const char *name) {
  for (size_t i = 0; name && i < sizeof resources / sizeof *resources; i++)
    if (strcmp(resources[i].name, name) == 0) return resources[i].resource;
  return -1;
}

/* False when element `i` is not a name and two numbers. */
static bool read_limit(const struct json *doc, long i, int *resource, struct rlimit *limit) {
  int64_t soft, hard;
  if (!json_is(doc, i, JSON_ARRAY) || doc->nodes[i].count != 3) return false;
  *resource = resource_of(json_string(doc, i + 1));
  if (*resource < 0 || !json_integer(doc, i + 2, -1, INT64_MAX, &soft) || !json_integer(doc, i + 3, -1, INT64_MAX, &hard))
    return false;
  limit->rlim_cur = soft < 0 ? RLIM_INFINITY : (rlim_t)soft;
  limit->rlim_max = hard < 0 ? RLIM_INFINITY : (rlim_t)hard;
  return limit->rlim_cur <= limit->rlim_max;
}

bool limits_are_sound(const struct json *doc, long array) {
  struct rlimit limit;
  int resource;
  if (array < 0) return true;
  if (!json_is(doc, array, JSON_ARRAY)) return false;
  for (long i = array + 1; i < (long)doc->nodes[array].end; i = (long)doc->nodes[i].end)
    if (!read_limit(doc, i, &resource, &limit)) return false;
  return true;
}

const char *limits_set(const struct json *doc, long array) {
  struct rlimit limit;
  int resource;
  if (array < 0) return NULL;
  for (long i = array + 1; i < (long)doc->nodes[array].end; i = (long)doc->nodes[i].end)
    if (read_limit(doc, i, &resource, &limit) && setrlimit(resource, &limit) < 0) return json_string(doc, i + 1);
  return NULL;
}
