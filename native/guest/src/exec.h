/* What the host asked for and that has a connection of its own: processes, file operations, connections to ports. */
#pragma once
#include <sys/types.h>

#include "conn.h"
#include "json.h"

enum exec_state {
  EXEC_FREE,
  EXEC_GREETING, /* the connection opens; the process waits for the host's HELLO */
  EXEC_STARTING, /* forked; whether exec works is not known */
  EXEC_RUNNING,  /* until the process has ended and its output is read */
  EXEC_FLUSHING, /* EXIT is on its way; the connection waits for the host's CLOSE */
  EXEC_DYING,    /* the connection broke; the killed process is not reaped */
};

enum exec_kind {
  EXEC_PROCESS,
  EXEC_FILE, /* a child of the agent's that works on files; it takes and gives bytes like any process */
  EXEC_DIAL, /* a TCP connection to a port of the guest's: no process, input and output[0] are its socket */
};

/* Why a process could not start, through a pipe that closes itself when it could. */
struct spawn_report {
  char error[16];
  char message[240];
};

struct exec {
  enum exec_state state;
  enum exec_kind kind;
  struct conn conn;
  uint32_t number;
  int64_t request;         /* id to answer */
  uint32_t generation;     /* control connection to answer on */
  struct json spec;        /* copy of the request, until the process starts */
  pid_t pid;
  bool reaped, tty, input_eof, input_lost, draining;
  bool timed_out; /* killed because its time was up */
  bool reset;     /* of a dialled connection: the service has ended it without its end of file */
  int status;
  int input, output[2], report;
  int left[2];             /* bytes still read from outputs that a background child keeps open */
  uint8_t *pending;        /* ring of STDIN_WINDOW bytes towards the process */
  size_t pending_start, pending_length;
  uint32_t unacknowledged;
  int64_t deadline;
  int64_t greet_by;        /* the host's HELLO must have come */
  struct kept *kept;       /* NULL: it ends with its connection */
  int64_t timeout_ms;      /* 0: as long as it likes */
  int64_t timeout_at;
  int64_t greet_at;        /* of a virtio slot: HELLO is said again then */
  int64_t quiet_until;     /* a terminal that no process has open is looked at again then */
};

enum { EXEC_POLLS = 5, EXEC_JSON_MAX = 65536 };

extern struct exec execs[EXEC_MAX];

/** Takes an exec request that is known to be well-formed; answers it now or later through control_reply. */
void exec_request(const struct json *doc, enum exec_kind kind, uint32_t number, int slot, int64_t request,
                  uint32_t generation);
struct exec *exec_find(uint32_t number);
/** How many places at the start of `execs` may be in use. */
int exec_used(void);
void exec_poll(struct exec *e, struct pollfd polls[EXEC_POLLS], int *timeout);
void exec_service(struct exec *e, const struct pollfd polls[EXEC_POLLS]);
void exec_reaped(pid_t pid, int status);
/** Opens the connection of an exec and says hello on it; false when that is hopeless. */
bool exec_open_connection(struct exec *e, int slot);
void exec_close_connection(struct exec *e);
/** Makes a virtio slot free for its newest exec: the host that held it before is gone. */
void exec_take_slot(int slot);
/** Ends what has lost its connection, unless it is kept. */
void exec_give_up(struct exec *e, const char *why);
void exec_release(struct exec *e);
/** How many processes that were asked for have not ended. */
int exec_living(void);
/** Moves their last words for at most `ms`; of kept ones, until the host has their end. */
void exec_farewell(int64_t ms);
/** Sends a signal to the process group of each of them. */
void exec_signal_all(int signal);

/** Starts the process of `e->spec`: false with a filled report when it does not even fork. */
bool spawn(struct exec *e, struct spawn_report *why);
/** Kills a process, its group and every process of its session. */
void session_kill(pid_t leader);
