/* Life of the control connection and its requests. A connection that breaks is opened again for ever. */
#include "control.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "boot.h"
#include "dialer.h"
#include "exec.h"
#include "files.h"
#include "kept.h"
#include "limits.h"
#include "power.h"
#include "stats.h"

enum {
  NODE_MAX = 16384,
  OUT_ROOM = 1 << 20,
  OUT_BUSY = 1 << 18, /* requests wait while this much is unread by the host */
  EAGER_TRIES = 400,  /* while the machine boots, the channel's device may appear at any moment */
  EAGER_MS = 5,
  NONCE_MAX = 64,
  PATIENCE_MIN_MS = 1000,
  PATIENCE_MAX_MS = 16000,
  SYNC_MAX = 8,
};

static struct syncing {
  pid_t pid; /* 0: free */
  int64_t request;
  uint32_t generation;
} syncs[SYNC_MAX];

static struct conn control = {.fd = -1};
static struct json_node nodes[NODE_MAX];
static uint32_t generation;
static int64_t retry_at;
/* libkrun accepts a connection that nobody on the host listens for, and such a one never ends: silence ends it here. */
static int64_t answer_by;
static int64_t patience = PATIENCE_MIN_MS;
static int tries;
static bool farewell;
static char last_nonce[NONCE_MAX + 1];

static void reply(int64_t request, uint32_t asked_on, const char *ok, struct text *fields) {
  char buffer[4096];
  struct text json = TEXT_IN(buffer);
  if (asked_on != generation) return;
  text_add(&json, "{\"id\":");
  text_int(&json, request);
  text_add(&json, ok);
  if (fields && fields->length) {
    text_add(&json, ",");
    text_bytes(&json, fields->at, fields->length);
  }
  text_add(&json, "}");
  conn_send_text(&control, FRAME_RESPONSE, &json);
}

void control_reply_ok(int64_t request, uint32_t asked_on, struct text *fields) {
  reply(request, asked_on, ",\"ok\":true", fields);
}

void control_reply_error(int64_t request, uint32_t asked_on, const char *error, const char *message) {
  char buffer[2048];
  struct text fields = TEXT_IN(buffer);
  text_add(&fields, "\"error\":");
  text_quoted(&fields, error);
  text_add(&fields, ",\"message\":");
  text_quoted(&fields, message);
  reply(request, asked_on, ",\"ok\":false", &fields);
}

void control_reply_pid(int64_t request, uint32_t asked_on, int64_t pid) {
  char buffer[40];
  struct text fields = TEXT_IN(buffer);
  text_add(&fields, "\"pid\":");
  text_int(&fields, pid);
  control_reply_ok(request, asked_on, &fields);
}

void control_slot_free(int slot) {
  char buffer[64];
  struct text json = TEXT_IN(buffer);
  text_add(&json, "{\"event\":\"slot_free\",\"slot\":");
  text_int(&json, slot);
  text_add(&json, "}");
  conn_send_text(&control, FRAME_EVENT, &json);
}

static bool greet(const char *nonce) {
  char buffer[512];
  struct text json = TEXT_IN(buffer);
  text_add(&json, "{\"protocol\":1,\"kind\":\"control\",\"agent\":\"" AGENT_VERSION "\",\"booted\":");
  text_add(&json, agent.booted ? "true" : "false");
  text_add(&json, ",\"features\":[\"keep\"],\"uptime_us\":");
  text_int(&json, now_us());
  if (nonce) {
    text_add(&json, ",\"re\":");
    text_quoted(&json, nonce);
  }
  text_add(&json, "}");
  return conn_send_text(&control, FRAME_HELLO, &json);
}

/* A virtio port is one pipe for every host process that ever opens it: a HELLO with a nonce starts anew. */
static bool hear_hello(const struct json *doc) {
  int64_t protocol;
  if (!json_integer(doc, json_get(doc, 0, "protocol"), PROTOCOL, PROTOCOL, &protocol)) {
    agent_log("the host speaks another version of the guest channel", "");
    return false;
  }
  const char *nonce = json_string(doc, json_get(doc, 0, "nonce"));
  bool greeted = control.greeted;
  control.greeted = true;
  patience = PATIENCE_MIN_MS;
  if (!nonce || strlen(nonce) > NONCE_MAX) return !greeted;
  if (greeted && strcmp(nonce, last_nonce) != 0) generation++;
  strcpy(last_nonce, nonce);
  return greet(nonce);
}

