/* Keeps runs of bytes, each after a header of its own that may wrap round like all else. A run loses bytes at its front by having
 * its header written again just before what is left of it. Allocates nothing. */
#include "ring.h"

#include <string.h>

static size_t wrap(const struct ring *r, size_t at) { return at < r->room ? at : at - r->room; }

static uint32_t header(const struct ring *r, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < RING_HEADER; i++) value |= (uint32_t)r->bytes[wrap(r, at + i)] << (8 * i);
  return value;
}

static void set_header(struct ring *r, size_t at, uint8_t stream, size_t length) {
  uint32_t value = (uint32_t)stream << 24 | (uint32_t)length;
  for (size_t i = 0; i < RING_HEADER; i++) r->bytes[wrap(r, at + i)] = (uint8_t)(value >> (8 * i));
}

static size_t length_at(const struct ring *r, size_t at) { return header(r, at) & 0xffffff; }

static uint8_t stream_at(const struct ring *r, size_t at) { return (uint8_t)(header(r, at) >> 24); }

static size_t after(const struct ring *r, size_t at) { return wrap(r, at + RING_HEADER + length_at(r, at)); }

void ring_init(struct ring *r, uint8_t *bytes, size_t room, uint64_t from) {
  *r = (struct ring){.bytes = bytes, .room = room, .first = from, .next = from, .end = from};
}

size_t ring_room(const struct ring *r) {
  size_t left = r->room - r->used;
  return left > RING_HEADER ? left - RING_HEADER : 0;
}

/* Forgets up to `n` bytes of the oldest run; how many. */
static size_t drop_some(struct ring *r, size_t n) {
  size_t from = r->start, length = length_at(r, from);
  bool here = r->at == from;
  if (n >= length) {
    r->start = after(r, from);
    r->used -= RING_HEADER + length;
    if (r->used == 0) r->start = r->last = r->at = 0;
    if (here) r->at = r->start, r->within = 0;
    n = length;
  } else {
    uint8_t stream = stream_at(r, from);
    r->start = wrap(r, from + n);
    r->used -= n;
    set_header(r, r->start, stream, length - n);
    if (r->last == from) r->last = r->start;
    if (here) r->at = r->start, r->within -= n < r->within ? n : r->within;
  }
  r->first += n;
  if (r->next < r->first) r->next = r->first;
  return n;
}

void ring_drop(struct ring *r, uint64_t offset) {
  while (r->used && r->first < offset) {
    uint64_t n = offset - r->first;
    drop_some(r, n < r->room ? (size_t)n : r->room);
  }
}

static void write_at(struct ring *r, size_t at, const uint8_t *bytes, size_t n) {
  size_t first = n < r->room - at ? n : r->room - at;
  memcpy(r->bytes + at, bytes, first);
  memcpy(r->bytes, bytes + first, n - first);
}

void ring_put(struct ring *r, uint8_t stream, const uint8_t *bytes, size_t n) {
  while (ring_room(r) < n) drop_some(r, n - ring_room(r));
  if (n == 0) return;
  size_t end = wrap(r, r->start + r->used);
  if (r->used && stream_at(r, r->last) == stream) {
    write_at(r, end, bytes, n);
    set_header(r, r->last, stream, length_at(r, r->last) + n);
    r->used += n;
  } else {
    if (r->used == 0) r->at = end, r->within = 0;
    r->last = end;
    set_header(r, end, stream, n);
    write_at(r, wrap(r, end + RING_HEADER), bytes, n);
    r->used += RING_HEADER + n;
  }
  r->end += n;
}

bool ring_seek(struct ring *r, uint64_t offset) {
  if (offset < r->first || offset > r->end) return false;
  uint64_t left = offset - r->first;
  r->at = r->start;
  while (r->used && r->at != r->last && left >= length_at(r, r->at)) {
    left -= length_at(r, r->at);
    r->at = after(r, r->at);
  }
  r->within = (size_t)left;
  r->next = offset;
  return true;
}

size_t ring_next(struct ring *r, uint8_t *stream, const uint8_t **bytes, size_t max) {
  if (r->next == r->end) return 0;
  /* The newest run may have grown since all of it was given out, so it is not left before another came. */
  if (r->within == length_at(r, r->at)) r->at = after(r, r->at), r->within = 0;
  size_t n = length_at(r, r->at) - r->within, from = wrap(r, wrap(r, r->at + RING_HEADER) + r->within);
  if (n > r->room - from) n = r->room - from;
  *stream = stream_at(r, r->at);
  *bytes = r->bytes + from;
  return n < max ? n : max;
}

void ring_sent(struct ring *r, size_t n) {
  r->within += n;
  r->next += n;
}
