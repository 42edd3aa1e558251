/* PID 1 of a sandbox: one thread, one poll loop, no peer that can stop it. Reaps every orphan. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "boot.h"
#include "control.h"
#include "exec.h"
#include "power.h"

struct agent agent;

static struct pollfd polls[2 + EXEC_MAX * EXEC_POLLS];

static bool choose_channel(void) {
  const char *channel = getenv("BUNKER_CHANNEL");
  if (!channel) return false;
  if (strcmp(channel, "vsock") == 0) agent.channel = CHANNEL_VSOCK;
  else if (strcmp(channel, "virtio") == 0) agent.channel = CHANNEL_VIRTIO;
  else if (strncmp(channel, "unix:", 5) == 0) agent.channel = CHANNEL_UNIX, agent.unix_path = channel + 5;
  else return false;
  agent.native = agent.channel == CHANNEL_UNIX;
  return true;
}

/* Descriptors 0 to 2 are always open, so that no connection ever gets one of these numbers. */
static void fill_stdio(void) {
  int fd;
  while ((fd = open("/dev/null", O_RDWR)) >= 0 && fd <= 2) continue;
  if (fd > 2) close(fd);
}

static int watch_children(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  if (agent.native) sigaddset(&set, SIGTERM);
  else power_watch(&set);
  sigprocmask(SIG_SETMASK, &set, NULL);
  signal(SIGPIPE, SIG_IGN);
  return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void reap(int signals) {
  struct signalfd_siginfo info;
  int status;
  pid_t pid;
  while (read(signals, &info, sizeof info) == (ssize_t)sizeof info) {
    if (!agent.native) power_wish((int)info.ssi_signo);
    else if (info.ssi_signo == SIGTERM) power_quit();
  }
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    exec_reaped(pid, status);
    control_reaped(pid);
  }
}

static void protect(void) {
  struct rlimit files = {8192, 1048576};
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd >= 0) {
    if (write(fd, "-1000", 5) < 0) agent_log_errno("oom_score_adj", "", errno);
    close(fd);
  }
  setrlimit(RLIMIT_NOFILE, &files);
}

static _Noreturn void serve(int signals) {
  for (;;) {
    int timeout = -1, n = 2, used = exec_used();
    polls[0] = (struct pollfd){signals, POLLIN, 0};
    control_poll(&polls[1], &timeout);
    for (int i = 0; i < used; i++, n += EXEC_POLLS) exec_poll(&execs[i], &polls[n], &timeout);
    power_poll(&timeout);
    if (poll(polls, (nfds_t)n, timeout) < 0) continue;
    if (polls[0].revents) reap(signals);
    for (int i = 0; i < used; i++) exec_service(&execs[i], &polls[2 + i * EXEC_POLLS]);
    /* After the execs: a request may make one whose polls are not of this round. */
    control_service(polls[1].revents);
    power_service();
  }
}

int main(void) {
  if (!choose_channel()) {
    if (getpid() != 1) {
      agent_log("this is the init of a sandbox; BUNKER_CHANNEL must be vsock, virtio or unix:PATH", "");
      return 2;
    }
    /* Better a channel that may be there than a machine that hangs. */
    agent.channel = CHANNEL_VSOCK;
  }
  if (agent.native) {
    fill_stdio();
    prctl(PR_SET_PDEATHSIG, SIGTERM);
  } else {
    boot_early();
    fill_stdio();
    log_open();
    protect();
  }
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  int signals = watch_children();
  if (signals < 0) agent_log_errno("signalfd", "", errno);
  serve(signals);
}
