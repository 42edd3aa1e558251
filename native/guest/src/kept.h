/* Processes that survive their connection: what they say is kept for a host that comes back. */
#pragma once
#include "exec.h"
#include "ring.h"

enum {
  KEPT_MAX = 4,           /* such processes at once */
  KEPT_NAME_MAX = 64,     /* bytes */
  KEPT_RING = 1 << 20,    /* bytes of output that the host has not confirmed, their headers included */
  HOLD_MAX_MS = 3600000,
};

struct kept {
  char name[KEPT_NAME_MAX + 1];
  struct ring ring;
  int64_t hold_ms;    /* how long a full ring holds up the process while nobody is there */
  int64_t hold_until; /* 0: it is not full, or somebody is there */
  bool asked;         /* a reattach waits for its answer */
  bool read;          /* the host has its end */
  bool failed;        /* it did not start; `why` says so */
  struct spawn_report why;
};

/** The `keep` of an exec request: false when it is malformed. */
bool kept_is_sound(const struct json *doc, long node);
/** Makes the process of a request one that is kept; false when that can not be, with the reason. */
bool kept_begin(struct exec *e, const struct json *doc, long node, const char **why);
void kept_free(struct exec *e);
/** Takes a reattach request; false when a field of it is missing or wrong. */
bool kept_op(const struct json *doc, int64_t id, uint32_t generation);
/** Goes on without a connection. */
void kept_detach(struct exec *e, const char *why);
/** The host closes the connection in order: it has the end, or wants it. */
void kept_close(struct exec *e);
/** The host has so many bytes more; false when that is more than it was given. */
bool kept_acknowledge(struct exec *e, uint32_t n);
/** How many bytes of output may be read now. */
size_t kept_room(const struct exec *e);
/** Starts to wait, while nobody is there and the ring is full; then the oldest bytes go. */
void kept_poll(const struct exec *e, int *timeout);
void kept_watch(struct exec *e);
void kept_put(struct exec *e, uint8_t stream, const uint8_t *bytes, size_t n);
/** Queues what the connection takes. True when the host was given everything. */
bool kept_send(struct exec *e);
