/* What a process says goes through a ring, from which the host takes it and in which it stays until the host has confirmed it: a host
 * that is killed loses nothing that it had not written down. A full ring holds the process up, as a full pipe would: for ever while a
 * host is connected, else for a bounded time, after which the oldest bytes go; offsets tell the next host how many. */
#include "kept.h"

#include <stdlib.h>
#include <string.h>

#include "control.h"

/* As for every exec; see exec.c. */
enum { EXIT_RESERVE = 1024 };

static const char *name_in(const struct json *doc, long node) {
  const char *name = json_string(doc, json_get(doc, node, "name"));
  return name && *name && strlen(name) <= KEPT_NAME_MAX ? name : NULL;
}

bool kept_is_sound(const struct json *doc, long node) {
  int64_t value;
  long from = json_get(doc, node, "from"), hold = json_get(doc, node, "hold_ms");
  return node < 0 || (json_is(doc, node, JSON_OBJECT) && name_in(doc, node) &&
                      (from < 0 || json_integer(doc, from, 0, INT64_MAX / 2, &value)) &&
                      (hold < 0 || json_integer(doc, hold, 0, HOLD_MAX_MS, &value)));
}

static struct exec *find(const char *name) {
  for (int i = 0; i < EXEC_MAX; i++)
    if (execs[i].state != EXEC_FREE && execs[i].kept && strcmp(execs[i].kept->name, name) == 0) return &execs[i];
  return NULL;
}

static int kept_count(void) {
  int count = 0;
  for (int i = 0; i < EXEC_MAX; i++) count += execs[i].state != EXEC_FREE && execs[i].kept;
  return count;
}

bool kept_begin(struct exec *e, const struct json *doc, long node, const char **why) {
  const char *name = name_in(doc, node);
  int64_t from = 0, hold = 0;
  struct exec *before = find(name);
  if (before && before->kept->read) exec_release(before);
  else if (before) return *why = "a process of that name is kept", false;
  if (kept_count() >= KEPT_MAX) return *why = "too many processes are kept", false;
  json_integer(doc, json_get(doc, node, "from"), 0, INT64_MAX / 2, &from);
  json_integer(doc, json_get(doc, node, "hold_ms"), 0, HOLD_MAX_MS, &hold);
  uint8_t *bytes = malloc(KEPT_RING);
  struct kept *kept = calloc(1, sizeof *kept);
  if (!bytes || !kept) {
    free(bytes);
    free(kept);
    return *why = "no memory for its output", false;
  }
  strcpy(kept->name, name);
  kept->hold_ms = hold;
  ring_init(&kept->ring, bytes, KEPT_RING, (uint64_t)from);
  e->kept = kept;
  return true;
}

void kept_free(struct exec *e) {
  if (e->kept) free(e->kept->ring.bytes);
  free(e->kept);
  e->kept = NULL;
}

void kept_detach(struct exec *e, const char *why) {
  if (e->kept->asked) control_reply_error(e->request, e->generation, "failed", why);
  e->kept->asked = false;
  exec_close_connection(e);
  e->unacknowledged = 0;
  if (e->state == EXEC_FLUSHING) e->state = EXEC_RUNNING;
  kept_watch(e);
}

void kept_close(struct exec *e) {
  if (e->state != EXEC_FLUSHING) return kept_free(e);
  e->kept->read = true;
  ring_drop(&e->kept->ring, e->kept->ring.end);
}

static void reattach(struct exec *e, int slot, int64_t from) {
  struct ring *ring = &e->kept->ring;
  ring_drop(ring, (uint64_t)from);
  ring_seek(ring, ring->first);
  e->kept->hold_until = 0;
  e->kept->asked = true;
  if (!exec_open_connection(e, slot)) kept_detach(e, "the exec connection can not be opened");
}

bool kept_op(const struct json *doc, int64_t id, uint32_t generation) {
  int64_t number, slot = 0, from = 0;
  const char *name = name_in(doc, 0);
  long offset = json_get(doc, 0, "from");
  json_integer(doc, json_get(doc, 0, "slot"), 1, SLOT_MAX - 1, &slot);
  if (!name || !json_integer(doc, json_get(doc, 0, "exec"), 0, UINT32_MAX, &number) ||
      (offset >= 0 && !json_integer(doc, offset, 0, INT64_MAX / 2, &from)) || (agent.channel == CHANNEL_VIRTIO && slot == 0))
    return false;
  if (agent.channel == CHANNEL_VIRTIO) exec_take_slot((int)slot);
  struct exec *e = find(name), *other = exec_find((uint32_t)number);
  if (other && other != e) return control_reply_error(id, generation, "failed", "the exec number is in use"), true;
  /* Its host is gone, and it has not been started: the next one may. */
  if (e && e->state == EXEC_GREETING) exec_give_up(e, "its host came back and asked for it"), e = NULL;
  if (!e) return control_reply_error(id, generation, "not_found", "no process of that name was started"), true;
  if ((uint64_t)from > e->kept->ring.end)
    return control_reply_error(id, generation, "bad_offset", "the process has not said so much"), true;
  if (e->conn.state != CONN_CLOSED) kept_detach(e, "another connection took its place");
  e->number = (uint32_t)number;
  e->request = id;
  e->generation = generation;
  reattach(e, (int)slot, from);
  return true;
}

bool kept_acknowledge(struct exec *e, uint32_t n) {
  struct ring *ring = &e->kept->ring;
  if (n > ring->next - ring->first) return false;
  ring_drop(ring, ring->first + n);
  return true;
}

size_t kept_room(const struct exec *e) {
  size_t room = ring_room(&e->kept->ring);
  bool may_lose = e->kept->hold_until && now_ms() >= e->kept->hold_until;
  if (room == 0 && may_lose) return FRAME_DATA_MAX;
  return room < FRAME_DATA_MAX ? room : FRAME_DATA_MAX;
}

void kept_poll(const struct exec *e, int *timeout) {
  if (e->kept->hold_until > now_ms()) timer_at(timeout, e->kept->hold_until);
}

void kept_watch(struct exec *e) {
  if (e->conn.state == CONN_CLOSED && !e->kept->hold_until && ring_room(&e->kept->ring) == 0)
    e->kept->hold_until = now_ms() + e->kept->hold_ms;
}

void kept_put(struct exec *e, uint8_t stream, const uint8_t *bytes, size_t n) { ring_put(&e->kept->ring, stream, bytes, n); }

bool kept_send(struct exec *e) {
  struct ring *ring = &e->kept->ring;
  const uint8_t *bytes;
  uint8_t stream;
  size_t n;
  if (!e->conn.greeted) return false;
  while (conn_room(&e->conn) >= FRAME_DATA_MAX + EXIT_RESERVE && (n = ring_next(ring, &stream, &bytes, FRAME_DATA_MAX))) {
    memcpy(conn_reserve(&e->conn), bytes, n);
    conn_commit(&e->conn, FRAME_DATA, stream, n);
    ring_sent(ring, n);
  }
  return ring->next == ring->end && conn_room(&e->conn) >= EXIT_RESERVE;
}
