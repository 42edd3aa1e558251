/* Frames of the guest channel, version 1: a 12-byte little-endian header and a payload. Pure, no input or output. */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum {
  FRAME_HEADER = 12,
  FRAME_DATA_MAX = 65536,
  FRAME_JSON_MAX = 262144,
  PROTOCOL = 1,
};

enum frame_type {
  FRAME_HELLO = 1,
  FRAME_REQUEST = 2,
  FRAME_RESPONSE = 3,
  FRAME_EVENT = 4,
  FRAME_DATA = 5,
  FRAME_EOF = 6,
  FRAME_ACK = 7,
  FRAME_EXIT = 8,
  FRAME_CLOSE = 9,
};

struct frame {
  uint8_t type;
  uint32_t stream;
  uint32_t length;
  uint8_t *payload; /* inside the bytes that were decoded */
};

enum { FRAME_MALFORMED = -1, FRAME_INCOMPLETE = 0 };

/** Reads the first frame in `bytes`: how many bytes it takes, FRAME_INCOMPLETE, or FRAME_MALFORMED. A JSON payload longer
 * than `json_max` is malformed, and so is everything that can be seen to be wrong before the payload is complete. */
long frame_decode(uint8_t *bytes, size_t n, uint32_t json_max, struct frame *frame);

void frame_header(uint8_t header[FRAME_HEADER], uint8_t type, uint32_t stream, uint32_t length);

uint32_t frame_u32(const uint8_t *bytes);