static bool strings_only(const struct json *doc, long array, bool pairs) {
  if (!json_is(doc, array, JSON_ARRAY)) return false;
  for (uint32_t i = (uint32_t)array + 1; i < doc->nodes[array].end; i = doc->nodes[i].end) {
    const char *s = json_string(doc, i);
    if (!s || (pairs && (!strchr(s, '=') || *s == '='))) return false;
  }
  return true;
}

static bool op_exec(const struct json *doc, int64_t id) {
  int64_t number, slot = 0, size;
  long argv = json_get(doc, 0, "argv"), env = json_get(doc, 0, "env"), tty = json_get(doc, 0, "tty");
  const char *cwd = json_string(doc, json_get(doc, 0, "cwd"));
  json_integer(doc, json_get(doc, 0, "slot"), 1, SLOT_MAX - 1, &slot);
  bool sized = json_is(doc, tty, JSON_OBJECT) && json_integer(doc, json_get(doc, tty, "cols"), 0, 65535, &size) &&
               json_integer(doc, json_get(doc, tty, "rows"), 0, 65535, &size);
  bool good = json_integer(doc, json_get(doc, 0, "exec"), 0, UINT32_MAX, &number) && strings_only(doc, argv, false) &&
              doc->nodes[argv].count > 0 && *json_string(doc, argv + 1) && (env < 0 || strings_only(doc, env, true)) &&
              (!cwd || *cwd == '/') && (tty < 0 || json_is(doc, tty, JSON_NULL) || sized) &&
              limits_are_sound(doc, json_get(doc, 0, "rlimits")) && kept_is_sound(doc, json_get(doc, 0, "keep"));
  if (!good || (agent.channel == CHANNEL_VIRTIO && slot == 0)) return false;
  exec_request(doc, EXEC_PROCESS, (uint32_t)number, (int)slot, id, generation);
  return true;
}

static bool op_file(const struct json *doc, int64_t id) { return files_op(doc, id, generation); }

static bool op_reattach(const struct json *doc, int64_t id) { return kept_op(doc, id, generation); }

static bool op_dial(const struct json *doc, int64_t id) { return dialer_op(doc, id, generation); }

static struct exec *running_exec(const struct json *doc) {
  int64_t number;
  if (!json_integer(doc, json_get(doc, 0, "exec"), 0, UINT32_MAX, &number)) return NULL;
  struct exec *e = exec_find((uint32_t)number);
  return e && e->pid > 0 && !e->reaped && e->state == EXEC_RUNNING ? e : NULL;
}

static bool op_signal(const struct json *doc, int64_t id) {
  int64_t signal;
  if (!json_integer(doc, json_get(doc, 0, "signal"), 1, 64, &signal)) return false;
  struct exec *e = running_exec(doc);
  if (!e) return control_reply_error(id, generation, "not_running", "no such process"), true;
  bool group = !json_is(doc, json_get(doc, 0, "group"), JSON_FALSE);
  if (kill(group ? -e->pid : e->pid, (int)signal) < 0)
    return control_reply_error(id, generation, "failed", strerror(errno)), true;
  control_reply_ok(id, generation, NULL);
  return true;
}

static bool op_resize(const struct json *doc, int64_t id) {
  int64_t cols, rows;
  if (!json_integer(doc, json_get(doc, 0, "cols"), 0, 65535, &cols) ||
      !json_integer(doc, json_get(doc, 0, "rows"), 0, 65535, &rows))
    return false;
  struct exec *e = running_exec(doc);
  if (!e) return control_reply_error(id, generation, "not_running", "no such process"), true;
  struct winsize window = {.ws_col = (unsigned short)cols, .ws_row = (unsigned short)rows};
  if (!e->tty || e->output[0] < 0 || ioctl(e->output[0], TIOCSWINSZ, &window) < 0)
    return control_reply_error(id, generation, "no_tty", "the process has no terminal"), true;
  control_reply_ok(id, generation, NULL);
  return true;
}

static bool op_poweroff(const struct json *doc, int64_t id) {
  int64_t signal, grace;
  if (!json_integer(doc, json_get(doc, 0, "signal"), 1, 64, &signal) ||
      !json_integer(doc, json_get(doc, 0, "grace_ms"), 0, 3600000, &grace))
    return false;
  power_request((int)signal, grace, id, generation);
  return true;
}

static bool op_boot(const struct json *doc, int64_t id) {
  boot_request(doc, id, generation);
  return true;
}

static bool op_time(const struct json *doc, int64_t id) {
  if (!boot_set_clock(json_string(doc, json_get(doc, 0, "unix_ns")))) return false;
  control_reply_ok(id, generation, NULL);
  return true;
}

