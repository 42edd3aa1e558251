/* The conversation with a keeper: one request, then bytes and signals both ways until the command's end. One thread, one poll
 * loop. Each way has a window, and all of it fits in here: input that nobody takes holds up neither output nor signals, and
 * output that nobody reads no signals, and no input until the guest's own buffers are full. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "../common/frame.h"
#include "../common/json.h"
#include "../common/text.h"
#include "fastpath.h"

enum {
  ANSWER_MAX = 4096,       /* longest JSON that a keeper says, in bytes */
  WINDOW = 131072,         /* bytes of frames of DATA that may be unacknowledged, each way */
  AT_ONCE = 8,             /* RWF_NOWAIT (linux/fs.h), which not every C library names */
  PIPE_PIECE = 4096,       /* what a pipe that is ready takes without blocking (pipe(7), PIPE_BUF) */
  LOOK_MS = 1000,          /* between two looks whether the keeper lives on */
  EXIT_FAILED = 125,       /* ours, by docker's habit */
  EXIT_PIPE = 128 + 13,
};

static const int passed[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

struct talk {
  int sock, signals, interrupts;
  bool input;             /* stdin has not ended */
  uint32_t in_flight;     /* bytes of frames of input that were not acknowledged */
  uint32_t written_frames; /* bytes of frames of output that are written, and not acknowledged by us */
  /* What the keeper said and is not done with: frames in their order, looked at up to `seen`. All of its window, and the small
   * frames between and after. */
  uint8_t in[WINDOW + FRAME_HEADER + FRAME_DATA_MAX + ANSWER_MAX], out[2 * (FRAME_HEADER + FRAME_DATA_MAX)];
  size_t in_length, seen, out_length, out_at;
  struct frame frame;     /* the first of `in`, when it is DATA that is being written */
  size_t frame_length, written;
  const char *name;
};
static struct talk talk;

/* Room for the few fields of an answer; its longest string is a reason. */
static char answer[ANSWER_MAX + 1];
static struct json_node nodes[32];

static bool parse(const struct frame *frame, struct json *doc) {
  if (frame->length > ANSWER_MAX) return false;
  memcpy(answer, frame->payload, frame->length);
  *doc = (struct json){.nodes = nodes, .room = sizeof nodes / sizeof *nodes};
  return json_parse(doc, answer, frame->length);
}

static int dial(const char *name) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int directory = sandbox_open(name);
  if (directory < 0) return -1;
  /* Through the descriptor: a socket's path has at most 107 bytes, a home and a name may have more. */
  snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/entry.sock", directory);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  /* A keeper whose queue is full would hold us up, not refuse us. */
  if (fd >= 0 && (fcntl(fd, F_SETFL, O_NONBLOCK) < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)) {
    close(fd);
    fd = -1;
  }
  /* What a home that is not ours says to a command is judged by the whole program. */
  struct ucred peer;
  socklen_t length = sizeof peer;
  if (fd >= 0 && (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0 || (peer.uid != geteuid() && peer.uid != 0))) {
    close(fd);
    fd = -1;
  }
  close(directory);
  return fd;
}

