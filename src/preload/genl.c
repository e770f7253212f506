/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libpsp-genl.so, preloaded into a program that was written for the kernel's `psp` family. The
 * program keeps its own NETLINK_GENERIC socket. What it sends to `psp` goes to pspd, which answers
 * by netlink to that same socket: so poll, MSG_PEEK, MSG_TRUNC, timeouts, fork, exec and dup are
 * the kernel's own, and all other families are too.
 *
 *   send, sendto, sendmsg, sendmmsg, write, writev   messages for pspd leave the stream here
 *   recv..., read, readv                             answers look as if the kernel had sent them
 *   setsockopt                                       membership in the groups of `psp`
 *   connect                                          to the kernel: would lock pspd out
 *
 * A call on any other descriptor costs one getsockopt at most: nothing that a program points to is
 * looked at before it is known that the descriptor is ours to care for, and then by psp_copy_in, so
 * that a bad pointer stays the kernel's to refuse. Where the kernel has the family, its numbers are
 * used, and each message goes to whom it concerns: the kernel, pspd, or for a list both.
 *
 * Threading: any thread, signal handlers, after fork and vfork: no state but what is atomic, no
 * locks, no memory from malloc. Never a point of cancellation where libc's function is none.
 */
#include <errno.h>
#include <linux/netlink.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <psp/netlink/uapi.h>

#include "forward.h"
#include "memory.h"
#include "message.h"
#include "next.h"

#define EXPORT __attribute__((visibility("default")))
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

enum {
  kOnStack = 4096,
  kMessagesMax = 1024,   /* UIO_MAXIOV: the most of anything that one call takes */
  kBatchMax = 256 * 1024 /* no netlink socket takes more at once */
};

/*
 * <sys/socket.h> declares sendto, recvfrom and connect with transparent unions for C, which no
 * definition in ISO C matches: these have another name here and theirs only in the object file.
 */

/* --- which descriptors ------------------------------------------------------------------ */

static bool option_is(int fd, int option, int wanted) {
  int value = -1;
  socklen_t size = sizeof value;
  return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 && value == wanted;
}

/* is_generic: fd is a NETLINK_GENERIC socket. Keeps errno. */
static bool is_generic(int fd) {
  const int saved = errno;
  const bool yes =
      option_is(fd, SO_DOMAIN, AF_NETLINK) && option_is(fd, SO_PROTOCOL, NETLINK_GENERIC);
  errno = saved;
  return yes;
}

static bool is_kernel_address(const void* name, socklen_t size) {
  struct sockaddr_nl address;
  if (size < sizeof address || !psp_copy_in(&address, name, sizeof address)) return false;
  return address.nl_family == AF_NETLINK && address.nl_pid == 0 && address.nl_groups == 0;
}

/* goes_to_kernel: what is sent on fd without or with an address is for the kernel. */
static bool goes_to_kernel(int fd, const void* name, socklen_t size) {
  struct sockaddr_nl peer = {0};
  if (name != NULL) return is_kernel_address(name, size);
  socklen_t length = sizeof peer;
  return getpeername(fd, (struct sockaddr*)&peer, &length) == 0 && is_kernel_address(&peer, length);
}

/* give_port binds fd as the kernel does at a socket's first send. */
static void give_port(int fd) {
  struct sockaddr_nl own = {0};
  socklen_t size = sizeof own;
  if (getsockname(fd, (struct sockaddr*)&own, &size) != 0 || own.nl_pid != 0) return;
  own = (struct sockaddr_nl){.nl_family = AF_NETLINK, .nl_groups = own.nl_groups};
  (void)bind(fd, (const struct sockaddr*)&own, sizeof own);
}

/* --- sending ---------------------------------------------------------------------------- */

/* Batch is one send() on a NETLINK_GENERIC socket, in one piece. */
struct batch {
  int fd;
  int flags;
  const struct msghdr* original; /* address and control data for the kernel's part; may be NULL */
  unsigned char* octets;
};

static ssize_t send_to_kernel(const struct batch* batch, size_t from, size_t to) {
  struct iovec part = {(void*)(uintptr_t)(batch->octets + from), to - from};
  struct msghdr message = {0};
  if (batch->original != NULL) message = *batch->original;
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  return psp_next()->sendmsg(batch->fd, &message, batch->flags);
}

/* forward_message hands one message to pspd. Returns 0, PSP_AWAY or an errno. */
static int forward_message(const struct batch* batch, uint16_t how, const unsigned char* message,
                           size_t size) {
  if (size > PSP_MESSAGE_MAX) return EMSGSIZE;
  give_port(batch->fd);
  return psp_forward(batch->fd, how, message, size, psp_subject_of(message, size).sock_fd);
}

