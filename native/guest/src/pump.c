/* Moves bytes between a process and its connection, with back pressure both ways: output is not read while the connection
 * is full, input is acknowledged when the process has it. Input for a process that closed its end is dropped and
 * acknowledged. */
#include "kept.h"
#include "pump.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

enum { EXIT_RESERVE = 1024, ACK_EVERY = 32768, QUIET_MS = 20 };

/* The end of input of a dialled connection is half of its end: its other descriptor lives on. */
static void close_input(struct exec *e) {
  if (e->input >= 0 && e->kind == EXEC_DIAL) shutdown(e->input, SHUT_WR);
  if (e->input >= 0) close(e->input);
  e->input = -1;
}

static void close_output(struct exec *e, int i) {
  close(e->output[i]);
  e->output[i] = -1;
  if (e->kind == EXEC_DIAL && !e->reset) conn_send(&e->conn, FRAME_EOF, (uint32_t)i + 1, NULL, 0);
}

/* Everything that waits is dropped: the process will never read it. */
static void lose_input(struct exec *e) {
  e->unacknowledged += (uint32_t)e->pending_length;
  e->pending_length = 0;
  e->input_lost = true;
  e->reset = e->kind == EXEC_DIAL;
  close_input(e);
}

static ssize_t write_some(struct exec *e, const uint8_t *bytes, size_t n) {
  for (;;) {
    ssize_t written = write(e->input, bytes, n);
    if (written >= 0) return written;
    if (errno == EAGAIN) return 0;
    if (errno != EINTR) return -1;
  }
}

bool pump_input(struct exec *e, const uint8_t *bytes, size_t n) {
  if (e->input_eof || n > STDIN_WINDOW - e->pending_length - e->unacknowledged) return false;
  if (e->input_lost || (e->state == EXEC_RUNNING && e->input < 0)) {
    e->unacknowledged += (uint32_t)n;
    return true;
  }
  if (!e->pending && !(e->pending = malloc(STDIN_WINDOW))) return false;
  size_t at = (e->pending_start + e->pending_length) % STDIN_WINDOW;
  size_t first = n < STDIN_WINDOW - at ? n : STDIN_WINDOW - at;
  memcpy(e->pending + at, bytes, first);
  memcpy(e->pending, bytes + first, n - first);
  e->pending_length += n;
  return true;
}

static void feed(struct exec *e) {
  while (e->pending_length && e->input >= 0) {
    size_t n = STDIN_WINDOW - e->pending_start;
    if (n > e->pending_length) n = e->pending_length;
    ssize_t written = write_some(e, e->pending + e->pending_start, n);
    if (written < 0) return lose_input(e);
    if (written == 0) return;
    e->pending_start = (e->pending_start + (size_t)written) % STDIN_WINDOW;
    e->pending_length -= (size_t)written;
    e->unacknowledged += (uint32_t)written;
  }
  if (e->pending_length && e->input < 0) lose_input(e);
  if (!e->input_eof || e->input < 0) return;
  /* A terminal has no end of file of its own: the end-of-file character stands for it. */
  if (e->tty && write_some(e, (const uint8_t *)"\004", 1) == 0) return;
  close_input(e);
}

static void acknowledge(struct exec *e) {
  uint32_t n = e->unacknowledged;
  if (n == 0 || (n < ACK_EVERY && e->pending_length) || conn_room(&e->conn) < EXIT_RESERVE || !e->conn.greeted)
    return;
  uint8_t count[4] = {(uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16), (uint8_t)(n >> 24)};
  if (conn_send(&e->conn, FRAME_ACK, 0, count, sizeof count)) e->unacknowledged = 0;
}

static bool output_fits(const struct exec *e) {
  if (e->kept) return kept_room(e) > 0;
  return conn_room((struct conn *)&e->conn) >= FRAME_DATA_MAX + EXIT_RESERVE;
}

static void read_output(struct exec *e, int i) {
  static uint8_t taken[FRAME_DATA_MAX];
  size_t n = e->kept ? kept_room(e) : FRAME_DATA_MAX;
  if (e->draining && (size_t)e->left[i] < n) n = (size_t)e->left[i];
  ssize_t got = read(e->output[i], e->kept ? taken : conn_reserve(&e->conn), n);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  /* A terminal answers EIO while no process has it open, and its process may open it again, or be about to end: to close
   * the master now would kill it with SIGHUP. */
  if (got < 0 && e->tty && !e->reaped) {
    e->quiet_until = now_ms() + QUIET_MS;
    return;
  }
  if (got < 0 && e->kind == EXEC_DIAL) e->reset = true;
  if (got <= 0) return close_output(e, i);
  if (e->kept) kept_put(e, (uint8_t)(i + 1), taken, (size_t)got);
  else conn_commit(&e->conn, FRAME_DATA, (uint32_t)i + 1, (size_t)got);
  if (e->draining && (e->left[i] -= (int)got) <= 0) close_output(e, i);
}

/* Reads no more than what is there now from outputs that outlive their process. */
static void start_draining(struct exec *e) {
  e->draining = true;
  for (int i = 0; i < 2; i++) {
    if (e->output[i] < 0) continue;
    if (ioctl(e->output[i], FIONREAD, &e->left[i]) < 0 || e->left[i] <= 0) close_output(e, i);
  }
}

void pump_poll(const struct exec *e, struct pollfd polls[3], int *timeout) {
  bool waiting = e->pending_length || e->input_eof;
  bool quiet = !e->reaped && now_ms() < e->quiet_until;
  if (quiet) timer_at(timeout, e->quiet_until);
  if (e->input >= 0 && waiting) polls[0] = (struct pollfd){e->input, POLLOUT, 0};
  for (int i = 0; i < 2; i++)
    if (e->output[i] >= 0 && output_fits(e) && !quiet) polls[1 + i] = (struct pollfd){e->output[i], POLLIN, 0};
}

void pump(struct exec *e, const struct pollfd polls[3]) {
  feed(e);
  for (int i = 0; i < 2; i++)
    if (e->output[i] >= 0 && polls[1 + i].revents && output_fits(e)) read_output(e, i);
  if (e->kept) kept_watch(e);
  if (e->reaped && !e->draining && now_ms() >= e->deadline) start_draining(e);
  acknowledge(e);
}
