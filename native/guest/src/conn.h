/* A connection to the host: dialling, buffers and whole frames. Knows nothing of what frames mean.
 *
 * Invariants: `out_length` never exceeds `out_room`; a frame is queued whole or not at all; after conn_close the
 * descriptor is -1 and both buffers are gone. */
#pragma once
#include <poll.h>

#include "agent.h"
#include "frame.h"

enum conn_state {
  CONN_CLOSED,
  CONN_AGAIN,    /* the host's queue of connections is full: dial again soon */
  CONN_DIALLING, /* a connect that has not ended */
  CONN_ABSENT,   /* a virtio port that no host process has opened yet */
  CONN_OPEN,
};

struct conn {
  int fd;
  enum conn_state state;
  bool greeted; /* the host's HELLO has come */
  int slot;
  int absences; /* how often CONN_ABSENT was looked at */
  uint32_t json_max;
  int64_t retry_at;
  uint8_t *in, *out;
  size_t in_length, in_room;
  size_t out_start, out_length, out_room;
};

/** Starts to open a connection; false with errno when that is hopeless. `slot` counts for virtio only. */
bool conn_dial(struct conn *c, int slot, uint32_t json_max, size_t out_room);
void conn_close(struct conn *c);
/** Continues what is not open yet, moves queued bytes, reads what came. False when the connection is broken. */
bool conn_service(struct conn *c, short revents);
/** Takes part in the next poll: fills `p` (fd -1 when there is nothing to wait for) and the timeout. */
void conn_poll(const struct conn *c, struct pollfd *p, bool reading, int *timeout);
/** The next whole frame that came. FRAME_INCOMPLETE when there is none. The frame lives until conn_consume. */
long conn_frame(struct conn *c, struct frame *frame);
void conn_consume(struct conn *c, size_t n);

/** Bytes of payload that can be queued now. */
size_t conn_room(struct conn *c);
/** Where a DATA payload may be written before conn_commit queues it. */
uint8_t *conn_reserve(struct conn *c);
void conn_commit(struct conn *c, uint8_t type, uint32_t stream, size_t length);
bool conn_send(struct conn *c, uint8_t type, uint32_t stream, const void *payload, size_t length);
bool conn_send_text(struct conn *c, uint8_t type, struct text *json);

/** Opens a stream to the host, without waiting: a descriptor or -1 with errno. `dialling` tells that connect goes on. */
int dial(int slot, bool *dialling);
