/* Life of a process and its connection: greet, start, pump, end. Starting itself is in spawn.c, the bytes in pump.c. */
#include "exec.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control.h"
#include "dialer.h"
#include "kept.h"
#include "pump.h"

/* One DATA frame is read while another waits, and an EXIT always fits. */
enum { OUT_ROOM = 2 * (FRAME_HEADER + FRAME_DATA_MAX) + 4096, FAREWELL_LOOK_MS = 2 };

struct exec execs[EXEC_MAX];

struct exec *exec_find(uint32_t number) {
  for (int i = 0; i < EXEC_MAX; i++)
    if (execs[i].state != EXEC_FREE && execs[i].number == number) return &execs[i];
  return NULL;
}

int exec_used(void) {
  int used = EXEC_MAX;
  while (used > 0 && execs[used - 1].state == EXEC_FREE) used--;
  return used;
}

static void close_fd(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

void exec_close_connection(struct exec *e) {
  int slot = e->conn.fd >= 0 ? e->conn.slot : -1;
  conn_close(&e->conn);
  if (slot > 0) control_slot_free(slot);
}

static void close_process(struct exec *e) {
  close_fd(&e->input);
  close_fd(&e->output[0]);
  close_fd(&e->output[1]);
  close_fd(&e->report);
  free(e->pending);
  e->pending = NULL;
  free(e->spec.text);
  free(e->spec.nodes);
  e->spec = (struct json){0};
}

void exec_release(struct exec *e) {
  close_process(e);
  kept_free(e);
  exec_close_connection(e);
  e->state = EXEC_FREE;
}

static void say_error(struct text *json, const struct spawn_report *why) {
  text_add(json, "{\"error\":");
  text_quoted(json, why->error);
  text_add(json, ",\"message\":");
  text_quoted(json, why->message);
  text_add(json, "}");
}

static void fail(struct exec *e, const struct spawn_report *why) {
  char buffer[1024];
  struct text json = TEXT_IN(buffer);
  control_reply_error(e->request, e->generation, why->error, why->message);
  say_error(&json, why);
  close_process(e);
  if (e->kept) {
    e->kept->failed = true;
    e->kept->why = *why;
    e->kept->asked = false;
    e->kept->read = e->conn.greeted;
    e->state = EXEC_RUNNING; /* to its end, which is known */
    return;
  }
  e->state = EXEC_FLUSHING;
  if (!conn_send_text(&e->conn, FRAME_EXIT, &json)) exec_release(e);
}

/* Nobody is left to see the output of what is not kept. */
void exec_give_up(struct exec *e, const char *why) {
  if (e->kept && e->state != EXEC_GREETING) return kept_detach(e, why);
  if (e->state == EXEC_GREETING || e->state == EXEC_STARTING)
    control_reply_error(e->request, e->generation, "failed", why);
  bool living = e->pid > 0 && !e->reaped;
  if (e->kind == EXEC_DIAL) dialer_break(e);
  /* Long after its end the number may be another process's. */
  if (e->pid > 0 && e->state != EXEC_FLUSHING && !e->draining) session_kill(e->pid);
  exec_release(e);
  if (living) e->state = EXEC_DYING;
}

void exec_take_slot(int slot) {
  for (int i = 0; i < EXEC_MAX; i++)
    if (execs[i].state != EXEC_FREE && execs[i].conn.fd >= 0 && execs[i].conn.slot == slot) {
      execs[i].conn.slot = 0; /* not free: no event */
      exec_give_up(&execs[i], "its slot was taken for another exec");
    }
}

static bool copy_spec(struct exec *e, const struct json *doc, size_t text_length) {
  e->spec = (struct json){malloc(text_length), malloc(doc->used * sizeof *doc->nodes), doc->used, doc->used};
  if (!e->spec.text || !e->spec.nodes) return false;
  memcpy(e->spec.text, doc->text, text_length);
  memcpy(e->spec.nodes, doc->nodes, doc->used * sizeof *doc->nodes);
  return true;
}

static bool greet(struct exec *e) {
  char buffer[256];
  struct text json = TEXT_IN(buffer);
  text_add(&json, "{\"protocol\":1,\"kind\":\"exec\",\"exec\":");
  text_int(&json, e->number);
  if (e->kept && e->state != EXEC_GREETING) {
    text_add(&json, ",\"from\":");
    text_int(&json, (int64_t)e->kept->ring.next);
    text_add(&json, ",\"said\":");
    text_int(&json, (int64_t)e->kept->ring.end);
    text_add(&json, ",\"unread\":");
    text_int(&json, (int64_t)e->pending_length);
    text_add(&json, e->input >= 0 && !e->input_eof ? ",\"stdin\":true" : ",\"stdin\":false");
    e->unacknowledged = 0;
  }
  text_add(&json, "}");
  e->greet_at = now_ms() + REGREET_MS;
  return conn_send_text(&e->conn, FRAME_HELLO, &json);
}

/* What is said to a virtio port while one host process leaves it and the next one comes is lost: say it until it is
 * answered. The host passes over what it has heard. */
static void greet_again(struct exec *e) {
  if (agent.channel == CHANNEL_VIRTIO && e->conn.state == CONN_OPEN && !e->conn.out_length && now_ms() >= e->greet_at)
    greet(e);
}

bool exec_open_connection(struct exec *e, int slot) {
  e->greet_by = now_ms() + GREETING_MS;
  return conn_dial(&e->conn, slot, EXEC_JSON_MAX, OUT_ROOM) && greet(e);
}

/* Its first connection, or one of a host that came back, waits for the host's HELLO. */
static bool is_greeting(const struct exec *e) {
  return e->state == EXEC_GREETING || (e->kept && e->conn.state != CONN_CLOSED && !e->conn.greeted);
}

/* Bytes of the text that nodes point into, with the NUL of the last string. */
static size_t text_used(const struct json *doc) {
  size_t used = 1;
  for (uint32_t i = 0; i < doc->used; i++) {
    size_t end = (size_t)doc->nodes[i].at + doc->nodes[i].count + 1;
    if (doc->nodes[i].kind == JSON_STRING && end > used) used = end;
  }
  return used;
}

void exec_request(const struct json *doc, enum exec_kind kind, uint32_t number, int slot, int64_t request,
                  uint32_t generation) {
  struct exec *e = NULL;
  if (exec_find(number)) return control_reply_error(request, generation, "failed", "the exec number is in use");
  if (agent.channel == CHANNEL_VIRTIO) exec_take_slot(slot);
  for (int i = 0; i < EXEC_MAX && !e; i++)
    if (execs[i].state == EXEC_FREE) e = &execs[i];
  if (!e) return control_reply_error(request, generation, "limit", "too many processes were asked for at once");
  *e = (struct exec){
      .state = EXEC_GREETING, .kind = kind, .number = number, .request = request, .generation = generation};
  const char *refusal;
  long keep = kind == EXEC_PROCESS ? json_get(doc, 0, "keep") : -1;
  json_integer(doc, json_get(doc, 0, "timeout_ms"), 1, INT64_MAX / 2, &e->timeout_ms);
  e->conn.fd = e->input = e->output[0] = e->output[1] = e->report = -1;
  if (keep >= 0 && !kept_begin(e, doc, keep, &refusal)) {
    exec_release(e);
    return control_reply_error(request, generation, "limit", refusal);
  }
  if (!copy_spec(e, doc, text_used(doc)) || !exec_open_connection(e, slot))
    exec_give_up(e, "the exec connection can not be opened");
}

static bool hello_is_right(const struct frame *f) {
  struct json_node nodes[16];
  struct json doc = {.nodes = nodes, .room = 16};
  int64_t protocol;
  return f->type == FRAME_HELLO && json_parse(&doc, (char *)f->payload, f->length) &&
         json_integer(&doc, json_get(&doc, 0, "protocol"), PROTOCOL, PROTOCOL, &protocol);
}

static void answer_reattach(struct exec *e) {
  if (e->kept && e->kept->asked) control_reply_pid(e->request, e->generation, e->pid);
  if (e->kept) e->kept->asked = false;
}

/* False closes the connection. */
static bool handle(struct exec *e, const struct frame *f) {
  if (f->type == FRAME_CLOSE && e->kept && e->conn.greeted) kept_close(e);
  if (f->type == FRAME_CLOSE) return false;
  if (!e->conn.greeted) {
    if (!hello_is_right(f)) return false;
    e->conn.greeted = true;
    if (e->state != EXEC_GREETING && e->state != EXEC_STARTING) answer_reattach(e);
    if (e->state != EXEC_GREETING) return true;
    struct spawn_report why = {0};
    e->state = EXEC_STARTING;
    if (!(e->kind == EXEC_DIAL ? dialer_start(e, &why) : spawn(e, &why))) fail(e, &why);
    return true;
  }
  if (f->type == FRAME_DATA && f->stream == 0) return e->state == EXEC_FLUSHING || pump_input(e, f->payload, f->length);
  if (f->type == FRAME_EOF && f->stream == 0) return e->input_eof = true;
  if (f->type == FRAME_ACK && f->stream == 1 && e->kept) return kept_acknowledge(e, frame_u32(f->payload));
  return false;
}

static bool service_connection(struct exec *e, short revents) {
  struct frame f;
  long n;
  if (!conn_service(&e->conn, revents)) return false;
  while (e->conn.state == CONN_OPEN && (n = conn_frame(&e->conn, &f)) != FRAME_INCOMPLETE) {
    if (n == FRAME_MALFORMED || !handle(e, &f)) return false;
    if (e->state == EXEC_FREE) return true;
    conn_consume(&e->conn, (size_t)n);
  }
  return true;
}

static void read_report(struct exec *e) {
  struct spawn_report why;
  ssize_t n = read(e->report, &why, sizeof why);
  if (n < 0) return;
  close_fd(&e->report);
  if (n == (ssize_t)sizeof why) return fail(e, &why);
  e->state = EXEC_RUNNING;
  if (e->reaped) e->deadline = now_ms() + LINGER_MS;
  if (e->timeout_ms) e->timeout_at = now_ms() + e->timeout_ms;
  if (e->kept) e->kept->asked = false;
  control_reply_pid(e->request, e->generation, e->pid);
}

static void read_connection(struct exec *e) {
  struct spawn_report why = {0};
  if (!dialer_continue(e, &why)) return fail(e, &why);
  if (e->state == EXEC_RUNNING) control_reply_pid(e->request, e->generation, 0);
}

static void time_out(struct exec *e) {
  e->timed_out = true;
  session_kill(e->pid);
}

/* A dialled connection has the status 0 of one that ended well, or says that it was reset. */
static void say_end(struct exec *e, struct text *json) {
  bool exited = WIFEXITED(e->status);
  if (e->reset) return text_add(json, "{\"error\":\"reset\",\"message\":\"the connection was reset\"}");
  if (e->kept && e->kept->failed) return say_error(json, &e->kept->why);
  text_add(json, exited ? "{\"code\":" : "{\"signal\":");
  text_int(json, exited ? WEXITSTATUS(e->status) : WTERMSIG(e->status));
  text_add(json, e->timed_out ? ",\"timeout\":true}" : "}");
}

static void finish(struct exec *e) {
  char buffer[1024];
  struct text json = TEXT_IN(buffer);
  say_end(e, &json);
  close_process(e);
  e->state = EXEC_FLUSHING;
  if (!conn_send_text(&e->conn, FRAME_EXIT, &json)) exec_release(e);
}

void exec_poll(struct exec *e, struct pollfd polls[EXEC_POLLS], int *timeout) {
  for (int i = 0; i < EXEC_POLLS; i++) polls[i] = (struct pollfd){.fd = -1};
  if (e->state == EXEC_FREE || e->state == EXEC_DYING) return;
  conn_poll(&e->conn, &polls[0], true, timeout);
  if (is_greeting(e)) {
    timer_at(timeout, e->greet_by);
    if (agent.channel == CHANNEL_VIRTIO && e->conn.state == CONN_OPEN) timer_at(timeout, e->greet_at);
  }
  if (e->report >= 0) polls[1] = (struct pollfd){e->report, POLLIN, 0};
  if (e->kind == EXEC_DIAL && e->state == EXEC_STARTING) {
    polls[2] = (struct pollfd){e->input, POLLOUT, 0};
    timer_at(timeout, e->deadline);
  }
  if (e->state != EXEC_RUNNING) return;
  if (e->reaped && !e->draining) timer_at(timeout, e->deadline);
  if (e->timeout_at && !e->reaped && !e->timed_out) timer_at(timeout, e->timeout_at);
  pump_poll(e, polls + 2, timeout);
  if (e->kept) kept_poll(e, timeout);
}

static bool is_over(const struct exec *e) {
  if (e->kind == EXEC_DIAL) return dialer_over(e);
  return (e->kept && e->kept->failed) || (e->reaped && e->output[0] < 0 && e->output[1] < 0);
}

void exec_service(struct exec *e, const struct pollfd polls[EXEC_POLLS]) {
  if (e->state == EXEC_FREE || e->state == EXEC_DYING) return;
  if (!service_connection(e, polls[0].revents)) return exec_give_up(e, "the exec connection broke");
  if (e->state == EXEC_FREE) return;
  if (is_greeting(e)) {
    if (now_ms() >= e->greet_by) return exec_give_up(e, "the host did not say hello in time");
    greet_again(e);
  }
  if (e->report >= 0 && polls[1].revents) read_report(e);
  if (e->kind == EXEC_DIAL && e->state == EXEC_STARTING) read_connection(e);
  if (e->state != EXEC_RUNNING) return;
  if (e->timeout_at && !e->reaped && !e->timed_out && now_ms() >= e->timeout_at) time_out(e);
  pump(e, polls + 2);
  bool given = !e->kept || kept_send(e), over = is_over(e);
  if (over) e->draining = true;
  if (over && given) finish(e);
}

void exec_reaped(pid_t pid, int status) {
  for (int i = 0; i < EXEC_MAX; i++) {
    struct exec *e = &execs[i];
    if (e->state == EXEC_FREE || e->pid != pid || e->reaped) continue;
    e->reaped = true;
    e->status = status;
    e->deadline = now_ms() + LINGER_MS;
    if (e->state == EXEC_DYING) e->state = EXEC_FREE;
    return;
  }
}

int exec_living(void) {
  int living = 0;
  for (int i = 0; i < EXEC_MAX; i++) living += execs[i].state != EXEC_FREE && execs[i].pid > 0 && !execs[i].reaped;
  return living;
}

void exec_signal_all(int signal) {
  for (int i = 0; i < EXEC_MAX; i++)
    if (execs[i].state != EXEC_FREE && execs[i].pid > 0 && !execs[i].reaped) kill(-execs[i].pid, signal);
}

static bool has_last_words(const struct exec *e) {
  if (e->kind == EXEC_DIAL || e->conn.state != CONN_OPEN || !e->conn.greeted) return false;
  return e->state == EXEC_RUNNING || (e->state == EXEC_FLUSHING && (e->conn.out_length || e->kept));
}

void exec_farewell(int64_t ms) {
  bool waiting = true;
  for (int64_t until = now_ms() + ms; waiting && now_ms() < until;) {
    waiting = false;
    for (int i = 0; i < EXEC_MAX; i++) {
      struct pollfd polls[EXEC_POLLS];
      int timeout = -1;
      if (!has_last_words(&execs[i])) continue;
      exec_poll(&execs[i], polls, &timeout);
      poll(polls, EXEC_POLLS, 0);
      exec_service(&execs[i], polls);
      waiting |= has_last_words(&execs[i]);
    }
    if (waiting) poll(NULL, 0, FAREWELL_LOOK_MS);
  }
}
