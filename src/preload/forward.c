/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An exchange with pspd: connect, send a message in an envelope with the program's own socket
 * beside it, wait for the answer, close. Each wait ends after PSP_ANSWER_TIMEOUT_S. The program
 * must notice none of it: errno is kept, no thread is cancelled inside, and no other preloaded
 * library sees the calls. The address of pspd comes from the environment, once, at load.
 */
#include "forward.h"

#include <errno.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/socket_options.h"
#include "base/unix_address.h"
#include "netlink/trusted_peer.h"
#include <psp/netlink/uapi.h>

#include "next.h"

static struct sockaddr_un address;
static socklen_t address_size; /* 0: there is none, pspd is away */
static bool named;

void psp_forward_init(void) {
  const char* name = secure_getenv("PSP_SOCKET");
  named = name != NULL && name[0] != '\0';
  if (!named) name = "@softpsp";
  address_size = psp_unix_address(name, strlen(name), &address);
}

bool psp_named(void) { return named; }

/*
 * What follows calls the kernel directly: these are not the program's calls, so no other preloaded
 * library should see them, and none is a point where a thread can be cancelled.
 */
static int open_socket(int domain, int type, int protocol) {
  return (int)syscall(SYS_socket, domain, type | SOCK_CLOEXEC, protocol);
}
static void close_socket(int fd) { (void)syscall(SYS_close, fd); }
static void set_timeouts(int fd) {
  const struct timeval limit = {.tv_sec = PSP_ANSWER_TIMEOUT_S, .tv_usec = 0};
  (void)syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  (void)syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

/* reach connects to pspd. Returns a descriptor, or -1 with *error: PSP_AWAY or an errno. */
static int reach(int* error) {
  *error = PSP_AWAY;
  if (address_size == 0) return -1;
  const int fd = open_socket(AF_UNIX, SOCK_SEQPACKET, 0);
  if (fd < 0) {
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) *error = ENOBUFS;
    return -1;
  }
  set_timeouts(fd);
  long result;
  do {
    result = syscall(SYS_connect, fd, &address, address_size);
  } while (result != 0 && errno == EINTR);
  uid_t peer;
  if (result != 0) {
    if (errno == EAGAIN) *error = ETIMEDOUT;
  } else if (psp_peer_trusted(fd, &peer)) {
    *error = 0;
    return fd;
  }
  close_socket(fd);
  return -1;
}

struct envelope {
  struct nlmsghdr netlink;
  struct genlmsghdr generic;
  struct nlattr attribute;
};

