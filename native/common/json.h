/* A small JSON reader for hostile input: bounded depth and node count, strings decoded in place. Keeps no memory of its own. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_DEPTH_MAX = 16 };

enum json_kind { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json_node {
  uint8_t kind;
  bool integer;    /* of a number: it is a whole number that fits in 64 bits */
  uint32_t at;     /* of a string: offset of its bytes, which end in NUL */
  uint32_t count;  /* of a string: bytes; of an array: elements; of an object: pairs of key and value */
  uint32_t end;    /* index after the last node inside this one */
  int64_t value;   /* of an integer */
};

struct json {
  char *text;
  struct json_node *nodes;
  uint32_t used, room;
};

/** Parses `text[0..n)` and overwrites it. Node 0 is the document. Refuses NUL in strings and lone surrogates. */
bool json_parse(struct json *doc, char *text, size_t n);

/** Index of the value of `key` in the object, -1 when there is none or `object` is not one. The first of two wins. */
long json_get(const struct json *doc, long object, const char *key);
/** The string, NULL when the node is none (or missing: index -1). */
const char *json_string(const struct json *doc, long node);
bool json_integer(const struct json *doc, long node, int64_t min, int64_t max, int64_t *value);
bool json_is(const struct json *doc, long node, enum json_kind kind);
