/* Brings up the network card: eth0, whose other end is a process of the host. Talks to nobody and chooses nothing: every address
 * comes from the boot request. Ioctls and not netlink: each is one call that says what was wrong with it. */
#include "card.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <net/route.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

#define CARD "eth0"
#define RESOLV "/etc/resolv.conf"
#define RUN_RESOLV "/run/.bunker-resolv.conf"

/* linux/ipv6.h and linux/ipv6_route.h, which can not be included beside the libc's own headers. */
struct address6 {
  struct in6_addr address;
  uint32_t bits;
  int index;
};
struct route6 {
  struct in6_addr destination, source, gateway;
  uint32_t type;
  uint16_t destination_bits, source_bits;
  uint32_t metric;
  unsigned long info;
  uint32_t flags;
  int index;
};

static void setting(const char *path, const char *value) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, value, strlen(value)) < 0) agent_log_errno("can not write", path, errno);
  if (fd >= 0) close(fd);
}

static bool card_is_there(struct text *why) {
  int64_t until = now_ms() + DEVICE_WAIT_MS;
  while (access("/sys/class/net/" CARD, F_OK) < 0) {
    if (now_ms() >= until) return text_failed(why, "network card", CARD);
    usleep(2000);
  }
  return true;
}

static void address_in(struct sockaddr *into, struct in_addr address) {
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = address};
  memcpy(into, &in, sizeof in);
}

static bool ipv4_up(int fd, const char *own, int64_t bits, const char *gateway, int64_t mtu, struct text *why) {
  struct ifreq request = {.ifr_name = CARD};
  struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
  struct in_addr address, via, none = {0}, mask = {htonl(~0u << (32 - bits))};
  if (!inet_aton(own, &address) || !inet_aton(gateway, &via)) return errno = EINVAL, text_failed(why, "network", own);
  request.ifr_mtu = (int)mtu;
  if (ioctl(fd, SIOCSIFMTU, &request) < 0) return text_failed(why, "network", "mtu");
  address_in(&request.ifr_addr, address);
  if (ioctl(fd, SIOCSIFADDR, &request) < 0) return text_failed(why, "network", own);
  address_in(&request.ifr_netmask, mask);
  if (ioctl(fd, SIOCSIFNETMASK, &request) < 0) return text_failed(why, "network", "mask");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(fd, SIOCSIFFLAGS, &request) < 0) return text_failed(why, "network", CARD);
  address_in(&route.rt_dst, none);
  address_in(&route.rt_genmask, none);
  address_in(&route.rt_gateway, via);
  if (ioctl(fd, SIOCADDRT, &route) < 0) return text_failed(why, "network", gateway);
  return true;
}

static bool ipv6_up(const char *own, int64_t bits, const char *gateway, struct text *why) {
  struct ifreq index = {.ifr_name = CARD};
  struct address6 address = {.bits = (uint32_t)bits};
  struct route6 route = {.metric = 1, .flags = RTF_UP | RTF_GATEWAY};
  int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  /* A kernel without IPv6: there is still the other. */
  if (fd < 0) return true;
  bool up = inet_pton(AF_INET6, own, &address.address) == 1 && inet_pton(AF_INET6, gateway, &route.gateway) == 1 &&
            ioctl(fd, SIOCGIFINDEX, &index) == 0;
  address.index = route.index = index.ifr_ifindex;
  up = up && ioctl(fd, SIOCSIFADDR, &address) == 0 && ioctl(fd, SIOCADDRT, &route) == 0;
  int error = errno;
  close(fd);
  return up || (errno = error, text_failed(why, "network", own));
}

bool card_up(const struct json *doc, long net, struct text *why) {
  const char *own4 = json_string(doc, json_get(doc, net, "ipv4")), *via4 = json_string(doc, json_get(doc, net, "gateway4"));
  const char *own6 = json_string(doc, json_get(doc, net, "ipv6")), *via6 = json_string(doc, json_get(doc, net, "gateway6"));
  int64_t mtu, bits4, bits6;
  if (net < 0) return true;
  if (!own4 || !via4 || !own6 || !via6 || !json_integer(doc, json_get(doc, net, "mtu"), 1280, 65535, &mtu) ||
      !json_integer(doc, json_get(doc, net, "bits4"), 1, 31, &bits4) ||
      !json_integer(doc, json_get(doc, net, "bits6"), 1, 127, &bits6))
    return errno = EINVAL, text_failed(why, "network", "a field is missing or wrong");
  if (!card_is_there(why)) return false;
  /* Its addresses are its own: looking for another owner would keep them from use for a second. */
  setting("/proc/sys/net/ipv6/conf/" CARD "/accept_dad", "0");
  setting("/proc/sys/net/ipv6/conf/" CARD "/dad_transmits", "0");
  setting("/proc/sys/net/ipv6/conf/" CARD "/accept_ra", "0");
  setting("/proc/sys/net/ipv6/conf/" CARD "/router_solicitations", "0");
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return text_failed(why, "network", "socket");
  bool up = ipv4_up(fd, own4, bits4, via4, mtu, why);
  close(fd);
  return up && ipv6_up(own6, bits6, via6, why);
}

/* A link of the image may lead below /run, which is empty at first. */
static void make_place(void) {
  char path[PATH_MAX];
  ssize_t n = readlink(RESOLV, path, sizeof path - 1);
  const char *file = RESOLV;
  if (n > 0) {
    path[n] = 0;
    file = strncmp(path, "../run/", 7) == 0 ? path + 2 : path;
    if (strncmp(file, "/run/", 5) != 0 || strstr(file, "/../")) return;
    for (char *at = strchr(file + 5, '/'); at; at = strchr(at + 1, '/')) {
      *at = 0;
      mkdir(file, 0755);
      *at = '/';
    }
  }
  int fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd >= 0) close(fd);
}

void card_resolver(const char *text) {
  int fd = open(RUN_RESOLV, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
  size_t length = strlen(text);
  if (fd < 0 || write(fd, text, length) != (ssize_t)length) agent_log_errno("can not write", RUN_RESOLV, errno);
  if (fd >= 0) close(fd);
  make_place();
  if (mount(RUN_RESOLV, RESOLV, NULL, MS_BIND, NULL) < 0) agent_log_errno("can not mount", RESOLV, errno);
  unlink(RUN_RESOLV);
}