/* send_envelope sends as much of `envelope` as its header tells, `value` being the last of it. */
static int send_envelope(int to, int fd, const struct envelope* envelope, const void* value,
                         size_t size, int attached) {
  static const char padding[NLA_ALIGNTO];
  struct iovec parts[] = {
      {(void*)(uintptr_t)envelope, envelope->netlink.nlmsg_len - NLA_ALIGN(size)},
      {(void*)(uintptr_t)value, size},
      {(void*)(uintptr_t)padding, NLA_ALIGN(size) - size}};
  union {
    struct cmsghdr aligned;
    char octets[CMSG_SPACE(2 * sizeof(int))];
  } control;
  const int fds[2] = {fd, attached};
  const size_t carried = (attached >= 0 ? 2 : 1) * sizeof(int);
  struct msghdr message = {.msg_iov = parts,
                           .msg_iovlen = 3,
                           .msg_control = &control,
                           .msg_controllen = CMSG_SPACE(carried)};
  memset(&control, 0, sizeof control);
  struct cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(carried);
  memcpy(CMSG_DATA(rights), fds, carried);
  long sent;
  do {
    sent = syscall(SYS_sendmsg, to, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) return 0;
  if (errno == EPIPE || errno == ECONNRESET) return PSP_AWAY;
  return errno == EAGAIN ? ETIMEDOUT : errno;
}

/* reply_of turns pspd's answer into the result of a request, and notes its port in *sender. */
static int reply_of(const unsigned char* octets, size_t size, uint32_t* sender) {
  struct nlmsghdr header;
  struct nlattr attribute;
  int32_t error;
  if (size < NLMSG_HDRLEN + GENL_HDRLEN) return EPROTO;
  memcpy(&header, octets, sizeof header);
  if (header.nlmsg_type == NLMSG_ERROR) {
    memcpy(&error, octets + NLMSG_HDRLEN, sizeof error);
    return error < 0 ? -error : 0;
  }
  if (header.nlmsg_type != SOFTPSP_ID_SOFTPSP ||
      size < NLMSG_HDRLEN + GENL_HDRLEN + NLA_HDRLEN + sizeof *sender)
    return EPROTO;
  memcpy(&attribute, octets + NLMSG_HDRLEN + GENL_HDRLEN, sizeof attribute);
  if (attribute.nla_type == SOFTPSP_FORWARD_SENDER)
    memcpy(sender, octets + NLMSG_HDRLEN + GENL_HDRLEN + NLA_HDRLEN, sizeof *sender);
  return 0;
}

/* answered takes the answer to what was sent on `daemon`. Returns as reply_of. */
static int answered(int daemon, uint32_t* sender) {
  unsigned char answer[128];
  long got;
  do {
    got = syscall(SYS_recvfrom, daemon, answer, sizeof answer, 0, NULL, NULL);
  } while (got < 0 && errno == EINTR);
  if (got > 0) return reply_of(answer, (size_t)got, sender);
  return got < 0 && errno == EAGAIN ? ETIMEDOUT : PSP_AWAY;
}

static int exchange(int fd, uint16_t attribute, const void* value, size_t size, int attached,
                    uint32_t* sender) {
  const struct envelope envelope = {
      .netlink = {.nlmsg_len = (uint32_t)(sizeof envelope + NLA_ALIGN(size)),
                  .nlmsg_type = SOFTPSP_ID_SOFTPSP,
                  .nlmsg_flags = NLM_F_REQUEST,
                  .nlmsg_seq = 1},
      .generic = {.cmd = SOFTPSP_CMD_FORWARD, .version = SOFTPSP_FAMILY_VERSION},
      .attribute = {.nla_len = (uint16_t)(sizeof envelope.attribute + size),
                    .nla_type = attribute}};
  int error;
  const int daemon = reach(&error);
  if (daemon < 0) return error;
  error = send_envelope(daemon, fd, &envelope, value, size, attached);
  /* A number that is no descriptor cannot travel: pspd then answers EBADF, as the kernel would. */
  if (attached >= 0 && (error == EBADF || error == EINVAL))
    error = send_envelope(daemon, fd, &envelope, value, size, -1);
  if (error == 0) error = answered(daemon, sender);
  close_socket(daemon);
  return error;
}

/*
 * Ports that pspd was seen to send from, each with the low half of its namespace's cookie. A port
 * that is not among them is asked about, so that losing one costs a request.
 */
static _Atomic uint64_t senders[8];
static atomic_uint next_sender;

static uint64_t sender_key(int fd, uint32_t port) {
  uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  if (port == 0 || getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size) != 0) return 0;
  return cookie > UINT32_MAX ? 0 : cookie << 32 | port;
}

static bool known_sender(uint64_t key) {
  for (size_t i = 0; i < sizeof senders / sizeof senders[0]; i++)
    if (atomic_load_explicit(&senders[i], memory_order_relaxed) == key) return key != 0;
  return false;
}

static void remember_sender(uint64_t key) {
  if (key == 0 || known_sender(key)) return;
  const unsigned slot = atomic_fetch_add_explicit(&next_sender, 1, memory_order_relaxed);
  atomic_store_explicit(&senders[slot % (sizeof senders / sizeof senders[0])], key,
                        memory_order_relaxed);
}

static int forward(int fd, uint16_t attribute, const void* value, size_t size, int attached,
                   uint32_t* sender) {
  const int saved = errno;
  int cancel_state;
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
  const int result = exchange(fd, attribute, value, size, attached, sender);
  if (*sender != 0) remember_sender(sender_key(fd, *sender));
  pthread_setcancelstate(cancel_state, NULL);
  errno = saved;
  return result;
}