/*
 * share_of says to whom a message goes that bears the kernel's number of the family: about a socket
 * to whoever has the device of its route, about a device to whose it is, for a list to both.
 */
static enum psp_route share_of(const unsigned char* message, size_t size) {
  if (psp_named()) return PSP_ROUTE_DAEMON;
  const struct psp_subject subject = psp_subject_of(message, size);
  if (subject.list) return PSP_ROUTE_BOTH;
  const bool ours = (subject.sock_fd >= 0 && psp_serves(subject.sock_fd)) ||
                    subject.dev_id >= SOFTPSP_FIRST_DEVICE;
  return ours ? PSP_ROUTE_DAEMON : PSP_ROUTE_KERNEL;
}

/* deny makes a message one for pspd's family: the kernel has none of that number, and says so. */
static void deny(unsigned char* message) {
  const uint16_t nobody = SOFTPSP_ID_PSP;
  memcpy(message + offsetof(struct nlmsghdr, nlmsg_type), &nobody, sizeof nobody);
}

/*
 * send_batch sends each message to where it belongs, in order: neighbours for the kernel in one
 * call. What pspd does not take because it is away goes to the kernel, which has the right error.
 */
static ssize_t send_batch(const struct batch* batch, size_t size, uint16_t kernel_id) {
  size_t kept = 0; /* from here on nothing is sent yet */
  size_t at = 0;
  while (at < size) {
    enum psp_route route;
    const size_t step = psp_next_message(batch->octets + at, size - at, kernel_id, &route);
    if (step == 0) break; /* the kernel would not look at the rest */
    uint16_t how = SOFTPSP_FORWARD_MESSAGE;
    if (route == PSP_ROUTE_SHARED) {
      route = share_of(batch->octets + at, step);
      how = route == PSP_ROUTE_BOTH ? SOFTPSP_FORWARD_WITHOUT_DONE : SOFTPSP_FORWARD_BESIDE;
    }
    if (route != PSP_ROUTE_KERNEL) {
      if (at > kept && send_to_kernel(batch, kept, at) < 0) return -1;
      kept = at;
      const int error = forward_message(batch, how, batch->octets + at, step);
      if (error > 0) {
        errno = error;
        return -1;
      }
      if (error == 0 && route != PSP_ROUTE_BOTH) kept = at + step;
      if (error == PSP_AWAY && how != SOFTPSP_FORWARD_MESSAGE && psp_named())
        deny(batch->octets + at);
    }
    at += step;
  }
  if (kept < size && send_to_kernel(batch, kept, size) < 0) return -1;
  return (ssize_t)size;
}

/*
 * take sends `parts` of a NETLINK_GENERIC socket if there is a message in them that is not for the
 * kernel alone. False: there is none, or not all is there, and nothing has happened.
 */
static bool take(int fd, const struct iovec* parts, size_t count, int flags,
                 const struct msghdr* original, ssize_t* result) {
  const void* name = original != NULL ? original->msg_name : NULL;
  const socklen_t name_size = original != NULL ? original->msg_namelen : 0;
  const int saved = errno;
  size_t size = 0;
  const bool may = (flags & MSG_OOB) == 0 && count <= kMessagesMax &&
                   goes_to_kernel(fd, name_size != 0 ? name : NULL, name_size) &&
                   psp_vector_size(parts, count, kBatchMax, &size) && size >= NLMSG_HDRLEN;
  errno = saved;
  if (!may) return false;
  _Alignas(struct nlmsghdr) unsigned char room[kOnStack];
  unsigned char* joined = room;
  if (size > sizeof room) {
    joined = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (joined == MAP_FAILED) return false;
  }
  const uint16_t kernel_id = psp_kernel_family().id;
  const bool ours = psp_gather(joined, size, parts, count) && psp_has_ours(joined, size, kernel_id);
  if (ours) {
    const struct batch batch = {fd, flags, original, joined};
    *result = send_batch(&batch, size, kernel_id);
  }
  explicit_bzero(joined, size); /* may hold a key */
  if (joined != room) munmap(joined, size);
  return ours;
}

static bool take_flat(int fd, const void* octets, size_t size, int flags, const void* name,
                      socklen_t name_size, ssize_t* result) {
  if (size < NLMSG_HDRLEN || !is_generic(fd)) return false;
  const struct iovec part = {(void*)(uintptr_t)octets, size};
  const struct msghdr original = {.msg_name = (void*)(uintptr_t)name, .msg_namelen = name_size};
  return take(fd, &part, 1, flags, &original, result);
}

