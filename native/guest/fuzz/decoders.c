/* libFuzzer target: cuts the input into frames and walks the JSON of each, judges limits in it, and reads the input as records
 * of a tree, checking the promises of each reader; and works a ring of output with it, beside a model that remembers everything. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../common/frame.h"
#include "../../common/json.h"
#include "../src/limits.h"
#include "../src/ring.h"
#include "../src/tree.h"

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

/* A name that passes must not leave the directory that it is opened in. */
static void stays_inside(const char *name, size_t length) {
  require(length <= TREE_NAME_MAX && memchr(name, 0, length) == NULL);
  int depth = 0;
  for (size_t at = 0, part = 0; at <= length && length; at++, part++) {
    if (at < length && name[at] != '/') continue;
    const char *own = name + at - part;
    require(part > 0 && part <= TREE_PART_MAX && ++depth <= TREE_DEPTH_MAX);
    require(!(part == 1 && own[0] == '.') && !(part == 2 && own[0] == '.' && own[1] == '.'));
    part = (size_t)-1;
  }
}

static void read_tree(const uint8_t *data, size_t size) {
  for (size_t at = 0; size - at >= TREE_HEADER;) {
    struct tree_record r;
    uint8_t again[TREE_HEADER];
    if (!tree_decode(data + at, &r)) return;
    tree_encode(again, &r);
    require(memcmp(again, data + at, TREE_HEADER) == 0);
    at += TREE_HEADER;
    if (size - at < (size_t)r.name_length + r.target_length) return;
    /* Exactly as large as they are. */
    char *name = malloc(r.name_length + 1u), *target = malloc(r.target_length + 1u);
    memcpy(name, data + at, r.name_length);
    memcpy(target, data + at + r.name_length, r.target_length);
    name[r.name_length] = target[r.target_length] = 0;
    if (tree_record_is_sound(&r, name, target)) {
      stays_inside(name, r.name_length);
      if (r.type == TREE_LINK) stays_inside(target, r.target_length);
    }
    free(name);
    free(target);
    at += r.name_length + r.target_length;
    if (r.size > size - at) return;
    at += r.size;
  }
}

enum { MODEL_MAX = 1 << 17 };
static uint8_t said[MODEL_MAX], said_stream[MODEL_MAX];

static void check_given(struct ring *r, uint64_t from, uint64_t end, size_t n, uint8_t stream, const uint8_t *piece) {
  require(r->next + n <= end && r->next >= from);
  for (size_t i = 0; i < n; i++) require(said[r->next - from + i] == piece[i] && said_stream[r->next - from + i] == stream);
}

/* Each two bytes are an operation and its size. */
static void work_ring(const uint8_t *data, size_t size) {
  if (size < 2) return;
  size_t room = RING_HEADER + 1 + data[0];
  uint64_t from = data[1], end = from;
  uint8_t *bytes = malloc(room), source[256];
  struct ring r;
  ring_init(&r, bytes, room, from);
  for (size_t at = 2; at + 1 < size && end - from < MODEL_MAX - 256; at += 2) {
    size_t n = data[at + 1];
    uint8_t stream = 1 + (data[at] >> 7);
    const uint8_t *piece;
    if ((data[at] & 3) == 0) {
      if (n > room - RING_HEADER) n = room - RING_HEADER;
      uint64_t first = r.first;
      bool fits = n <= ring_room(&r);
      for (size_t i = 0; i < n; i++) source[i] = said[end - from + i] = (uint8_t)(end * 31 + i), said_stream[end - from + i] = stream;
      ring_put(&r, stream, source, n);
      end += n;
      require(!fits || r.first == first);
    } else if ((data[at] & 3) == 1) {
      size_t got = ring_next(&r, &stream, &piece, n);
      require(got <= n && (got || n == 0 || r.next == end));
      check_given(&r, from, end, got, stream, piece);
      ring_sent(&r, got);
    } else if ((data[at] & 3) == 2) {
      uint64_t to = r.first + n < end ? r.first + n : end;
      ring_drop(&r, to);
      require(r.first == to);
    } else {
      uint64_t to = from + (end - from) * n / 255;
      require(ring_seek(&r, to) == (to >= r.first && to <= r.end));
    }
    require(r.end == end && r.first <= r.next && r.next <= r.end && r.used <= room);
  }
  uint8_t stream;
  const uint8_t *piece;
  require(ring_seek(&r, r.first));
  for (size_t n; (n = ring_next(&r, &stream, &piece, room)); ring_sent(&r, n)) check_given(&r, from, end, n, stream, piece);
  require(r.next == end);
  free(bytes);
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
    if (f.length && json_parse(&doc, (char *)f.payload, f.length)) {
      require(walk(&doc, 0, 0) == doc.used);
      for (uint32_t i = 0; i < doc.used; i++) limits_are_sound(&doc, i);
    }
  }
  read_tree(bytes, size);
  work_ring(data, size);
  free(bytes);
  return 0;
}
