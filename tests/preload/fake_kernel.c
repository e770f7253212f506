/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kernel that has the `psp` family, as far as a lookup can see: preloaded behind libpsp-genl.so,
 * it takes the place of the system calls.
 */
#include <dlfcn.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int asked = -1; /* the descriptor whose answer is due */
static struct nlmsghdr question;

static int is_lookup(const void* octets, size_t size) {
  struct nlmsghdr header;
  if (size < sizeof header) return 0;
  memcpy(&header, octets, sizeof header);
  return header.nlmsg_type == GENL_ID_CTRL && memmem(octets, size, "psp", 4) != NULL;
}

static ssize_t take(int fd, const void* octets, size_t size) {
  asked = fd;
  memcpy(&question, octets, sizeof question);
  return (ssize_t)size;
}

ssize_t send(int fd, const void* octets, size_t size, int flags) {
  if (is_lookup(octets, size)) return take(fd, octets, size);
  return syscall(SYS_sendto, fd, octets, size, flags, NULL, 0);
}

ssize_t sendmsg(int fd, const struct msghdr* message, int flags) {
  if (message->msg_iovlen == 1 &&
      is_lookup(message->msg_iov[0].iov_base, message->msg_iov[0].iov_len))
    return take(fd, message->msg_iov[0].iov_base, message->msg_iov[0].iov_len);
  return syscall(SYS_sendmsg, fd, message, flags);
}

static ssize_t answer(void* room, size_t size) {
  struct {
    struct nlmsghdr netlink;
    struct genlmsghdr generic;
    struct nlattr attribute;
    unsigned short id, padding;
  } reply = {.netlink = {.nlmsg_len = sizeof reply, .nlmsg_type = GENL_ID_CTRL},
             .generic = {.cmd = CTRL_CMD_NEWFAMILY, .version = 2},
             .attribute = {.nla_len = NLA_HDRLEN + 2, .nla_type = CTRL_ATTR_FAMILY_ID},
             .id = 0x19};
  reply.netlink.nlmsg_seq = question.nlmsg_seq;
  asked = -1;
  memcpy(room, &reply, size < sizeof reply ? size : sizeof reply);
  return sizeof reply;
}

ssize_t recv(int fd, void* room, size_t size, int flags) {
  if (fd == asked) return answer(room, size);
  return syscall(SYS_recvfrom, fd, room, size, flags, NULL, NULL);
}
