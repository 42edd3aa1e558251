/* A ring of the newest output of a process: bytes of two streams in the order in which they came. Pure, no input or output.
 *
 * Bytes are counted from an offset that the owner gives at the start, both streams together; no offset names two bytes.
 * Invariants: first <= next <= end; the bytes from `first` to `end` are held, those before `next` were given out. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RING_HEADER = 4 }; /* before each run of bytes of one stream: its length and the stream */

struct ring {
  uint8_t *bytes;
  size_t room;
  size_t start, used; /* the oldest run, and all bytes of the ring that are taken */
  size_t last;        /* the newest run */
  size_t at, within;  /* the run that holds `next`, and how far it was given out */
  uint64_t first, next, end;
};

/** Takes `room` bytes of memory that the owner keeps; the first byte that is put has the offset `from`. */
void ring_init(struct ring *r, uint8_t *bytes, size_t room, uint64_t from);
/** How many bytes can be put without losing one. */
size_t ring_room(const struct ring *r);
/** Adds `n` bytes of a stream (1 to 255), at most `room - RING_HEADER`; the oldest go where there is no room. */
void ring_put(struct ring *r, uint8_t stream, const uint8_t *bytes, size_t n);
/** Forgets every byte before `offset`. */
void ring_drop(struct ring *r, uint64_t offset);
/** Goes on with the byte at `offset`; false when it is not held. */
bool ring_seek(struct ring *r, uint64_t offset);
/** The next bytes of one stream that lie together, at most `max`; 0 when all were given out. They are given out by ring_sent. */
size_t ring_next(struct ring *r, uint8_t *stream, const uint8_t **bytes, size_t max);
void ring_sent(struct ring *r, size_t n);
