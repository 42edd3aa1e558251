/* Starts a process: pipes or a terminal, then everything that can fail or block happens in the child, so that a hostile
 * file system never stops the agent. The child reports through a pipe that exec closes. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "child.h"

static void fail(struct spawn_report *why, const char *what, int error) {
  struct text at = TEXT_IN(why->message);
  strcpy(why->error, "failed");
  text_add(&at, what);
  text_add(&at, ": ");
  text_add(&at, strerror(error));
  text_end(&at);
}

static bool no_wait(int fd) { return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0; }

/* A terminal whose master is ours; the child gets the other side. */
static bool open_terminal(struct exec *e, struct plan *plan, long size) {
  int64_t cols = 80, rows = 24;
  json_integer(&e->spec, json_get(&e->spec, size, "cols"), 0, 65535, &cols);
  json_integer(&e->spec, json_get(&e->spec, size, "rows"), 0, 65535, &rows);
  int unlocked = 0, master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (master < 0) return false;
  e->output[0] = master;
  e->tty = true;
  if (ioctl(master, TIOCSPTLCK, &unlocked) < 0) return false;
  plan->stdio[0] = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (plan->stdio[0] < 0) return false;
  struct winsize window = {.ws_col = (unsigned short)cols, .ws_row = (unsigned short)rows};
  struct termios mode;
  if (tcgetattr(plan->stdio[0], &mode) == 0) {
    mode.c_iflag |= IUTF8;
    tcsetattr(plan->stdio[0], TCSANOW, &mode);
  }
  ioctl(master, TIOCSWINSZ, &window);
  plan->terminal = true;
  return (e->input = fcntl(master, F_DUPFD_CLOEXEC, 3)) >= 0;
}

static bool open_pipes(struct exec *e, struct plan *plan) {
  int ends[2];
  if (json_is(&e->spec, json_get(&e->spec, 0, "stdin"), JSON_TRUE)) {
    if (pipe2(ends, O_CLOEXEC) < 0) return false;
    plan->stdio[0] = ends[0];
    e->input = ends[1];
    if (!no_wait(e->input)) return false;
  } else {
    plan->stdio[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (plan->stdio[0] < 0) return false;
  }
  for (int i = 0; i < 2; i++) {
    if (pipe2(ends, O_CLOEXEC) < 0) return false;
    e->output[i] = ends[0];
    plan->stdio[1 + i] = ends[1];
    if (!no_wait(e->output[i])) return false;
  }
  return true;
}

/* A NULL-terminated array of the strings in the JSON array; it points into the specification. */
static char **strings(const struct json *doc, long array, size_t spare) {
  uint32_t n = array < 0 ? 0 : doc->nodes[array].count;
  char **list = calloc(n + spare + 1, sizeof *list);
  for (uint32_t i = 0; list && i < n; i++) list[i] = (char *)json_string(doc, array + 1 + (long)i);
  return list;
}

static bool open_all(struct exec *e, struct plan *plan, int report[2]) {
  long tty = json_get(&e->spec, 0, "tty");
  plan->argv = strings(&e->spec, json_get(&e->spec, 0, "argv"), 0);
  plan->env = strings(&e->spec, json_get(&e->spec, 0, "env"), PLAN_ENV_SPARE);
  plan->cwd = json_string(&e->spec, json_get(&e->spec, 0, "cwd"));
  plan->make_cwd = json_is(&e->spec, json_get(&e->spec, 0, "make_cwd"), JSON_TRUE);
  plan->spec = &e->spec;
  plan->files = e->kind == EXEC_FILE;
  plan->user = json_string(&e->spec, json_get(&e->spec, 0, "user"));
  if (!plan->argv || !plan->env) return false;
  if (!(json_is(&e->spec, tty, JSON_OBJECT) ? open_terminal(e, plan, tty) : open_pipes(e, plan))) return false;
  if (pipe2(report, O_CLOEXEC) < 0) return false;
  e->report = report[0];
  return no_wait(e->report);
}

bool spawn(struct exec *e, struct spawn_report *why) {
  struct plan plan = {.stdio = {-1, -1, -1}};
  int report[2] = {-1, -1};
  bool ok = open_all(e, &plan, report);
  if (!ok) fail(why, "no pipes or terminal for the process", errno);
  if (ok) {
    plan.report = report[1];
    e->pid = fork();
    if (e->pid == 0) child_run(&plan);
    ok = e->pid > 0;
    if (!ok) fail(why, "fork", errno);
  }
  for (int i = 0; i < 3; i++)
    if (plan.stdio[i] >= 0) close(plan.stdio[i]);
  if (report[1] >= 0) close(report[1]);
  free(plan.argv);
  free(plan.env);
  if (ok) {
    free(e->spec.text);
    free(e->spec.nodes);
    e->spec = (struct json){0};
  }
  return ok;
}
