/* Tests of the JSON reader: values, refusals, bounds. */
#include "../../common/json.h"

#include <stdlib.h>

#include "check.h"
#include "tests.h"

static struct json_node nodes[64];

/* The text is copied to memory of exactly its size; the caller frees doc.text. */
static struct json parse(const char *text, bool *ok) {
  size_t n = strlen(text);
  struct json doc = {.nodes = nodes, .room = sizeof nodes / sizeof *nodes};
  char *copy = malloc(n ? n : 1);
  memcpy(copy, text, n);
  *ok = json_parse(&doc, copy, n);
  doc.text = copy;
  return doc;
}

static bool valid(const char *text) {
  bool ok;
  free(parse(text, &ok).text);
  return ok;
}

static void reads_members_by_name(void) {
  bool ok;
  int64_t n = 0;
  struct json doc = parse(" {\"a\" : [1, {\"x\":null}, \"s\"], \"b\":-5, \"c\":true, \"a\":9, \"d\":\"q\\\"\\n\\u00e9\\ud83d\\ude00\"} ", &ok);
  CHECK(ok);
  long a = json_get(&doc, 0, "a");
  CHECK(json_is(&doc, a, JSON_ARRAY) && doc.nodes[a].count == 3);
  CHECK(json_integer(&doc, json_get(&doc, 0, "b"), -10, 10, &n) && n == -5);
  CHECK(!json_integer(&doc, json_get(&doc, 0, "b"), 0, 10, &n));
  CHECK(json_is(&doc, json_get(&doc, 0, "c"), JSON_TRUE));
  CHECK(json_get(&doc, 0, "zz") == -1);
  CHECK(json_get(&doc, a, "x") == -1);
  CHECK(json_get(&doc, -1, "x") == -1);
  CHECK_TEXT(json_string(&doc, json_get(&doc, 0, "d")), "q\"\n\xc3\xa9\xf0\x9f\x98\x80");
  CHECK(json_string(&doc, json_get(&doc, 0, "b")) == NULL);
  free(doc.text);
}

static void tells_integers_from_other_numbers(void) {
  static const struct { const char *text; bool integer; int64_t value; } cases[] = {
      {"0", true, 0}, {"-0", true, 0}, {"9223372036854775807", true, INT64_MAX}, {"-9223372036854775808", true, INT64_MIN},
      {"9223372036854775808", false, 0}, {"1e3", false, 0}, {"1.0", false, 0}, {"99999999999999999999999", false, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    bool ok;
    int64_t value = 0;
    struct json doc = parse(cases[i].text, &ok);
    CHECK(ok);
    CHECK(json_integer(&doc, 0, INT64_MIN, INT64_MAX, &value) == cases[i].integer && value == cases[i].value);
    free(doc.text);
  }
}

static void refuses_what_is_not_json(void) {
  static const char *const bad[] = {"", " ", "{", "[", "[1", "[1,", "[1,]", "{\"a\"", "{\"a\":", "{\"a\":1,}", "{a:1}", "\"", "\"\\", "\"\\u12",
      "\"\\x\"", "\"\\u0000\"", "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"a\nb\"", "01", "-", "1.", "1e", "+1", ".5", "nul",
      "tru", "1 2", "{}x", "'a'", "[1 2]", "{\"a\" 1}"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    if (valid(bad[i])) CHECK_TEXT(bad[i], "refused");
}

static void bounds_depth_and_nodes(void) {
  CHECK(valid("[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]"));
  CHECK(!valid("[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]"));
  char many[300] = "[";
  for (int i = 0; i < 63; i++) strcat(many, i ? ",1" : "1");
  CHECK(valid(strcat(many, "]")));
  many[strlen(many) - 1] = 0;
  CHECK(!valid(strcat(many, ",1]")));
}

void json_tests(void) {
  reads_members_by_name();
  tells_integers_from_other_numbers();
  refuses_what_is_not_json();
  bounds_depth_and_nodes();
}
