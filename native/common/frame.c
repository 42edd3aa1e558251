/* Encodes and decodes frame headers and checks every bound. Does not look into payloads. */
#include "frame.h"

uint32_t frame_u32(const uint8_t *b) {
  return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static void put_u32(uint8_t *b, uint32_t value) {
  for (int i = 0; i < 4; i++) b[i] = (uint8_t)(value >> (8 * i));
}

void frame_header(uint8_t header[FRAME_HEADER], uint8_t type, uint32_t stream, uint32_t length) {
  header[0] = 'B';
  header[1] = 'K';
  header[2] = type;
  header[3] = 0;
  put_u32(header + 4, stream);
  put_u32(header + 8, length);
}

static int length_allowed(uint8_t type, uint32_t length, uint32_t json_max) {
  switch (type) {
    case FRAME_HELLO:
    case FRAME_REQUEST:
    case FRAME_RESPONSE:
    case FRAME_EVENT:
    case FRAME_EXIT: return length >= 2 && length <= json_max;
    case FRAME_DATA: return length >= 1 && length <= FRAME_DATA_MAX;
    case FRAME_ACK: return length == 4;
    case FRAME_EOF:
    case FRAME_CLOSE: return length == 0;
    default: return 0;
  }
}

long frame_decode(uint8_t *bytes, size_t n, uint32_t json_max, struct frame *frame) {
  static const uint8_t magic[2] = {'B', 'K'};
  for (size_t i = 0; i < 2 && i < n; i++)
    if (bytes[i] != magic[i]) return FRAME_MALFORMED;
  if (n < FRAME_HEADER) return FRAME_INCOMPLETE;
  frame->type = bytes[2];
  frame->stream = frame_u32(bytes + 4);
  frame->length = frame_u32(bytes + 8);
  frame->payload = bytes + FRAME_HEADER;
  if (bytes[3] != 0 || !length_allowed(frame->type, frame->length, json_max)) return FRAME_MALFORMED;
  if (n - FRAME_HEADER < frame->length) return FRAME_INCOMPLETE;
  return (long)FRAME_HEADER + (long)frame->length;
}
