/* Moves bytes between a descriptor and two bounded buffers and cuts frames out of them. Never blocks. */
#include "conn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ABSENT_MS = 5, AGAIN_MS = 5, ABSENT_EAGER = 1000 };

/* A machine that boots is looked after eagerly, one whose host process is gone now and then. */
static int64_t absent_until(struct conn *c) {
  return now_ms() + (c->absences++ < ABSENT_EAGER ? ABSENT_MS : RECONNECT_MS);
}

static bool port_has_host(int fd) {
  struct pollfd p = {fd, POLLIN | POLLOUT, 0};
  return poll(&p, 1, 0) >= 0 && !(p.revents & POLLHUP);
}

static bool dial_now(struct conn *c) {
  bool dialling;
  c->fd = dial(c->slot, &dialling);
  if (c->fd < 0) {
    if (errno != EAGAIN) return false;
    c->state = CONN_AGAIN;
    c->retry_at = now_ms() + AGAIN_MS;
    return true;
  }
  c->state = dialling ? CONN_DIALLING : CONN_OPEN;
  /* A port can be opened before any host process is there; poll would report a hang-up without end. */
  if (agent.channel == CHANNEL_VIRTIO && !port_has_host(c->fd)) {
    c->state = CONN_ABSENT;
    c->retry_at = absent_until(c);
  }
  return true;
}

bool conn_dial(struct conn *c, int slot, uint32_t json_max, size_t out_room) {
  uint32_t in_max = json_max > FRAME_DATA_MAX ? json_max : FRAME_DATA_MAX;
  *c = (struct conn){.fd = -1, .slot = slot, .json_max = json_max};
  c->in_room = FRAME_HEADER + in_max;
  c->out_room = out_room;
  c->in = malloc(c->in_room);
  c->out = malloc(c->out_room);
  if (c->in && c->out && dial_now(c)) return true;
  int error = errno;
  conn_close(c);
  errno = error;
  return false;
}

void conn_close(struct conn *c) {
  if (c->fd >= 0) close(c->fd);
  free(c->in);
  free(c->out);
  *c = (struct conn){.fd = -1};
}

void conn_poll(const struct conn *c, struct pollfd *p, bool reading, int *timeout) {
  *p = (struct pollfd){.fd = -1};
  if (c->state == CONN_AGAIN || c->state == CONN_ABSENT) timer_at(timeout, c->retry_at);
  if (c->state != CONN_DIALLING && c->state != CONN_OPEN) return;
  p->fd = c->fd;
  p->events = (short)((reading ? POLLIN : 0) | (c->out_length || c->state == CONN_DIALLING ? POLLOUT : 0));
}

static bool flush(struct conn *c) {
  while (c->out_length) {
    ssize_t n = write(c->fd, c->out + c->out_start, c->out_length);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN;
    if (n == 0) return true;
    c->out_start += (size_t)n;
    c->out_length -= (size_t)n;
  }
  c->out_start = 0;
  return true;
}

static bool receive(struct conn *c) {
  if (c->in_length == c->in_room) return true;
  ssize_t n = read(c->fd, c->in + c->in_length, c->in_room - c->in_length);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  c->in_length += (size_t)n;
  return n > 0;
}

bool conn_service(struct conn *c, short revents) {
  if (c->state == CONN_AGAIN) return now_ms() < c->retry_at || dial_now(c);
  if (c->state == CONN_ABSENT) {
    if (now_ms() < c->retry_at) return true;
    c->retry_at = absent_until(c);
    if (port_has_host(c->fd)) c->state = CONN_OPEN;
    return true;
  }
  if (c->state == CONN_DIALLING && revents) {
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0 || error) return false;
    c->state = CONN_OPEN;
  }
  if (c->state != CONN_OPEN) return true;
  if (c->out_length && !flush(c)) return false;
  return revents & (POLLIN | POLLHUP | POLLERR) ? receive(c) : true;
}

long conn_frame(struct conn *c, struct frame *frame) { return frame_decode(c->in, c->in_length, c->json_max, frame); }

void conn_consume(struct conn *c, size_t n) {
  c->in_length -= n;
  memmove(c->in, c->in + n, c->in_length);
}

size_t conn_room(struct conn *c) {
  size_t left = c->out_room - c->out_length;
  return c->state == CONN_CLOSED || left < FRAME_HEADER ? 0 : left - FRAME_HEADER;
}

uint8_t *conn_reserve(struct conn *c) {
  memmove(c->out, c->out + c->out_start, c->out_length);
  c->out_start = 0;
  return c->out + c->out_length + FRAME_HEADER;
}

void conn_commit(struct conn *c, uint8_t type, uint32_t stream, size_t length) {
  frame_header(c->out + c->out_start + c->out_length, type, stream, (uint32_t)length);
  c->out_length += FRAME_HEADER + length;
}

bool conn_send(struct conn *c, uint8_t type, uint32_t stream, const void *payload, size_t length) {
  if (conn_room(c) < length || c->state == CONN_CLOSED) return false;
  uint8_t *to = conn_reserve(c);
  if (length) memcpy(to, payload, length);
  conn_commit(c, type, stream, length);
  return true;
}

bool conn_send_text(struct conn *c, uint8_t type, struct text *json) {
  return !json->overflow && conn_send(c, type, 0, json->at, json->length);
}
