/* Runs a command and appends one JSON line about it to a file: milliseconds to the first byte of its stdout and to its end,
 * exit code, peak memory and processor time of it and of the children that it waited for. Passes its output on unchanged and
 * says the line on stderr, too.
 *
 * A command that takes longer than TIMER_MS (default: for ever) is killed and counts as failed: emulated guests can get stuck.
 * So is one that takes longer than TIMER_REAL_S by the real-time clock: on the instruction clock, a guest that spins in "pause"
 * takes minutes for a second.
 *
 * usage: timer LABEL FILE COMMAND [ARG...]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void write_all(const char *data, ssize_t left) {
  while (left > 0) {
    ssize_t n = write(1, data, (size_t)left);
    if (n < 0 && errno != EINTR) return;
    if (n > 0) data += n, left -= n;
  }
}

/* Seconds of the real-time clock, which follows the host's in an emulated machine; 0 where there is none. */
static long real_s(void) {
  long seconds = 0;
  FILE *file = fopen("/sys/class/rtc/rtc0/since_epoch", "r");
  if (!file) return 0;
  if (fscanf(file, "%ld", &seconds) != 1) seconds = 0;
  fclose(file);
  return seconds;
}

static double cpu_ms(struct timeval t) { return (double)t.tv_sec * 1e3 + (double)t.tv_usec / 1e3; }

int main(int argc, char **argv) {
  if (argc < 4) return fprintf(stderr, "usage: timer LABEL FILE COMMAND [ARG...]\n"), 2;
  int out[2];
  if (pipe(out) != 0) return perror("pipe"), 2;
  const char *limit = getenv("TIMER_MS");
  double deadline = limit && *limit ? atof(limit) : 1e12;
  const char *real = getenv("TIMER_REAL_S");
  long real_limit = real && *real ? atol(real) : 0, real_began = real_limit > 0 ? real_s() : 0;
  double began = now_ms(), first = -1;
  pid_t pid = fork();
  if (pid < 0) return perror("fork"), 2;
  if (pid == 0) {
    setpgid(0, 0);
    dup2(out[1], 1);
    close(out[0]);
    close(out[1]);
    execvp(argv[3], argv + 3);
    perror(argv[3]);
    _exit(127);
  }
  close(out[1]);
  char buffer[65536];
  int status = 0, ended = 0, turns = 0;
  struct rusage used;
  double exited = -1;
  /* Something that outlives the command may keep the pipe open, so its end is looked for, too. */
  while (!ended) {
    if (now_ms() - began > deadline) kill(-pid, SIGKILL), deadline = 1e12;
    /* Every 50th turn, a quarter of a second: a look costs the command some microseconds. */
    if (real_began > 0 && deadline < 1e12 && ++turns % 50 == 0 && real_s() - real_began > real_limit) deadline = 0;
    struct pollfd ready = {out[0], POLLIN, 0};
    int got = poll(&ready, 1, out[0] < 0 ? 1 : 5);
    if (got > 0) {
      ssize_t n = read(out[0], buffer, sizeof buffer);
      if (n > 0) {
        if (first < 0) first = now_ms() - began;
        write_all(buffer, n);
        continue;
      }
      close(out[0]);
      out[0] = -1;
      /* The writer has closed it: its end is near, wait for it without the delay of a poll. */
      if (wait4(pid, &status, deadline < 1e12 ? WNOHANG : 0, &used) == pid) exited = now_ms() - began, ended = 1;
      continue;
    }
    if (wait4(pid, &status, WNOHANG, &used) == pid) exited = now_ms() - began, ended = 1;
  }
  int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  FILE *file = fopen(argv[2], "a");
  if (!file) return perror(argv[2]), 2;
  char line[256];
  snprintf(line, sizeof line, "{\"label\":\"%s\",\"first\":%.2f,\"exit\":%.2f,\"code\":%d,\"rssKb\":%ld,\"cpu\":%.1f}\n", argv[1], first,
          exited, code, used.ru_maxrss, cpu_ms(used.ru_utime) + cpu_ms(used.ru_stime));
  fputs(line, file);
  fclose(file);
  fputs(line, stderr);
  return code;
}
