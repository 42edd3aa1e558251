/* Tests of the frame decoder: every bound, at both sides of it, and every split. */
#include "../../common/frame.h"

#include <stdlib.h>

#include "check.h"
#include "tests.h"

static long decode(uint8_t type, uint8_t flags, uint32_t length, size_t given, uint32_t json_max) {
  size_t room = FRAME_HEADER + given;
  /* Exactly as large as the bytes: a sanitizer sees one byte read too far. */
  uint8_t *bytes = calloc(1, room);
  struct frame f;
  frame_header(bytes, type, 7, length);
  bytes[3] = flags;
  long n = frame_decode(bytes, room, json_max, &f);
  if (n > 0) CHECK(f.type == type && f.stream == 7 && f.length == length && f.payload == bytes + FRAME_HEADER);
  free(bytes);
  return n;
}

static void accepts_each_type_within_its_bounds(void) {
  CHECK(decode(FRAME_HELLO, 0, 2, 2, FRAME_JSON_MAX) == FRAME_HEADER + 2);
  CHECK(decode(FRAME_REQUEST, 0, FRAME_JSON_MAX, FRAME_JSON_MAX, FRAME_JSON_MAX) == FRAME_HEADER + FRAME_JSON_MAX);
  CHECK(decode(FRAME_DATA, 0, FRAME_DATA_MAX, FRAME_DATA_MAX, 100) == FRAME_HEADER + FRAME_DATA_MAX);
  CHECK(decode(FRAME_ACK, 0, 4, 4, 100) == FRAME_HEADER + 4);
  CHECK(decode(FRAME_EOF, 0, 0, 0, 100) == FRAME_HEADER);
  CHECK(decode(FRAME_CLOSE, 0, 0, 10, 100) == FRAME_HEADER);
}

static void refuses_what_is_out_of_bounds_before_the_payload_is_there(void) {
  CHECK(decode(FRAME_REQUEST, 0, FRAME_JSON_MAX + 1, 0, FRAME_JSON_MAX) == FRAME_MALFORMED);
  CHECK(decode(FRAME_HELLO, 0, 101, 0, 100) == FRAME_MALFORMED);
  CHECK(decode(FRAME_HELLO, 0, 1, 1, 100) == FRAME_MALFORMED);
  CHECK(decode(FRAME_DATA, 0, FRAME_DATA_MAX + 1, 0, 100) == FRAME_MALFORMED);
  CHECK(decode(FRAME_DATA, 0, 0, 0, 100) == FRAME_MALFORMED);
  CHECK(decode(FRAME_DATA, 0, UINT32_MAX, 0, 100) == FRAME_MALFORMED);
  CHECK(decode(FRAME_ACK, 0, 3, 3, 100) == FRAME_MALFORMED);
  CHECK(decode(FRAME_CLOSE, 0, 1, 1, 100) == FRAME_MALFORMED);
  CHECK(decode(FRAME_DATA, 1, 4, 4, 100) == FRAME_MALFORMED);
  CHECK(decode(0, 0, 4, 4, 100) == FRAME_MALFORMED);
  CHECK(decode(10, 0, 0, 0, 100) == FRAME_MALFORMED);
}

static void waits_for_every_missing_byte(void) {
  uint8_t whole[FRAME_HEADER + 4] = {0};
  struct frame f;
  frame_header(whole, FRAME_DATA, 1, 4);
  for (size_t n = 0; n < sizeof whole; n++) {
    uint8_t *part = malloc(n ? n : 1);
    memcpy(part, whole, n);
    CHECK(frame_decode(part, n, 100, &f) == FRAME_INCOMPLETE);
    free(part);
  }
  CHECK(frame_decode(whole, sizeof whole, 100, &f) == (long)sizeof whole);
}

static void refuses_a_wrong_magic_at_once(void) {
  uint8_t first[] = {'X'}, second[] = {'B', 'B'};
  struct frame f;
  CHECK(frame_decode(first, 1, 100, &f) == FRAME_MALFORMED);
  CHECK(frame_decode(second, 2, 100, &f) == FRAME_MALFORMED);
}

void frame_tests(void) {
  accepts_each_type_within_its_bounds();
  refuses_what_is_out_of_bounds_before_the_payload_is_there();
  waits_for_every_missing_byte();
  refuses_a_wrong_magic_at_once();
}
