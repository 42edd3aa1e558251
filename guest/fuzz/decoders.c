/* libFuzzer target: cuts the input into frames and walks the JSON of each, checking the reader's promises. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../src/frame.h"
#include "../src/json.h"

static struct json_node nodes[512];

static void require(int truth) {
  if (!truth) abort();
}

static uint32_t walk(const struct json *doc, uint32_t at, int depth) {
  require(at < doc->used && depth <= JSON_DEPTH_MAX);
  const struct json_node *node = &doc->nodes[at];
  require(node->end > at && node->end <= doc->used);
  uint32_t next = at + 1;
  if (node->kind == JSON_STRING) require(strlen(json_string(doc, at)) == node->count);
  if (node->kind == JSON_ARRAY)
    for (uint32_t i = 0; i < node->count; i++) next = walk(doc, next, depth + 1);
  if (node->kind == JSON_OBJECT) {
    for (uint32_t i = 0; i < node->count; i++) {
      require(json_get(doc, at, json_string(doc, next)) > 0);
      next = walk(doc, walk(doc, next, depth + 1), depth + 1);
    }
  }
  require(next == node->end);
  return next;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  /* Memory of exactly the input's size, so that one byte too far is seen. */
  uint8_t *bytes = malloc(size ? size : 1);
  memcpy(bytes, data, size);
  struct frame f;
  long n;
  for (size_t at = 0; (n = frame_decode(bytes + at, size - at, FRAME_JSON_MAX, &f)) > 0; at += (size_t)n) {
    require((size_t)n <= size - at && f.length <= FRAME_JSON_MAX);
    struct json doc = {.nodes = nodes, .room = sizeof nodes / sizeof *nodes};
    if (f.length && json_parse(&doc, (char *)f.payload, f.length)) require(walk(&doc, 0, 0) == doc.used);
  }
  free(bytes);
  return 0;
}