EXPORT ssize_t write(int fd, const void* octets, size_t size) {
  ssize_t result;
  if (UNLIKELY(take_flat(fd, octets, size, 0, NULL, 0, &result))) return result;
  return psp_next()->write(fd, octets, size);
}

EXPORT ssize_t writev(int fd, const struct iovec* parts, int count) {
  ssize_t result;
  if (UNLIKELY(count > 0 && is_generic(fd)) && take(fd, parts, (size_t)count, 0, NULL, &result))
    return result;
  return psp_next()->writev(fd, parts, count);
}

EXPORT ssize_t send(int fd, const void* octets, size_t size, int flags) {
  ssize_t result;
  if (UNLIKELY(take_flat(fd, octets, size, flags, NULL, 0, &result))) return result;
  return psp_next()->send(fd, octets, size, flags);
}

EXPORT ssize_t own_sendto(int fd, const void* octets, size_t size, int flags,
                          const struct sockaddr* name, socklen_t name_size) __asm__("sendto");
ssize_t own_sendto(int fd, const void* octets, size_t size, int flags, const struct sockaddr* name,
                   socklen_t name_size) {
  ssize_t result;
  if (UNLIKELY(take_flat(fd, octets, size, flags, name, name_size, &result))) return result;
  return psp_next()->sendto(fd, octets, size, flags, name, name_size);
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr* message, int flags) {
  ssize_t result;
  struct msghdr copy;
  if (UNLIKELY(is_generic(fd)) && psp_copy_in(&copy, message, sizeof copy) &&
      take(fd, copy.msg_iov, copy.msg_iovlen, flags, &copy, &result))
    return result;
  return psp_next()->sendmsg(fd, message, flags);
}

EXPORT int sendmmsg(int fd, struct mmsghdr* messages, unsigned count, int flags) {
  if (!UNLIKELY(is_generic(fd))) return psp_next()->sendmmsg(fd, messages, count, flags);
  if (count > kMessagesMax) count = kMessagesMax;
  unsigned done = 0;
  for (; done < count; done++) {
    const ssize_t sent = sendmsg(fd, &messages[done].msg_hdr, flags);
    const unsigned length = (unsigned)sent;
    if (sent < 0 || !psp_copy_out(&messages[done].msg_len, &length, sizeof length)) break;
  }
  return done == 0 && count != 0 ? -1 : (int)done;
}

/* --- receiving -------------------------------------------------------------------------- */

/*
 * lost_some is true if what was received is pspd's sign that notifications were lost: the program
 * is told as the kernel does it, by ENOBUFS (*again: it does not want to hear of it).
 */
static bool lost_some(int fd, const void* octets, size_t room, ssize_t got, int flags,
                      bool* again) {
  *again = false;
  /* The descriptor first: TCP can be told to throw octets away, and then fills nothing in. */
  if (got != (ssize_t)NLMSG_HDRLEN || room < NLMSG_HDRLEN || !is_generic(fd) ||
      !psp_is_overrun(octets, NLMSG_HDRLEN))
    return false;
  if ((flags & MSG_PEEK) != 0) {
    char sign[NLMSG_HDRLEN];
    (void)psp_next()->recv(fd, sign, sizeof sign, MSG_DONTWAIT);
  }
  int silent = 0;
  socklen_t size = sizeof silent;
  *again = getsockopt(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &silent, &size) == 0 && silent != 0;
  errno = ENOBUFS;
  return true;
}

/* as_kernel makes pspd's port 0 in an address that was received. True: it was pspd's. */
static bool as_kernel(int fd, void* name, socklen_t size) {
  struct sockaddr_nl address;
  if (name == NULL || size < sizeof address) return false;
  memcpy(&address, name, sizeof address);
  if (address.nl_family != AF_NETLINK || address.nl_pid == 0 || !is_generic(fd) ||
      !psp_is_sender(fd, address.nl_pid))
    return false;
  address.nl_pid = 0;
  memcpy(name, &address, sizeof address);
  return true;
}

