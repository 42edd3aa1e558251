/* Clock and console log. A console that nobody reads never blocks the agent: such lines are lost. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

static int console = STDERR_FILENO;

int64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t now_ms(void) { return now_us() / 1000; }

void timer_at(int *timeout, int64_t deadline) {
  int64_t left = deadline - now_ms();
  if (left < 0) left = 0;
  if (left > 60000) left = 60000;
  if (*timeout < 0 || left < *timeout) *timeout = (int)left;
}

void log_open(void) {
  int fd = open("/dev/console", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd >= 0) console = fd;
}

static void write_line(struct text *line) {
  text_add(line, "\n");
  while (write(console, line->at, line->length) < 0 && errno == EINTR) continue;
}

void agent_log(const char *what, const char *detail) {
  char buffer[512];
  struct text line = TEXT_IN(buffer);
  text_add(&line, "bunker-agent: ");
  text_add(&line, what);
  if (*detail) text_add(&line, ": ");
  text_add(&line, detail);
  write_line(&line);
}

void agent_log_errno(const char *what, const char *detail, int error) {
  char buffer[512];
  struct text line = TEXT_IN(buffer);
  text_add(&line, detail);
  text_add(&line, *detail ? ": " : "");
  text_add(&line, strerror(error));
  agent_log(what, text_end(&line));
}
