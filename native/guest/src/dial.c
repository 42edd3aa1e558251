/* Opens streams to the host: vsock under libkrun, named virtio-serial ports under QEMU, a unix socket in tests. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "conn.h"

/* Kernel's struct sockaddr_vm (linux/vm_sockets.h), which musl does not ship. */
struct vsock_address {
  unsigned short family, reserved;
  unsigned port, cid;
  unsigned char zero[4];
};
enum { VSOCK_FAMILY = 40, VSOCK_HOST = 2 };

static int connect_to(int family, const void *address, socklen_t length, bool *dialling) {
  int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  if (connect(fd, address, length) == 0) return fd;
  if (errno == EINPROGRESS) {
    *dialling = true;
    return fd;
  }
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

/* Finds the device of the port called "bunker.<slot>". Names end in a newline. */
static bool port_path(int slot, struct text *path) {
  char buffer[32], name[32];
  struct text wanted = TEXT_IN(buffer);
  text_add(&wanted, "bunker.");
  text_int(&wanted, slot);
  text_add(&wanted, "\n");
  DIR *ports = opendir("/sys/class/virtio-ports");
  if (!ports) return false;
  bool found = false;
  for (struct dirent *port; !found && (port = readdir(ports));) {
    char file[320];
    struct text at = TEXT_IN(file);
    text_add(&at, port->d_name);
    text_add(&at, "/name");
    int fd = openat(dirfd(ports), text_end(&at), O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    ssize_t n = read(fd, name, sizeof name);
    close(fd);
    if (n != (ssize_t)wanted.length || memcmp(name, buffer, wanted.length) != 0) continue;
    text_add(path, "/dev/");
    text_add(path, port->d_name);
    found = true;
  }
  closedir(ports);
  return found;
}

static int open_port(int slot) {
  char buffer[300];
  struct text path = TEXT_IN(buffer);
  if (slot < 0 || slot >= SLOT_MAX || !port_path(slot, &path)) {
    errno = ENODEV;
    return -1;
  }
  return open(text_end(&path), O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

int dial(int slot, bool *dialling) {
  *dialling = false;
  if (agent.channel == CHANNEL_VIRTIO) return open_port(slot);
  if (agent.channel == CHANNEL_VSOCK) {
    struct vsock_address host = {.family = VSOCK_FAMILY, .port = CHANNEL_PORT, .cid = VSOCK_HOST};
    return connect_to(VSOCK_FAMILY, &host, sizeof host, dialling);
  }
  struct sockaddr_un path = {.sun_family = AF_UNIX};
  size_t length = strlen(agent.unix_path);
  if (length >= sizeof path.sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  memcpy(path.sun_path, agent.unix_path, length);
  return connect_to(AF_UNIX, &path, sizeof path, dialling);
}
