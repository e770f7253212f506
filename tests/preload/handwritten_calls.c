/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Habits of hand-written programs: with which calls they send and receive, and what they ask to be
 * told beside the message; and calls that are none of our business, or point to nowhere.
 *
 * The library stands in the place of these calls for the whole program. So what is not for `psp`
 * must go through untouched, and a bad pointer must be the kernel's EFAULT, not a crash in the
 * library. The oracle for the latter is the same program without the library: its output is
 * compared line by line.
 */
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "handwritten.h"

/* Every way to send and to receive. */
static ssize_t send_as(int way, int fd, const struct request* r) {
  const size_t size = r->netlink.nlmsg_len;
  struct iovec whole = {(void*)(uintptr_t)r, size};
  struct iovec parts[3] = {{whole.iov_base, 7},
                           {(char*)whole.iov_base + 7, 13},
                           {(char*)whole.iov_base + 20, size - 20}};
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  struct msghdr message = {
      .msg_iov = parts, .msg_iovlen = 3, .msg_name = &kernel, .msg_namelen = sizeof kernel};
  struct mmsghdr many = {.msg_hdr = message};
  switch (way) {
    case 0:
      return write(fd, r, size);
    case 1:
      return writev(fd, &whole, 1);
    case 2:
      return writev(fd, parts, 3);
    case 3:
      return send(fd, r, size, 0);
    case 4:
      return sendto(fd, r, size, 0, (struct sockaddr*)&kernel, sizeof kernel);
    case 5:
      return sendmsg(fd, &message, 0);
    default:
      return sendmmsg(fd, &many, 1, 0) == 1 ? (ssize_t)many.msg_len : -1;
  }
}

static ssize_t receive_as(int way, int fd) {
  struct iovec part = {room, sizeof room};
  struct sockaddr_nl from = {.nl_pid = 77};
  socklen_t length = sizeof from;
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_name = &from, .msg_namelen = sizeof from};
  struct mmsghdr many = {.msg_hdr = message};
  ssize_t got;
  switch (way) {
    case 0:
      return read(fd, room, sizeof room);
    case 1:
      return readv(fd, &part, 1);
    case 2:
      return recv(fd, room, sizeof room, 0);
    case 3:
      got = recvfrom(fd, room, sizeof room, 0, (struct sockaddr*)&from, &length);
      break;
    case 4:
      got = recvmsg(fd, &message, 0);
      break;
    case 5:
      got = recvmmsg(fd, &many, 1, 0, NULL) == 1 ? (ssize_t)many.msg_len : -1;
      break;
    default:
      return recvfrom(fd, room, sizeof room, 0, NULL, NULL);
  }
  CHECK(from.nl_pid == 0);
  return got;
}

void calls(void) {
  const int fd = open_genl();
  const struct family family = resolve(fd);
  for (int way = 0; way < 7; way++) {
    const struct request r = device_request(&family, 1, 100 + (uint32_t)way);
    CHECK(send_as(way, fd, &r) == (ssize_t)r.netlink.nlmsg_len);
    memset(room, 0, sizeof room);
    CHECK(receive_as(way, fd) > 20);
    expect_device(100 + (uint32_t)way);
  }
}

/* NETLINK_PKTINFO and credentials say what they say of the kernel's messages. */
void control(void) {
  const int fd = open_genl();
  const struct family family = resolve(fd);
  const int on = 1;
  set_flag(fd, NETLINK_PKTINFO);
  CHECK(setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
  join(fd, family.use);
  rotate(&family);
  struct iovec part = {room, sizeof room};
  struct sockaddr_nl from;
  _Alignas(8) char cmsgs[256];
  struct msghdr message = {.msg_iov = &part,
                           .msg_iovlen = 1,
                           .msg_name = &from,
                           .msg_namelen = sizeof from,
                           .msg_control = cmsgs,
                           .msg_controllen = sizeof cmsgs};
  CHECK(recvmsg(fd, &message, 0) > 0 && from.nl_pid == 0);
  int seen = 0;
  for (struct cmsghdr* c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level == SOL_NETLINK && c->cmsg_type == NETLINK_PKTINFO) {
      struct nl_pktinfo info;
      memcpy(&info, CMSG_DATA(c), sizeof info);
      CHECK(info.group == family.use);
      seen |= 1;
    }
    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
      struct ucred sender;
      memcpy(&sender, CMSG_DATA(c), sizeof sender);
      CHECK(sender.pid == 0 && sender.uid == 0);
      seen |= 2;
    }
  }
  CHECK(seen == 3);
}

