/* Connects to services inside the guest, without ever waiting. The bytes are pump.c's business: both descriptors of an
 * exec of this kind are the socket. Reaches loopback only, so that the host can not be made to look around with it. */
#include "dialer.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { DIAL_MS = 20000 };

bool dialer_op(const struct json *doc, int64_t id, uint32_t generation) {
  int64_t number, slot = 0, port;
  json_integer(doc, json_get(doc, 0, "slot"), 1, SLOT_MAX - 1, &slot);
  if (!json_integer(doc, json_get(doc, 0, "exec"), 0, UINT32_MAX, &number) ||
      !json_integer(doc, json_get(doc, 0, "port"), 1, 65535, &port) || (agent.channel == CHANNEL_VIRTIO && slot == 0))
    return false;
  exec_request(doc, EXEC_DIAL, (uint32_t)number, (int)slot, id, generation);
  return true;
}

/* A socket whose connect has begun, or -1 with errno. */
static int begin(int family, int port) {
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const struct sockaddr *to = family == AF_INET ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;
  int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
  if (fd < 0) return -1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(fd, to, family == AF_INET ? sizeof v4 : sizeof v6) == 0 || errno == EINPROGRESS) return fd;
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

static bool refuse(struct spawn_report *why, int error) {
  struct text message = TEXT_IN(why->message);
  strcpy(why->error, error == ECONNREFUSED ? "refused" : "failed");
  text_add(&message, strerror(error));
  text_end(&message);
  return false;
}

static int port_of(const struct exec *e) {
  int64_t port = 0;
  json_integer(&e->spec, json_get(&e->spec, 0, "port"), 1, 65535, &port);
  return (int)port;
}

bool dialer_start(struct exec *e, struct spawn_report *why) {
  int fd = begin(AF_INET, port_of(e));
  if (fd < 0) fd = begin(AF_INET6, port_of(e));
  if (fd < 0) return refuse(why, errno);
  e->input = fd;
  e->deadline = now_ms() + DIAL_MS;
  return true;
}

static int family_of(int fd) {
  int family = AF_INET;
  socklen_t length = sizeof family;
  getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length);
  return family;
}

bool dialer_continue(struct exec *e, struct spawn_report *why) {
  struct pollfd p = {e->input, POLLOUT, 0};
  int error = 0;
  socklen_t length = sizeof error;
  if (poll(&p, 1, 0) <= 0) return now_ms() < e->deadline || refuse(why, ETIMEDOUT);
  if (getsockopt(e->input, SOL_SOCKET, SO_ERROR, &error, &length) < 0) error = errno;
  if (error) {
    bool other = family_of(e->input) == AF_INET;
    close(e->input);
    e->input = other ? begin(AF_INET6, port_of(e)) : -1;
    return e->input >= 0 || refuse(why, other ? errno : error);
  }
  e->output[0] = fcntl(e->input, F_DUPFD_CLOEXEC, 3);
  if (e->output[0] < 0) return refuse(why, errno);
  e->state = EXEC_RUNNING;
  return true;
}

bool dialer_over(const struct exec *e) { return e->reset || (e->input < 0 && e->output[0] < 0); }

void dialer_break(struct exec *e) {
  struct linger at_once = {1, 0};
  int fd = e->output[0] >= 0 ? e->output[0] : e->input;
  if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}