int psp_forward(int fd, uint16_t attribute, const void* value, size_t size, int attached) {
  uint32_t sender = 0;
  return forward(fd, attribute, value, size, attached, &sender);
}

bool psp_is_sender(int fd, uint32_t port) {
  if (known_sender(sender_key(fd, port))) return true;
  uint32_t sender = 0;
  return forward(fd, SOFTPSP_FORWARD_WHO, NULL, 0, -1, &sender) == 0 && sender == port;
}

/* ask_serves is SOFTPSP_CMD_SERVE_GET. */
static bool ask_serves(int fd) {
  const struct envelope request = {
      .netlink = {.nlmsg_len = NLMSG_HDRLEN + GENL_HDRLEN,
                  .nlmsg_type = SOFTPSP_ID_SOFTPSP,
                  .nlmsg_flags = NLM_F_REQUEST,
                  .nlmsg_seq = 1},
      .generic = {.cmd = SOFTPSP_CMD_SERVE_GET, .version = SOFTPSP_FAMILY_VERSION}};
  int error;
  uint32_t sender = 0;
  const int daemon = reach(&error);
  if (daemon < 0) return false;
  error = send_envelope(daemon, fd, &request, NULL, 0, -1);
  if (error == 0) error = answered(daemon, &sender);
  close_socket(daemon);
  return error == 0;
}

bool psp_serves(int fd) {
  const int saved = errno;
  int cancel_state;
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
  const bool yes = ask_serves(fd);
  pthread_setcancelstate(cancel_state, NULL);
  errno = saved;
  return yes;
}

/* ask_kernel resolves `psp` on a netlink socket of its own. False: nobody could be asked. */
static bool ask_kernel(struct psp_family* family) {
  struct {
    struct nlmsghdr netlink;
    struct genlmsghdr generic;
    struct nlattr attribute;
    char name[NLA_ALIGN(sizeof PSPNL_FAMILY_NAME)];
  } request = {.netlink = {.nlmsg_len = sizeof request,
                           .nlmsg_type = GENL_ID_CTRL,
                           .nlmsg_flags = NLM_F_REQUEST,
                           .nlmsg_seq = 1},
               .generic = {.cmd = CTRL_CMD_GETFAMILY, .version = 1},
               .attribute = {.nla_len = NLA_HDRLEN + sizeof PSPNL_FAMILY_NAME,
                             .nla_type = CTRL_ATTR_FAMILY_NAME},
               .name = PSPNL_FAMILY_NAME};
  const int fd = open_socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC);
  if (fd < 0) return false;
  set_timeouts(fd);
  _Alignas(struct nlmsghdr) unsigned char answer[4096];
  ssize_t got = -1;
  if (psp_next()->send(fd, &request, sizeof request, 0) > 0)
    got = psp_next()->recv(fd, answer, sizeof answer, 0);
  close_socket(fd);
  if (got < (ssize_t)NLMSG_HDRLEN) return false;
  *family = psp_read_family(answer, (size_t)got);
  return true;
}

/* The kernel's family comes and goes with the kernel, so that one answer holds. */
static _Atomic uint64_t kernel_groups; /* mgmt, use */
static atomic_uint kernel_id; /* 0: not asked yet; else 1 above the id, which 0 is for none */

struct psp_family psp_kernel_family(void) {
  struct psp_family family = {0};
  unsigned known = atomic_load_explicit(&kernel_id, memory_order_acquire);
  if (known == 0) {
    const int saved = errno;
    int cancel_state;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
    if (ask_kernel(&family)) {
      atomic_store_explicit(&kernel_groups, (uint64_t)family.mgmt << 32 | family.use,
                            memory_order_relaxed);
      atomic_store_explicit(&kernel_id, family.id + 1u, memory_order_release);
    }
    pthread_setcancelstate(cancel_state, NULL);
    errno = saved;
    return family;
  }
  const uint64_t groups = atomic_load_explicit(&kernel_groups, memory_order_relaxed);
  family.id = (uint16_t)(known - 1);
  family.mgmt = (uint32_t)(groups >> 32);
  family.use = (uint32_t)groups;
  return family;
}