/* control_as_kernel does the same for the group and the sender's credentials. */
static void control_as_kernel(struct msghdr* message, ssize_t got) {
  const struct iovec* first = message->msg_iovlen != 0 ? message->msg_iov : NULL;
  for (struct cmsghdr* part = CMSG_FIRSTHDR(message); part != NULL;
       part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_CREDENTIALS &&
        part->cmsg_len >= CMSG_LEN(sizeof(struct ucred))) {
      memset(CMSG_DATA(part), 0, sizeof(struct ucred));
    } else if (part->cmsg_level == SOL_NETLINK && part->cmsg_type == NETLINK_PKTINFO &&
               part->cmsg_len >= CMSG_LEN(sizeof(struct nl_pktinfo)) && first != NULL) {
      const size_t held = (size_t)got < first->iov_len ? (size_t)got : first->iov_len;
      const struct psp_family kernel = psp_kernel_family();
      const struct nl_pktinfo info = {psp_notification_group(first->iov_base, held, &kernel)};
      memcpy(CMSG_DATA(part), &info, sizeof info);
    }
  }
}

/* message_as_kernel does both; `room` is how long an address the program had place for. */
static void message_as_kernel(int fd, struct msghdr* message, socklen_t room, ssize_t got) {
  const socklen_t size = message->msg_namelen < room ? message->msg_namelen : room;
  if (got >= 0 && as_kernel(fd, message->msg_name, size)) control_as_kernel(message, got);
}

EXPORT ssize_t recv(int fd, void* octets, size_t size, int flags) {
  for (bool again;;) {
    const ssize_t got = psp_next()->recv(fd, octets, size, flags);
    if (!UNLIKELY(lost_some(fd, octets, size, got, flags, &again))) return got;
    if (!again) return -1;
  }
}

EXPORT ssize_t read(int fd, void* octets, size_t size) {
  for (bool again;;) {
    const ssize_t got = psp_next()->read(fd, octets, size);
    if (!UNLIKELY(lost_some(fd, octets, size, got, 0, &again))) return got;
    if (!again) return -1;
  }
}

EXPORT ssize_t readv(int fd, const struct iovec* parts, int count) {
  for (bool again;;) {
    const ssize_t got = psp_next()->readv(fd, parts, count);
    struct iovec first;
    if (got <= 0 || !UNLIKELY(is_generic(fd)) || !psp_copy_in(&first, parts, sizeof first) ||
        !lost_some(fd, first.iov_base, first.iov_len, got, 0, &again))
      return got;
    if (!again) return -1;
  }
}

EXPORT ssize_t own_recvfrom(int fd, void* octets, size_t size, int flags, struct sockaddr* name,
                            socklen_t* name_size) __asm__("recvfrom");
ssize_t own_recvfrom(int fd, void* octets, size_t size, int flags, struct sockaddr* name,
                     socklen_t* name_size) {
  socklen_t room = 0;
  const bool named = name != NULL && name_size != NULL && is_generic(fd) &&
                     psp_copy_in(&room, name_size, sizeof room);
  for (bool again;;) {
    const ssize_t got = psp_next()->recvfrom(fd, octets, size, flags, name, name_size);
    if (UNLIKELY(lost_some(fd, octets, size, got, flags, &again))) {
      if (!again) return -1;
      if (named) *name_size = room;
      continue;
    }
    if (got >= 0 && room >= sizeof(struct sockaddr_nl)) (void)as_kernel(fd, name, *name_size);
    return got;
  }
}

EXPORT ssize_t recvmsg(int fd, struct msghdr* message, int flags) {
  struct msghdr room;
  struct iovec first = {0};
  if (!UNLIKELY(is_generic(fd)) || !psp_copy_in(&room, message, sizeof room) ||
      (room.msg_iovlen != 0 && !psp_copy_in(&first, room.msg_iov, sizeof first)))
    return psp_next()->recvmsg(fd, message, flags);
  for (bool again;;) {
    const ssize_t got = psp_next()->recvmsg(fd, message, flags);
    if (got < 0) return got;
    if (UNLIKELY(lost_some(fd, first.iov_base, first.iov_len, got, flags, &again))) {
      if (!again) return -1;
      *message = room;
      continue;
    }
    message_as_kernel(fd, message, room.msg_namelen, got);
    return got;
  }
}

EXPORT int recvmmsg(int fd, struct mmsghdr* messages, unsigned count, int flags,
                    struct timespec* timeout) {
  socklen_t rooms[kMessagesMax];
  if (!UNLIKELY(is_generic(fd))) return psp_next()->recvmmsg(fd, messages, count, flags, timeout);
  if (count > kMessagesMax) count = kMessagesMax;
  for (unsigned i = 0; i < count; i++)
    if (!psp_copy_in(&rooms[i], &messages[i].msg_hdr.msg_namelen, sizeof rooms[i])) rooms[i] = 0;
  const int got = psp_next()->recvmmsg(fd, messages, count, flags, timeout);
  for (int i = 0; i < got; i++)
    message_as_kernel(fd, &messages[i].msg_hdr, rooms[i], (ssize_t)messages[i].msg_len);
  bool again;
  /* One alone is an error; among others it stays what it is, a message of type NLMSG_OVERRUN. */
  if (got == 1 && messages[0].msg_hdr.msg_iovlen != 0 &&
      lost_some(fd, messages[0].msg_hdr.msg_iov->iov_base, messages[0].msg_hdr.msg_iov->iov_len,
                (ssize_t)messages[0].msg_len, flags, &again) &&
      !again)
    return -1;
  return got;
}