/* The keeper's process when that was stopped by a signal, else 0: it would answer never (proc_pid_stat(5), field 3). */
static pid_t stopped_keeper(void) {
  struct ucred peer;
  socklen_t length = sizeof peer;
  char path[64], stat[512];
  if (getsockopt(talk.sock, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0 || peer.pid <= 0) return 0;
  snprintf(path, sizeof path, "/proc/%d/stat", (int)peer.pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, stat, sizeof stat - 1);
  if (fd >= 0) close(fd);
  if (n <= 0) return 0;
  stat[n] = 0;
  const char *state = strrchr(stat, ')');
  return state && state[1] == ' ' && state[2] == 'T' ? peer.pid : 0;
}

/* Why the keeper does not answer, when that is known. */
static char still[128];

/* Waits before the keeper's first word. That takes as long as it takes, but for a keeper that stands still. */
static bool wait_for(int fd, short events) {
  struct pollfd ready = {fd, events, 0};
  int n;
  while ((n = poll(&ready, 1, LOOK_MS)) <= 0) {
    pid_t keeper = n == 0 ? stopped_keeper() : 0;
    if (keeper > 0) snprintf(still, sizeof still, "its keeper, process %d, is stopped; 'kill -CONT %d' lets it go on", (int)keeper, (int)keeper);
    if (keeper > 0 || (n < 0 && errno != EINTR)) break;
  }
  return n > 0;
}

static bool send_all(int fd, const void *bytes, size_t left) {
  for (const char *at = bytes; left > 0;) {
    ssize_t n = send(fd, at, left, MSG_NOSIGNAL);
    if (n > 0) at += n, left -= (size_t)n;
    else if (n < 0 && errno == EAGAIN ? !wait_for(fd, POLLOUT) : errno != EINTR) return false;
  }
  return true;
}

/* False when nothing more comes. */
static bool receive(void) {
  ssize_t n = recv(talk.sock, talk.in + talk.in_length, sizeof talk.in - talk.in_length, 0);
  if (n > 0) talk.in_length += (size_t)n;
  return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static void drop(size_t length) {
  talk.in_length -= length;
  talk.seen -= length < talk.seen ? length : talk.seen;
  memmove(talk.in, talk.in + length, talk.in_length);
}

/* The keeper's first word: 1 when it does what was asked, 0 when it does not, -1 when that is not known. */
static int agreed(const struct call *call) {
  uint8_t header[FRAME_HEADER];
  struct json doc;
  long taken;
  frame_header(header, FRAME_REQUEST, 0, call->length);
  if (!send_all(talk.sock, header, sizeof header) || !send_all(talk.sock, call->request, call->length)) return -1;
  while ((taken = frame_decode(talk.in, talk.in_length, ANSWER_MAX, &talk.frame)) == FRAME_INCOMPLETE)
    if (!wait_for(talk.sock, POLLIN) || !receive()) return -1;
  if (taken < 0 || talk.frame.type != FRAME_RESPONSE || !parse(&talk.frame, &doc)) return -1;
  drop((size_t)taken);
  long ok = json_get(&doc, 0, "ok");
  return json_is(&doc, ok, JSON_TRUE) ? 1 : json_is(&doc, ok, JSON_FALSE) ? 0 : -1;
}

static void queue(uint8_t type, const void *payload, uint32_t length) {
  frame_header(talk.out + talk.out_length, type, 0, length);
  if (length > 0) memcpy(talk.out + talk.out_length + FRAME_HEADER, payload, length);
  talk.out_length += FRAME_HEADER + length;
}

/* False when the keeper takes nothing more. */
static bool send_queued(void) {
  ssize_t n = send(talk.sock, talk.out + talk.out_at, talk.out_length - talk.out_at, MSG_NOSIGNAL);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  talk.out_at += (size_t)n;
  if (talk.out_at == talk.out_length) talk.out_at = talk.out_length = 0;
  return true;
}

/* Reads or writes what goes without waiting: with others at the same pipe, poll(2) promises nothing. `plain` where the kernel can
 * not say so of this file (EOPNOTSUPP), and does not wait once it is ready. */
static ssize_t at_once(long call, int fd, void *bytes, size_t length, size_t plain) {
  struct iovec piece = {bytes, length};
  ssize_t n = syscall(call, fd, &piece, 1L, -1L, -1L, (long)AT_ONCE);
  if (n >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL && errno != ESPIPE)) return n;
  return call == SYS_preadv2 ? read(fd, bytes, length) : write(fd, bytes, length < plain ? length : plain);
}

static bool has_room(void) { return talk.in_flight + FRAME_HEADER < WINDOW; }

static void read_input(void) {
  static uint8_t bytes[FRAME_DATA_MAX];
  size_t room = WINDOW - FRAME_HEADER - talk.in_flight;
  ssize_t n = at_once(SYS_preadv2, STDIN_FILENO, bytes, room < sizeof bytes ? room : sizeof bytes, 0);
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (n > 0) {
    queue(FRAME_DATA, bytes, (uint32_t)n);
    talk.in_flight += FRAME_HEADER + (uint32_t)n;
    return;
  }
  queue(FRAME_EOF, NULL, 0);
  talk.input = false;
}

static void acknowledge(void) {
  uint8_t count[4];
  for (int i = 0; i < 4; i++) count[i] = (uint8_t)(talk.written_frames >> (8 * i));
  queue(FRAME_ACK, count, sizeof count);
  talk.written_frames = 0;
}

/* Passes a signal on; the second interruption is for us: then its exit code. */
static int take_signal(void) {
  struct signalfd_siginfo info;
  char json[64];
  struct text t = TEXT_IN(json);
  if (read(talk.signals, &info, sizeof info) != sizeof info) return HAND_OVER;
  int number = (int)info.ssi_signo;
  if ((number == SIGINT || number == SIGTERM) && ++talk.interrupts > 1) return 128 + number;
  text_add(&t, "{\"signal\":");
  text_int(&t, number);
  text_add(&t, "}");
  if (talk.out_length + FRAME_HEADER + t.length <= sizeof talk.out) queue(FRAME_EVENT, json, (uint32_t)t.length);
  return HAND_OVER;
}

/* What is to be said of output that can not be written: an exit code. */
static int output_failed(void) {
  if (errno == EPIPE) return EXIT_PIPE;
  fprintf(stderr, "bunker: the output can not be written: %s\n", errno == ENOSPC ? "no space left on its disk" : strerror(errno));
  return EXIT_FAILED;
}

/* Writes as much of the DATA as goes without waiting. An exit code when the output is lost. */
static int write_output(int fd) {
  struct stat stat;
  size_t left = talk.frame.length - talk.written;
  uint8_t *bytes = talk.frame.payload + talk.written;
  bool piped = fstat(fd, &stat) == 0 && (S_ISFIFO(stat.st_mode) || S_ISSOCK(stat.st_mode));
  ssize_t n = piped ? at_once(SYS_pwritev2, fd, bytes, left, PIPE_PIECE) : write(fd, bytes, left);
  if (n < 0) return errno == EINTR || errno == EAGAIN ? HAND_OVER : fd == STDERR_FILENO ? EXIT_PIPE : output_failed();
  talk.written += (size_t)n;
  if (talk.written == talk.frame.length) {
    talk.written_frames += (uint32_t)talk.frame_length;
    drop(talk.frame_length);
    talk.frame_length = 0;
  }
  return HAND_OVER;
}

/* The command was started and its end is not known: the whole program says why. */
static _Noreturn void lost(const char *reason) {
  char *words[] = {"bunker", "__lost", (char *)talk.name, (char *)reason, NULL};
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  become_main(words);
}

/* A keeper that ends with its sandbox may be gone before its answer is: the whole program knows from the records, or asks again. */
static _Noreturn void ask_whether_ended(const struct call *call) {
  char *words[16] = {"bunker", "__ended", (char *)call->name};
  /* stop, -t, seconds, name: never more. */
  for (size_t i = 1; call->words[i] && i < 8; i++) words[2 + i] = call->words[i];
  become_main(words);
}

static const char unclear[] = "its keeper says what is not understood", vanished[] = "the connection to its keeper broke";

/* Takes what must not wait for the output before it: acknowledgements, of frames that were not looked at yet. */
static void look_ahead(void) {
  struct frame frame;
  long taken;
  while ((taken = frame_decode(talk.in + talk.seen, talk.in_length - talk.seen, ANSWER_MAX, &frame)) > 0) {
    if (frame.type != FRAME_ACK) {
      talk.seen += (size_t)taken;
      continue;
    }
    uint32_t count = frame_u32(frame.payload);
    /* A lie stays where it is, for its turn: what was said before it is written first. */
    if (count > talk.in_flight) taken = FRAME_MALFORMED;
    if (taken == FRAME_MALFORMED) break;
    talk.in_flight -= count;
    talk.in_length -= (size_t)taken;
    memmove(talk.in + talk.seen, talk.in + talk.seen + taken, talk.in_length - talk.seen);
  }
  if (taken == FRAME_MALFORMED) talk.seen = talk.in_length;
}

/* The first frame, which is whole: an exit code, or HAND_OVER to go on. */
static int handle(long taken) {
  struct json doc;
  int64_t code;
  switch (talk.frame.type) {
    case FRAME_DATA:
      if (talk.frame.stream != 1 && talk.frame.stream != 2) lost(unclear);
      talk.frame_length = (size_t)taken;
      talk.written = 0;
      return HAND_OVER;
    case FRAME_EXIT:
      if (!parse(&talk.frame, &doc)) lost(unclear);
      if (json_integer(&doc, json_get(&doc, 0, "code"), 0, 255, &code)) return (int)code;
      const char *reason = json_string(&doc, json_get(&doc, 0, "lost"));
      lost(reason ? reason : unclear);
    default: lost(unclear);
  }
}

static void catch_signals(void) {
  struct sigaction action;
  sigset_t set;
  sigemptyset(&set);
  for (size_t i = 0; i < sizeof passed / sizeof *passed; i++)
    /* What we were started to ignore (nohup) stays ignored. */
    if (sigaction(passed[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN) sigaddset(&set, passed[i]);
  sigprocmask(SIG_BLOCK, &set, NULL);
  signal(SIGPIPE, SIG_IGN);
  talk.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Bytes and signals, until the command has ended. */
static int pass(void) {
  bool ended = false; /* the keeper says no more */
  for (;;) {
    int code = HAND_OVER;
    look_ahead();
    while (talk.frame_length == 0 && code == HAND_OVER) {
      long taken = frame_decode(talk.in, talk.in_length, ANSWER_MAX, &talk.frame);
      if (taken == FRAME_MALFORMED) lost(unclear);
      if (taken == FRAME_INCOMPLETE) break;
      code = handle(taken);
    }
    if (code != HAND_OVER) return code;
    bool writing = talk.frame_length > 0, full = talk.in_length == sizeof talk.in;
    if (ended && !writing) lost(vanished);
    if (full && !writing) lost(unclear);
    if (talk.written_frames > 0 && talk.out_length == 0 && !ended) acknowledge();
    bool sending = talk.out_length > 0;
    int out = writing && talk.frame.stream == 2 ? STDERR_FILENO : STDOUT_FILENO;
    struct pollfd ready[] = {
        /* Not at all while nothing is wanted of it: its end would be reported again and again. */
        {ended || (full && !sending) ? -1 : talk.sock, (short)((full ? 0 : POLLIN) | (sending ? POLLOUT : 0)), 0},
        {talk.input && !sending && has_room() ? STDIN_FILENO : -1, POLLIN, 0},
        {talk.signals, POLLIN, 0},
        {writing ? out : -1, POLLOUT, 0},
    };
    if (poll(ready, 4, -1) < 0) {
      if (errno != EINTR) lost(strerror(errno));
      continue;
    }
    if (ready[3].revents) code = write_output(out);
    if (code == HAND_OVER && ready[2].revents) code = take_signal();
    if (code != HAND_OVER) return code;
    if (ready[1].revents) read_input();
    if (ready[0].revents & POLLOUT && !send_queued()) {
      /* It takes nothing more, and its last words may still be here. */
      talk.out_length = talk.out_at = 0;
      talk.input = false;
    }
    if (!full && ready[0].revents & (POLLIN | POLLHUP | POLLERR) && !receive()) {
      ended = true;
      talk.out_length = talk.out_at = 0;
      talk.input = false;
    }
  }
}

int call_run(const struct call *call) {
  talk.name = call->name;
  talk.sock = dial(call->name);
  if (talk.sock < 0) return HAND_OVER;
  int does = agreed(call);
  /* A command may have begun, and is not begun twice. */
  if (does < 0 && call->command) lost(*still ? still : vanished);
  if (does < 0) ask_whether_ended(call);
  if (does < 1) {
    close(talk.sock);
    return HAND_OVER;
  }
  if (!call->command) {
    signal(SIGPIPE, SIG_IGN);
    return printf("%s\n", call->name) < 0 || fflush(stdout) != 0 ? output_failed() : 0;
  }
  talk.input = call->interactive;
  catch_signals();
  return pass();
}