/* Octets that look like ours on descriptors that are not netlink: nobody's business. */
void ordinary(void) {
  const int fd = open_genl();
  const struct family family = resolve(fd);
  const struct request r = device_request(&family, 1, 3);
  int ends[2], tcp[2];
  CHECK(pipe(ends) == 0);
  CHECK(write(ends[1], &r, r.netlink.nlmsg_len) == (ssize_t)r.netlink.nlmsg_len);
  CHECK(read(ends[0], room, sizeof room) == (ssize_t)r.netlink.nlmsg_len);
  CHECK(memcmp(room, &r, r.netlink.nlmsg_len) == 0);
  connect_pair(tcp);
  CHECK(send(tcp[0], &r, r.netlink.nlmsg_len, 0) == (ssize_t)r.netlink.nlmsg_len);
  CHECK(recv(tcp[1], room, sizeof room, 0) == (ssize_t)r.netlink.nlmsg_len);
  const int route = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
  send_request(route, &r);
  CHECK(recv(route, room, sizeof room, MSG_DONTWAIT) < 0 || error_in(room) != 0);
  CHECK(write(-1, &r, sizeof r) < 0 && errno == EBADF);
}

/* Prints what a call says, by the name of its error. */
static void tell(const char* call, int which, long result) {
  printf("%s %d: %ld %s\n", call, which, result, result < 0 ? strerrorname_np(errno) : "");
}

/*
 * Calls with pointers to nowhere, on descriptors of each kind: what they say is compared with what
 * they say without the library. `edge` has 16 octets that are there, and nothing behind.
 */
void bad_pointers(void) {
  unsigned char* pages =
      mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(pages != MAP_FAILED && munmap(pages + 4096, 4096) == 0);
  unsigned char* const edge = pages + 4096 - NLMSG_HDRLEN;
  const struct nlmsghdr beyond = {.nlmsg_len = 64, .nlmsg_type = GENL_ID_CTRL};
  memcpy(edge, &beyond, sizeof beyond);
  unsigned char* volatile low = (unsigned char*)8; /* the compiler must not know */
  int ends[2], tcp[2];
  CHECK(pipe2(ends, O_NONBLOCK) == 0);
  connect_pair(tcp);
  const int fds[] = {open_genl(), socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), ends[1], tcp[0], -1};
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  socklen_t name_size = sizeof kernel;
  for (int i = 0; i < 5; i++) {
    const int fd = fds[i];
    void* const bad[] = {NULL, low, edge, pages + 4096};
    for (int j = 0; j < 4; j++) {
      const int n = i * 10 + j;
      struct iovec parts[2] = {{edge, 4}, {bad[j], 64}};
      struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
      struct msghdr nowhere = {.msg_iov = bad[j], .msg_iovlen = 2};
      struct msghdr nobody = {
          .msg_name = bad[j], .msg_namelen = 64, .msg_iov = parts, .msg_iovlen = 1};
      struct mmsghdr many[1] = {{message, 0}};
      tell("write", n, write(fd, bad[j], 64));
      tell("writev", n, writev(fd, parts, 2));
      tell("writev of none", n, writev(fd, bad[j], 2));
      tell("send", n, send(fd, bad[j], 64, MSG_NOSIGNAL));
      tell("sendto", n, sendto(fd, bad[j], 64, MSG_NOSIGNAL, (void*)&kernel, sizeof kernel));
      tell("sendto nobody", n, sendto(fd, &kernel, 4, MSG_NOSIGNAL, bad[j], 64));
      tell("sendmsg", n, sendmsg(fd, &message, MSG_NOSIGNAL));
      tell("sendmsg of none", n, sendmsg(fd, &nowhere, MSG_NOSIGNAL));
      tell("sendmsg to nobody", n, sendmsg(fd, &nobody, MSG_NOSIGNAL));
      tell("sendmmsg", n, sendmmsg(fd, many, 1, MSG_NOSIGNAL));
      tell("connect", n, connect(fd, bad[j], 64));
      if (bad[j] == edge) continue; /* there the rest could succeed, and wait */
      tell("no message", n, sendmsg(fd, bad[j], MSG_NOSIGNAL));
      tell("no messages", n, sendmmsg(fd, bad[j], 2, MSG_NOSIGNAL));
      tell("recv", n, recv(fd, bad[j], 64, MSG_DONTWAIT));
      tell("recvfrom", n, recvfrom(fd, room, 64, MSG_DONTWAIT, (void*)&kernel, bad[j]));
      tell("recvmsg", n, recvmsg(fd, bad[j], MSG_DONTWAIT));
      tell("recvmsg of none", n, recvmsg(fd, &nowhere, MSG_DONTWAIT));
      tell("recvmmsg", n, recvmmsg(fd, bad[j], 2, MSG_DONTWAIT, NULL));
      if (i > 1) continue; /* for TCP it depends on whether a BPF program of the host looks first */
      tell("setsockopt", n, setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, bad[j], 4));
    }
  }
  /* Received octets with nowhere to go: a message waits on the first socket. */
  ask_family(fds[0], 1, "nlctrl");
  tell("recvfrom", 100, recvfrom(fds[0], room, sizeof room, MSG_PEEK, (void*)edge, (void*)low));
  tell("read", 101, read(fds[0], (void*)low, 64));
  ask_family(fds[0], 1, "nlctrl");
  tell("readv", 102, readv(fds[0], (void*)low, 1));
  CHECK(send(tcp[1], room, NLMSG_HDRLEN, 0) == NLMSG_HDRLEN);
  tell("thrown away", 103, recv(tcp[0], (void*)low, NLMSG_HDRLEN, MSG_TRUNC));
  tell("name", 104, name_size);
}
