/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls directly: in libpsp-genl.so, read and the like are the program's, and none of this
 * may be a point of cancellation. So it works in any thread of any program, and allocates nothing.
 * The kernel says who listens (SO_PEERCRED); in a user namespace that does not know a user he looks
 * like `overflowuid`, and so does everybody else it does not know. Where /proc does not tell,
 * nobody is known by that number.
 */
#include "netlink/trusted_peer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { kOverflowUid = 65534 }; /* the kernel's default */

/* read_start reads up to `room` - 1 octets of a file of /proc; false: it does not tell. */
static bool read_start(const char* path, char* text, size_t room) {
  const int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const long got = syscall(SYS_read, fd, text, room - 1);
  (void)syscall(SYS_close, fd);
  if (got <= 0) return false;
  text[got] = '\0';
  return true;
}

uid_t psp_stranger_uid(void) {
  const int saved = errno;
  char text[128];
  unsigned long first[3] = {1, 1, 1};
  if (read_start("/proc/self/uid_map", text, sizeof text)) {
    char* at = text;
    for (int i = 0; i < 3; i++) first[i] = strtoul(at, &at, 10);
  }
  const bool knows_all = first[0] == 0 && first[1] == 0 && first[2] == 4294967295UL;
  uid_t stranger = kOverflowUid;
  if (read_start("/proc/sys/kernel/overflowuid", text, sizeof text))
    stranger = (uid_t)strtoul(text, NULL, 10);
  errno = saved;
  return knows_all ? (uid_t)-1 : stranger;
}

bool psp_peer_trusted(int fd, uid_t* peer) {
  struct ucred who;
  socklen_t size = sizeof who;
  *peer = (uid_t)-1;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0) return false;
  *peer = who.uid;
  return psp_uid_trusted(who.uid, geteuid(), psp_stranger_uid());
}