/* libc's checked variants: a size beyond the buffer's is theirs to end the program for. */
EXPORT ssize_t __read_chk(int fd, void* octets, size_t size, size_t room);
EXPORT ssize_t __read_chk(int fd, void* octets, size_t size, size_t room) {
  if (size > room && psp_next()->read_chk != NULL)
    return psp_next()->read_chk(fd, octets, size, room);
  return read(fd, octets, size);
}

EXPORT ssize_t __recv_chk(int fd, void* octets, size_t size, size_t room, int flags);
EXPORT ssize_t __recv_chk(int fd, void* octets, size_t size, size_t room, int flags) {
  if (size > room && psp_next()->recv_chk != NULL)
    return psp_next()->recv_chk(fd, octets, size, room, flags);
  return recv(fd, octets, size, flags);
}

EXPORT ssize_t __recvfrom_chk(int fd, void* octets, size_t size, size_t room, int flags,
                              struct sockaddr* name, socklen_t* name_size);
EXPORT ssize_t __recvfrom_chk(int fd, void* octets, size_t size, size_t room, int flags,
                              struct sockaddr* name, socklen_t* name_size) {
  if (size > room && psp_next()->recvfrom_chk != NULL)
    return psp_next()->recvfrom_chk(fd, octets, size, room, flags, name, name_size);
  return own_recvfrom(fd, octets, size, flags, name, name_size);
}

/* --- the rest --------------------------------------------------------------------------- */

/*
 * membership tells pspd that `fd` enters or leaves a group of the family. Returns 0, PSP_AWAY or an
 * errno; *beside: the kernel has the group too.
 */
static int membership(int fd, int option, uint32_t group, bool* beside) {
  const struct psp_family kernel = psp_kernel_family();
  *beside = kernel.id != 0 && (group == kernel.mgmt || group == kernel.use);
  if (!*beside && group != SOFTPSP_ID_GROUP_MGMT && group != SOFTPSP_ID_GROUP_USE) return PSP_AWAY;
  if (*beside) group = group == kernel.mgmt ? SOFTPSP_ID_GROUP_MGMT : SOFTPSP_ID_GROUP_USE;
  const uint32_t value[2] = {group, kernel.id};
  return psp_forward(
      fd, option == NETLINK_ADD_MEMBERSHIP ? SOFTPSP_FORWARD_JOIN : SOFTPSP_FORWARD_LEAVE, value,
      *beside ? sizeof value : sizeof group, -1);
}

EXPORT int setsockopt(int fd, int level, int option, const void* value, socklen_t size) {
  if (UNLIKELY(level == SOL_NETLINK) && size >= sizeof(uint32_t) &&
      (option == NETLINK_ADD_MEMBERSHIP || option == NETLINK_DROP_MEMBERSHIP) && is_generic(fd)) {
    uint32_t group = 0;
    bool beside = false;
    int error = psp_copy_in(&group, value, sizeof group) ? membership(fd, option, group, &beside)
                                                         : PSP_AWAY;
    if (error == PSP_AWAY && beside && psp_named()) error = ENOENT;
    if (error == 0 && (!beside || psp_named())) return 0;
    if (error > 0) {
      errno = error;
      return -1;
    }
  }
  return psp_next()->setsockopt(fd, level, option, value, size);
}

/*
 * A netlink socket that is connected to the kernel takes messages from nobody else, pspd included.
 * Unconnected it sends to the kernel as well, and getpeername says the same; what it then takes
 * could come from whoever has CAP_NET_ADMIN in its namespace.
 */
EXPORT int own_connect(int fd, const struct sockaddr* name, socklen_t size) __asm__("connect");
int own_connect(int fd, const struct sockaddr* name, socklen_t size) {
  if (UNLIKELY(is_generic(fd)) && is_kernel_address(name, size)) {
    const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    give_port(fd);
    return psp_next()->connect(fd, &nobody, sizeof nobody);
  }
  return psp_next()->connect(fd, name, size);
}