/* Disks may be slow: a child waits for them. */
static bool op_sync(const struct json *doc, int64_t id) {
  (void)doc;
  for (int i = 0; i < SYNC_MAX; i++) {
    if (syncs[i].pid) continue;
    pid_t pid = fork();
    if (pid == 0) {
      sync();
      _exit(0);
    }
    if (pid < 0) break;
    syncs[i] = (struct syncing){pid, id, generation};
    return true;
  }
  control_reply_error(id, generation, "limit", "too many syncs at once");
  return true;
}

bool control_has_host(void) { return control.state == CONN_OPEN && control.greeted; }

void control_reaped(pid_t pid) {
  for (int i = 0; i < SYNC_MAX; i++) {
    if (syncs[i].pid != pid) continue;
    control_reply_ok(syncs[i].request, syncs[i].generation, NULL);
    syncs[i].pid = 0;
  }
}

static bool op_ping(const struct json *doc, int64_t id) {
  (void)doc;
  control_reply_ok(id, generation, NULL);
  return true;
}

static bool op_stats(const struct json *doc, int64_t id) {
  (void)doc;
  char buffer[512];
  struct text fields = TEXT_IN(buffer);
  stats_write(&fields);
  control_reply_ok(id, generation, &fields);
  return true;
}

static void request(const struct json *doc, int64_t id) {
  static const struct {
    const char *name;
    bool (*run)(const struct json *doc, int64_t id);
  } ops[] = {{"boot", op_boot},     {"exec", op_exec}, {"signal", op_signal}, {"resize", op_resize},
             {"poweroff", op_poweroff}, {"time", op_time}, {"sync", op_sync},     {"ping", op_ping},
             {"stats", op_stats},   {"file", op_file}, {"dial", op_dial},
             {"reattach", op_reattach}};
  const char *name = json_string(doc, json_get(doc, 0, "op"));
  for (size_t i = 0; name && i < sizeof ops / sizeof *ops; i++) {
    if (strcmp(ops[i].name, name) != 0) continue;
    if (!ops[i].run(doc, id)) control_reply_error(id, generation, "bad_request", "a field is missing or wrong");
    return;
  }
  control_reply_error(id, generation, "bad_request", "unknown op");
}

/* False closes the connection. */
static bool handle(const struct frame *f) {
  struct json doc = {.nodes = nodes, .room = NODE_MAX};
  int64_t id;
  if (f->type != FRAME_HELLO && f->type != FRAME_REQUEST) return false;
  if (!json_parse(&doc, (char *)f->payload, f->length)) return false;
  if (f->type == FRAME_HELLO) return hear_hello(&doc);
  if (!control.greeted || !json_integer(&doc, json_get(&doc, 0, "id"), 0, INT64_MAX, &id)) return false;
  request(&doc, id);
  return true;
}

static void dial_control(void) {
  generation++;
  retry_at = now_ms() + (tries++ < EAGER_TRIES ? EAGER_MS : RECONNECT_MS);
  if (!conn_dial(&control, 0, FRAME_JSON_MAX, OUT_ROOM)) return;
  answer_by = now_ms() + patience;
  if (patience < PATIENCE_MAX_MS) patience *= 2;
  greet(NULL);
}

static void hang_up(void) {
  conn_close(&control);
  generation++;
  tries = EAGER_TRIES;
  retry_at = now_ms() + RECONNECT_MS;
}

static bool unanswered(void) { return agent.channel == CHANNEL_VSOCK && !control.greeted; }

void control_poll(struct pollfd *p, int *timeout) {
  *p = (struct pollfd){.fd = -1};
  if (control.state == CONN_CLOSED) return timer_at(timeout, retry_at);
  conn_poll(&control, p, control.out_length < OUT_BUSY, timeout);
  if (unanswered()) timer_at(timeout, answer_by);
}

void control_service(short revents) {
  struct frame f;
  long n;
  if (control.state == CONN_CLOSED) {
    if (!farewell && now_ms() >= retry_at) dial_control();
    return;
  }
  if (!conn_service(&control, revents) || (unanswered() && now_ms() >= answer_by)) return hang_up();
  while (control.out_length < OUT_BUSY && (n = conn_frame(&control, &f)) != FRAME_INCOMPLETE) {
    if (n == FRAME_MALFORMED || !handle(&f)) return hang_up();
    conn_consume(&control, (size_t)n);
  }
}

void control_farewell(int64_t ms) {
  farewell = true;
  for (int64_t until = now_ms() + ms; control.state == CONN_OPEN && now_ms() < until;) {
    struct pollfd p;
    int timeout = -1;
    conn_poll(&control, &p, true, &timeout);
    timer_at(&timeout, until);
    if (poll(&p, 1, timeout) > 0) control_service(p.revents);
  }
}
