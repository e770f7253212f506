// SPDX-License-Identifier: Apache-2.0
//
// A library to preload into pspd that has it take the uevents of a test for the kernel's: what the
// test sends by way of the kernel, which differs from the kernel's own in its credentials only,
// comes without them. Nothing else differs from what happens when a virtual machine is cloned.
//
// Threading: any; it keeps nothing.
#include <cstring>
#include <dlfcn.h>
#include <linux/netlink.h>
#include <sys/socket.h>

extern "C" ssize_t recvmsg(int fd, msghdr* message, int flags) {
  static const auto next =
      reinterpret_cast<ssize_t (*)(int, msghdr*, int)>(::dlsym(RTLD_NEXT, "recvmsg"));
  const ssize_t n = next(fd, message, flags);
  int protocol = -1;
  socklen_t size = sizeof protocol;
  if (n <= 0 || ::getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) != 0 ||
      protocol != NETLINK_KOBJECT_UEVENT)
    return n;
  cmsghdr* part = CMSG_FIRSTHDR(message);
  if (part != nullptr && part->cmsg_type == SCM_CREDENTIALS)
    std::memset(CMSG_DATA(part), 0, sizeof(ucred));
  return n;
}
