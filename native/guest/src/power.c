/* Ends the machine in steps: signal what was started, wait, TERM and KILL the rest, write out, answer, reboot. A second
 * request shortens the wait. The machine reboots because neither engine's machine can power off: both end at a reboot. */
#include "power.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "boot.h"
#include "control.h"
#include "exec.h"

enum { TERM_MS = 500, KILL_MS = 2000, FAREWELL_MS = 500, LIMIT_GRACE_MS = 5000, WISH_MS = 200, WISH_GRACE_MS = 500, IDLE_LOOK_MS = 1000 };

/* Words for the host, which reads them on the console when nobody asked for the end (src/actors/keeper/guestEnd.ts). */
static const char *const by_itself = "powering off by itself";

static enum { POWER_ON, POWER_WISHED, POWER_GRACE, POWER_TERM, POWER_KILL } state;
static int64_t deadline, asked;
static uint32_t asked_on;
/* For a machine that no process of the host looks after any more; with one, the host is earlier. */
static int64_t ends_at, idle_limit, used_at;

static void signal_rest(int signal) {
  if (agent.native) exec_signal_all(signal);
  else kill(-1, signal);
}

static void enter(int next, int64_t ms) {
  state = next;
  deadline = now_ms() + ms;
}

void power_limit(int64_t max_ms, int64_t idle_ms) {
  used_at = now_ms();
  ends_at = max_ms > 0 ? used_at + max_ms : 0;
  idle_limit = idle_ms;
}

void power_request(int signal, int64_t grace_ms, int64_t request, uint32_t generation) {
  asked = request;
  asked_on = generation;
  if (state > POWER_GRACE) return;
  exec_signal_all(signal);
  enter(POWER_GRACE, grace_ms);
}

/* What init takes as a wish: busybox and sysvinit (SIGUSR1 halt, SIGUSR2 poweroff, SIGTERM and SIGINT reboot), systemd (SIGRTMIN+3 to
 * +6), and the kernel's Ctrl-Alt-Del. */
static const char *wish_of(int signal) {
  if (signal == SIGUSR1 || signal == SIGRTMIN + 3) return "guest_halt";
  if (signal == SIGUSR2 || signal == SIGPWR || signal == SIGRTMIN + 4) return "guest_poweroff";
  if (signal == SIGTERM || signal == SIGINT || signal == SIGRTMIN + 5 || signal == SIGRTMIN + 6) return "guest_reboot";
  return NULL;
}

void power_watch(sigset_t *set) {
  for (int signal = 1; signal <= SIGRTMAX; signal++)
    if (wish_of(signal)) sigaddset(set, signal);
}

void power_wish(int signal) {
  const char *wish = wish_of(signal);
  if (!wish || state != POWER_ON) return;
  agent_log(by_itself, wish);
  /* The command that asked ends by itself meanwhile. */
  enter(POWER_WISHED, WISH_MS);
}

_Noreturn void power_quit(void) {
  exec_signal_all(SIGKILL);
  exit(0);
}

static _Noreturn void end(void) {
  exec_farewell(FAREWELL_MS);
  if (!agent.native) boot_unmount();
  control_reply_ok(asked, asked_on, NULL);
  control_farewell(FAREWELL_MS);
  if (agent.native) power_quit();
  reboot(RB_AUTOBOOT);
  for (;;) pause();
}

void power_poll(int *timeout) {
  if (state != POWER_ON) return timer_at(timeout, deadline);
  if (ends_at) timer_at(timeout, ends_at);
  /* Use ends without a word to us. */
  if (idle_limit) timer_at(timeout, now_ms() + IDLE_LOOK_MS);
}

static void watch_limits(void) {
  int64_t now = now_ms();
  if (idle_limit && (control_has_host() || exec_living() > 0)) used_at = now;
  bool late = ends_at && now >= ends_at, idle = idle_limit && now - used_at >= idle_limit;
  if (!late && !idle) return;
  agent_log(by_itself, late ? "max_duration_exceeded" : "idle_timeout");
  power_request(SIGTERM, LIMIT_GRACE_MS, 0, 0);
}

/* Every process of the machine is a child of the agent's, sooner or later. */
static bool no_children(void) {
  siginfo_t info;
  return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0;
}

void power_service(void) {
  if (state == POWER_ON) watch_limits();
  if (state == POWER_ON) return;
  if (state == POWER_WISHED && now_ms() >= deadline) power_request(SIGTERM, WISH_GRACE_MS, 0, 0);
  if (state == POWER_WISHED) return;
  bool childless = no_children(), late = now_ms() >= deadline;
  if (state == POWER_GRACE && (late || exec_living() == 0)) {
    if (childless) end();
    signal_rest(SIGTERM);
    enter(POWER_TERM, TERM_MS);
  } else if (state == POWER_TERM && (late || childless)) {
    if (childless) end();
    signal_rest(SIGKILL);
    enter(POWER_KILL, KILL_MS);
  } else if (state == POWER_KILL && (late || childless)) {
    if (!childless) agent_log("processes are left that can not be killed", "");
    end();
  }
}
