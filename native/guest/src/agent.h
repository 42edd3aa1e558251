/* What the agent's parts share: limits, the clock, the log and the mode it runs in. Holds no state of a part. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "text.h"

#define AGENT_VERSION "0.1.0"
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum {
  EXEC_MAX = 256,            /* processes that were asked for and are not over */
  SLOT_MAX = 64,             /* virtio ports that are looked at */
  CHANNEL_PORT = 1024,       /* vsock port of the host */
  STDIN_WINDOW = 131072,     /* bytes of DATA towards the guest that may be unacknowledged */
  GREETING_MS = 10000,       /* how long an exec connection may take to open and to say hello */
  LINGER_MS = 200,           /* how long output of a process's children is awaited after its end */
  DEVICE_WAIT_MS = 5000,     /* how long a disk may take to appear */
  RECONNECT_MS = 100,
  REGREET_MS = 250,
};

enum channel_kind { CHANNEL_VSOCK, CHANNEL_VIRTIO, CHANNEL_UNIX };

struct agent {
  enum channel_kind channel;
  const char *unix_path; /* of CHANNEL_UNIX */
  bool native;           /* an ordinary process on a host, for tests: mounts nothing, ends by exit */
  bool booted;
};
extern struct agent agent;

int64_t now_ms(void);
int64_t now_us(void);

/** One line on the console, or on stderr of a native agent. */
void agent_log(const char *what, const char *detail);
/** The same with the text of an errno at its end. */
void agent_log_errno(const char *what, const char *detail, int error);
void log_open(void);

/** One timeout for poll: the earliest of the deadlines given to it, in milliseconds; -1 waits for ever. */
void timer_at(int *timeout, int64_t deadline);
