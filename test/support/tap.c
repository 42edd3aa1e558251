/*
 * Puts a TAP device into the network namespace that it runs in and carries its frames over descriptor 3 as both engines do: u32
 * big-endian length, then the frame. Writes "ready" to stdout when the device is up; ends when descriptor 3 does.
 * usage: tap DEVICE [LOSS REORDER DUPLICATE SEED], each in parts of 10,000, both directions
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define FRAME_MAX 65550
#define HELD 8

static unsigned loss, reorder, duplicate, seed = 1;

static unsigned chance(void) {
  seed ^= seed << 13;
  seed ^= seed >> 17;
  seed ^= seed << 5;
  return seed % 10000;
}

/* A frame that is overtaken by the next ones of its direction. */
struct held {
  unsigned char bytes[4 + FRAME_MAX];
  size_t length;
  int after;
};
static struct held up, down;
static int tap;

static void whole(int fd, const unsigned char *bytes, size_t length) {
  while (length > 0) {
    ssize_t n = write(fd, bytes, length);
    if (n < 0 && errno == EAGAIN) {
      struct pollfd p = {fd, POLLOUT, 0};
      poll(&p, 1, -1);
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else if (n <= 0) {
      exit(0);
    } else {
      bytes += n, length -= n;
    }
  }
}

static void out(int upward, const unsigned char *frame, size_t length) {
  if (upward) whole(3, frame, length);
  else if (write(tap, frame + 4, length - 4) < 0 && errno != EINVAL && errno != EAGAIN && errno != EIO) perror("tap: write");
}

static void pass(int upward, const unsigned char *frame, size_t length) {
  struct held *h = upward ? &up : &down;
  if (loss && chance() < loss) return;
  if (reorder && h->length == 0 && chance() < reorder) {
    memcpy(h->bytes, frame, length);
    h->length = length;
    h->after = 1 + chance() % 3;
    return;
  }
  out(upward, frame, length);
  if (duplicate && chance() < duplicate) out(upward, frame, length);
  if (h->length && --h->after <= 0) {
    out(upward, h->bytes, h->length);
    h->length = 0;
  }
}

int main(int argc, char **argv) {
  struct ifreq request = {0};
  if (argc < 2) return 2;
  if (argc > 5) loss = atoi(argv[2]), reorder = atoi(argv[3]), duplicate = atoi(argv[4]), seed = atoi(argv[5]) | 1;
  tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
  strncpy(request.ifr_name, argv[1], IFNAMSIZ - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  if (tap < 0 || ioctl(tap, TUNSETIFF, &request) < 0) return perror("tap: /dev/net/tun"), 1;
  fcntl(3, F_SETFL, fcntl(3, F_GETFL) | O_NONBLOCK);
  puts("ready");
  fflush(stdout);

  static unsigned char frame[4 + FRAME_MAX], stream[1 << 20];
  size_t have = 0;
  for (;;) {
    struct pollfd fds[2] = {{tap, POLLIN, 0}, {3, POLLIN, 0}};
    /* A held frame that nothing overtakes is lost to nobody: it goes out after a while. */
    if (poll(fds, 2, up.length || down.length ? 20 : -1) == 0) {
      if (up.length) out(1, up.bytes, up.length), up.length = 0;
      if (down.length) out(0, down.bytes, down.length), down.length = 0;
      continue;
    }
    for (int n = 0; (fds[0].revents & POLLIN) && n < 64; n++) {
      ssize_t length = read(tap, frame + 4, FRAME_MAX);
      if (length < 0) break;
      *(uint32_t *)frame = htonl(length);
      pass(1, frame, length + 4);
    }
    if (fds[1].revents) {
      ssize_t n = read(3, stream + have, sizeof stream - have);
      if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return 0;
      if (n > 0) have += n;
      size_t at = 0;
      while (have - at >= 4) {
        size_t length = 4 + ntohl(*(uint32_t *)(stream + at));
        if (length > 4 + FRAME_MAX) return fprintf(stderr, "tap: a frame of %zu bytes\n", length - 4), 1;
        if (have - at < length) break;
        pass(0, stream + at, length);
        at += length;
      }
      memmove(stream, stream + at, have -= at);
    }
  }
}
