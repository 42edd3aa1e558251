/* Tests of the ring of output: order, offsets, what goes when it is full, and a long walk beside a model. */
#include "../src/ring.h"

#include <stdlib.h>

#include "check.h"
#include "tests.h"

static void put(struct ring *r, uint8_t stream, const char *text) {
  ring_put(r, stream, (const uint8_t *)text, strlen(text));
}

/* Everything that was not given out yet, each run after the number of its stream. */
static const char *rest(struct ring *r) {
  static char text[4096];
  const uint8_t *bytes;
  uint8_t stream, last = 0;
  size_t length = 0;
  for (size_t n; (n = ring_next(r, &stream, &bytes, sizeof text)); ring_sent(r, n)) {
    if (stream != last) text[length++] = (char)('0' + stream);
    last = stream;
    memcpy(text + length, bytes, n);
    length += n;
  }
  text[length] = 0;
  return text;
}

static void gives_what_came_in_its_order(void) {
  uint8_t bytes[64];
  struct ring r;
  ring_init(&r, bytes, sizeof bytes, 1000);
  CHECK(ring_room(&r) == 60 && r.end == 1000);
  put(&r, 1, "out");
  put(&r, 1, "put");
  put(&r, 2, "err");
  CHECK_TEXT(rest(&r), "1output2err");
  CHECK_TEXT(rest(&r), "");
  put(&r, 2, "or");
  CHECK_TEXT(rest(&r), "2or");
  CHECK(r.first == 1000 && r.next == 1011 && r.end == 1011);
}

static void gives_again_from_an_offset(void) {
  uint8_t bytes[64];
  struct ring r;
  ring_init(&r, bytes, sizeof bytes, 0);
  put(&r, 1, "abc");
  put(&r, 2, "de");
  rest(&r);
  CHECK(ring_seek(&r, 2));
  CHECK_TEXT(rest(&r), "1c2de");
  ring_drop(&r, 4);
  CHECK(!ring_seek(&r, 3) && !ring_seek(&r, 6) && ring_seek(&r, 4));
  CHECK_TEXT(rest(&r), "2e");
  ring_drop(&r, 99);
  CHECK(r.used == 0 && r.first == 5 && ring_seek(&r, 5) && ring_room(&r) == 60);
}

static void loses_the_oldest_when_full(void) {
  uint8_t bytes[16];
  struct ring r;
  ring_init(&r, bytes, sizeof bytes, 0);
  put(&r, 1, "abcdefghijkl");
  CHECK(ring_room(&r) == 0);
  put(&r, 1, "m");
  CHECK(r.first > 0 && r.end == 13 && r.next == r.first);
  put(&r, 2, "XYZ");
  CHECK(r.end == 16 && r.first + strlen(rest(&r)) - 2 == 16);
}

static void agrees_with_a_model(void) {
  enum { BYTES = 200000 };
  uint8_t *model = malloc(BYTES), *streams = malloc(BYTES), bytes[257];
  struct ring r;
  ring_init(&r, bytes, sizeof bytes, 0);
  srand(7);
  for (size_t end = 0; end < BYTES - 256;) {
    uint8_t stream = (uint8_t)(1 + rand() % 2);
    size_t n = (size_t)(rand() % (rand() % 4 ? 9 : 253));
    for (size_t i = 0; i < n; i++) model[end + i] = (uint8_t)rand(), streams[end + i] = stream;
    ring_put(&r, stream, model + end, n);
    end += n;
    if (rand() % 3 == 0) ring_drop(&r, r.first + (uint64_t)(rand() % 300));
    if (rand() % 5 == 0) CHECK(ring_seek(&r, r.first + (r.end - r.first) / 2));
    const uint8_t *piece;
    for (size_t got; rand() % 4 && (got = ring_next(&r, &stream, &piece, (size_t)(1 + rand() % 100))); ring_sent(&r, got))
      for (size_t i = 0; i < got; i++) CHECK(model[r.next + i] == piece[i] && streams[r.next + i] == stream);
    CHECK(r.end == end && r.first <= r.next && r.next <= end && r.used <= sizeof bytes);
    if (failures_total) break;
  }
  free(model);
  free(streams);
}

void ring_tests(void) {
  gives_what_came_in_its_order();
  gives_again_from_an_offset();
  loses_the_oldest_when_full();
  agrees_with_a_model();
}
