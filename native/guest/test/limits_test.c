/* Tests of resource limits in requests. */
#include "../src/limits.h"

#include <sys/resource.h>

#include "check.h"
#include "tests.h"

static struct json_node nodes[64];

static bool parse(struct json *doc, char *buffer, const char *text) {
  strcpy(buffer, text);
  *doc = (struct json){.nodes = nodes, .room = 64};
  return json_parse(doc, buffer, strlen(text));
}

static bool sound(const char *text) {
  char buffer[200];
  struct json doc;
  CHECK(parse(&doc, buffer, text));
  return limits_are_sound(&doc, 0);
}

void limits_tests(void) {
  CHECK(sound("[]") && sound("[[\"nofile\",1,2]]") && sound("[[\"core\",0,-1],[\"cpu\",-1,-1]]"));
  CHECK(!sound("{}") && !sound("[1]") && !sound("[[]]") && !sound("[[\"nofile\",1]]") && !sound("[[\"nofile\",1,2,3]]"));
  CHECK(!sound("[[\"files\",1,2]]") && !sound("[[1,1,2]]") && !sound("[[\"nofile\",\"1\",2]]") && !sound("[[\"nofile\",1.5,2]]"));
  CHECK(!sound("[[\"nofile\",2,1]]") && !sound("[[\"nofile\",-1,1]]") && !sound("[[\"nofile\",-2,1]]"));
  char buffer[200];
  struct json doc;
  struct rlimit core;
  CHECK(parse(&doc, buffer, "[[\"core\",0,0]]"));
  CHECK(limits_set(&doc, 0) == NULL && getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_max == 0);
  CHECK(limits_are_sound(&doc, -1) && limits_set(&doc, -1) == NULL);
}
