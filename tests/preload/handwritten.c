/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program of the kind that people write by hand against the kernel's `psp` family. The first
 * argument says which habit of such programs to show. Prints "ok" and ends with 0, or says what was
 * not as with the kernel. Device 1 exists, of device 9 there is none.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "genl.h"

enum { DEV_GET = 1, KEY_ROTATE = 6, KEY_ROTATE_NTF = 7, RX_ASSOC = 8, TX_ASSOC = 9 };

static _Alignas(8) unsigned char room[kRoom];
static const struct nlmsghdr* const answer = (const struct nlmsghdr*)room;

static struct request device_request(const struct family* family, uint32_t id, uint32_t seq) {
  struct request r;
  begin(&r, family->id, 0, seq, DEV_GET);
  put_u32(&r, 1, id);
  return r;
}

static void expect_device(uint32_t seq) {
  CHECK(answer->nlmsg_seq == seq && answer->nlmsg_type != NLMSG_ERROR);
  CHECK(u32(attribute(room, 1)) == 1);
}

static void get_device(int fd, const struct family* family, uint32_t seq) {
  const struct request r = device_request(family, 1, seq);
  send_request(fd, &r);
  receive(fd, room);
  expect_device(seq);
  CHECK(answer->nlmsg_pid == port_of(fd));
}

/* rotate makes a notification of the group `use`, on a socket of its own. */
static void rotate(const struct family* family) {
  const int fd = open_genl();
  struct request r;
  begin(&r, family->id, 0, 5, KEY_ROTATE);
  put_u32(&r, 1, 1);
  send_request(fd, &r);
  receive(fd, room);
  CHECK(answer->nlmsg_type == family->id && answer->nlmsg_seq == 5);
  close(fd);
}

static void expect_rotation(int fd) {
  receive(fd, room);
  CHECK(answer->nlmsg_seq == 0 && answer->nlmsg_pid == 0);
  CHECK(((const struct genlmsghdr*)NLMSG_DATA(answer))->cmd == KEY_ROTATE_NTF);
  CHECK(u32(attribute(room, 1)) == 1);
}

static int nothing_waits(int fd) {
  return recv(fd, room, sizeof room, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static void lookup(void) {
  const int fd = open_genl();
  CHECK(port_of(fd) == 0);
  const struct family family = resolve(fd);
  CHECK(port_of(fd) != 0);
  struct request r;
  begin(&r, GENL_ID_CTRL, NLM_F_ACK, 2, CTRL_CMD_GETFAMILY);
  put(&r, CTRL_ATTR_FAMILY_ID, &family.id, sizeof family.id);
  send_request(fd, &r);
  struct family again;
  CHECK(read_family(fd, &again) == 0 && again.id == family.id);
  receive(fd, room);
  CHECK(error_in(room) == 0 && answer->nlmsg_seq == 2);
  get_device(fd, &family, 3);
  CHECK(nothing_waits(fd));
}

/* A dump of all families is one dump: `psp`, then the kernel's, one NLMSG_DONE. */
static void families(void) {
  const int fd = open_genl();
  struct request r;
  begin(&r, GENL_ID_CTRL, NLM_F_DUMP, 4, CTRL_CMD_GETFAMILY);
  send_request(fd, &r);
  int psp = 0, nlctrl = 0, done = 0;
  while (!done) {
    size_t left = receive(fd, room);
    for (const struct nlmsghdr* m = answer; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
      CHECK(m->nlmsg_seq == 4 && (m->nlmsg_flags & NLM_F_MULTI) && m->nlmsg_pid == port_of(fd));
      if (m->nlmsg_type == NLMSG_DONE) {
        done = 1;
        continue;
      }
      const char* name = value(attribute(m, CTRL_ATTR_FAMILY_NAME));
      psp += strcmp(name, "psp") == 0;
      nlctrl += strcmp(name, "nlctrl") == 0;
      CHECK(strcmp(name, "softpsp") != 0);
    }
  }
  CHECK(psp == 1 && nlctrl == 1 && nothing_waits(fd));
}

/* One send with messages for two masters: answered in order. */
static void batch(void) {
  const int fd = open_genl();
  const struct family family = resolve(fd);
  struct request parts[4];
  const char* names[4] = {"nlctrl", NULL, "nlctrl", "no-such"};
  unsigned char octets[2048];
  size_t size = 0;
  for (uint32_t i = 0; i < 4; i++) {
    if (names[i] != NULL) {
      begin(&parts[i], GENL_ID_CTRL, 0, i + 1, CTRL_CMD_GETFAMILY);
      put(&parts[i], CTRL_ATTR_FAMILY_NAME, names[i], strlen(names[i]) + 1);
    } else {
      parts[i] = device_request(&family, 1, i + 1);
    }
    memcpy(octets + size, &parts[i], parts[i].netlink.nlmsg_len);
    size += NLMSG_ALIGN(parts[i].netlink.nlmsg_len);
  }
  CHECK(send(fd, octets, size, 0) == (ssize_t)size);
  for (uint32_t i = 0; i < 4; i++) {
    receive(fd, room);
    CHECK(answer->nlmsg_seq == i + 1);
    CHECK((answer->nlmsg_type == NLMSG_ERROR) == (i == 3));
    if (i == 1) expect_device(2);
  }
}

static void connect_pair(int fds[2]) {
  struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t length = sizeof name;
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(bind(listener, (struct sockaddr*)&name, sizeof name) == 0 && listen(listener, 1) == 0);
  CHECK(getsockname(listener, (struct sockaddr*)&name, &length) == 0);
  fds[0] = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(connect(fds[0], (struct sockaddr*)&name, sizeof name) == 0);
  fds[1] = accept(listener, NULL, NULL);
  CHECK(fds[1] >= 0);
  close(listener);
}

/* The descriptor that sock-fd names is the one that is secured: the model tells its port. */
static void associate(void) {
  const int fd = open_genl();
  const struct family family = resolve(fd);
  int tcp[2];
  connect_pair(tcp);
  for (uint32_t i = 0; i < 2; i++) {
    struct request r;
    begin(&r, family.id, NLM_F_ACK, 10 + i, RX_ASSOC);
    put_u32(&r, 1, 1);
    put_u32(&r, 2, 0);
    put_u32(&r, 5, (uint32_t)tcp[i]);
    send_request(fd, &r);
    receive(fd, room);
    CHECK(answer->nlmsg_seq == 10 + i && answer->nlmsg_type == family.id);
    const struct nlattr* key = attribute(room, 3);
    CHECK(key != NULL && find(value(key), key->nla_len - NLA_HDRLEN, 1)->nla_len == 20);
    receive(fd, room);
    CHECK(error_in(room) == 0);
    send_request(fd, &r); /* again: the same socket, so it already has state */
    receive(fd, room);
    CHECK(error_in(room) == EBUSY);
  }
  const int bad[3] = {-1, 1000, 0};
  const int null = open("/dev/null", O_RDONLY);
  for (int i = 0; i < 3; i++) {
    struct request r;
    begin(&r, family.id, 0, 20, RX_ASSOC);
    put_u32(&r, 1, 1);
    put_u32(&r, 2, 0);
    put_u32(&r, 5, (uint32_t)(i == 2 ? null : bad[i]));
    send_request(fd, &r);
    receive(fd, room);
    CHECK(error_in(room) == (i == 2 ? ENOTSOCK : EBADF));
  }
}

/* What an error says depends on NETLINK_EXT_ACK and NETLINK_CAP_ACK. */
static void errors(void) {
  for (int i = 0; i < 4; i++) {
    const int fd = open_genl();
    const struct family family = resolve(fd);
    if (i & 1) set_flag(fd, NETLINK_EXT_ACK);
    if (i & 2) set_flag(fd, NETLINK_CAP_ACK);
    set_flag(fd, NETLINK_GET_STRICT_CHK);
    struct request r;
    begin(&r, family.id, 0, 7, DEV_GET); /* without id */
    put_u32(&r, 4, 0);
    send_request(fd, &r);
    receive(fd, room);
    CHECK(error_in(room) == EINVAL && answer->nlmsg_seq == 7 && answer->nlmsg_pid == port_of(fd));
    CHECK(!(answer->nlmsg_flags & NLM_F_ACK_TLVS) == !(i & 1));
    CHECK(!(answer->nlmsg_flags & NLM_F_CAPPED) == !(i & 2));
    const struct nlmsgerr* error = NLMSG_DATA(answer);
    CHECK(memcmp(&error->msg, &r.netlink, sizeof r.netlink) == 0);
    close(fd);
  }
}

static void peek(void) {
  const int fd = open_genl();
  const struct family family = resolve(fd);
  const struct request r = device_request(&family, 1, 3);
  CHECK(nothing_waits(fd));
  send_request(fd, &r);
  unsigned char small[20];
  const ssize_t whole = recv(fd, NULL, 0, MSG_PEEK | MSG_TRUNC);
  CHECK(whole > 20);
  CHECK(recv(fd, small, sizeof small, MSG_PEEK) == 20);
  CHECK(recv(fd, small, sizeof small, MSG_PEEK | MSG_TRUNC) == whole);
  struct iovec part = {small, sizeof small};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  CHECK(recvmsg(fd, &message, MSG_PEEK) == 20 && (message.msg_flags & MSG_TRUNC));
  CHECK(receive(fd, room) == (size_t)whole);
  expect_device(3);
  CHECK(nothing_waits(fd));
}

static void wait_for(int fd, const struct family* family, int epoll) {
  join(fd, family->use);
  const int set = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN};
  CHECK(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0);
  struct pollfd one = {.fd = fd, .events = POLLIN};
  CHECK(poll(&one, 1, 0) == 0);
  const pid_t child = fork();
  if (child == 0) {
    usleep(50 * 1000);
    rotate(family);
    _exit(0);
  }
  CHECK(epoll ? epoll_wait(set, &event, 1, 5000) == 1 : poll(&one, 1, 5000) == 1);
  expect_rotation(fd);
  CHECK(nothing_waits(fd));
  waitpid(child, NULL, 0);
  uint32_t group = family->use;
  CHECK(setsockopt(fd, SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, &group, sizeof group) == 0);
  rotate(family);
  CHECK(nothing_waits(fd));
}

static void polling(void) {
  const int fd = open_genl();
  const struct family family = resolve(fd);
  wait_for(fd, &family, 0);
  wait_for(fd, &family, 1);
}

/* Connected to the kernel, as libraries do to be safe from others. */
static void connected(void) {
  const int fd = open_genl();
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK}, peer;
  socklen_t length = sizeof peer;
  CHECK(bind(fd, (struct sockaddr*)&kernel, sizeof kernel) == 0);
  CHECK(connect(fd, (struct sockaddr*)&kernel, sizeof kernel) == 0);
  CHECK(getpeername(fd, (struct sockaddr*)&peer, &length) == 0 && peer.nl_pid == 0);
  const struct family family = resolve(fd);
  join(fd, family.use);
  rotate(&family);
  expect_rotation(fd);
  ask_family(fd, 3, "nlctrl");
  struct family other;
  CHECK(read_family(fd, &other) == 0 && other.id == GENL_ID_CTRL);
}

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

static void calls(void) {
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
static void control(void) {
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

static void* many_requests(void* data) {
  const struct family family = *(const struct family*)data;
  _Alignas(8) unsigned char own[kRoom];
  const int fd = open_genl();
  for (uint32_t seq = 1; seq <= 200; seq++) {
    const struct request r = device_request(&family, 1, seq);
    send_request(fd, &r);
    receive(fd, own);
    CHECK(((struct nlmsghdr*)own)->nlmsg_seq == seq && u32(attribute(own, 1)) == 1);
  }
  close(fd);
  return NULL;
}

static void threads(void) {
  const int fd = open_genl();
  struct family family = resolve(fd);
  pthread_t all[8];
  for (int i = 0; i < 8; i++) CHECK(pthread_create(&all[i], NULL, many_requests, &family) == 0);
  for (int i = 0; i < 8; i++) {
    const pid_t child = fork(); /* in the middle of it */
    if (child == 0) {
      get_device(fd, &family, 1000);
      _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
  }
  for (int i = 0; i < 8; i++) pthread_join(all[i], NULL);
  get_device(fd, &family, 2000);
}

/* The socket, its port and its membership outlive the process that made them. */
static void forked(void) {
  const int fd = open_genl();
  const struct family family = resolve(fd);
  join(fd, family.use);
  const uint32_t port = port_of(fd);
  int ready[2];
  CHECK(pipe(ready) == 0);
  const pid_t child = fork();
  if (child == 0) {
    char octet;
    CHECK(read(ready[0], &octet, 1) == 1);
    CHECK(port_of(fd) == port);
    expect_rotation(fd);
    get_device(fd, &family, 8);
    _exit(0);
  }
  close(fd);
  rotate(&family);
  CHECK(write(ready[1], "x", 1) == 1);
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void executed(const char* self) {
  const int fd = open_genl();
  const struct family family = resolve(fd);
  join(fd, family.use);
  CHECK(fcntl(fd, F_SETFD, 0) == 0);
  rotate(&family);
  char number[16];
  snprintf(number, sizeof number, "%d", fd);
  execl(self, self, "inherited", number, (char*)NULL);
  CHECK(0);
}

static void inherited(int fd) {
  expect_rotation(fd); /* the first that this program hears of its sender */
  const struct family family = resolve(fd);
  get_device(fd, &family, 9);
}

/* A socket that gets the port of one that was a member is no member. */
static void closing(void) {
  const int first = open_genl(), second = open_genl();
  const struct family family = resolve(first);
  get_device(second, &family, 4);
  join(first, family.use);
  join(second, family.use);
  const uint32_t port = port_of(first);
  close(first);
  const int third = open_genl();
  struct sockaddr_nl own = {.nl_family = AF_NETLINK, .nl_pid = port};
  CHECK(bind(third, (struct sockaddr*)&own, sizeof own) == 0);
  rotate(&family);
  expect_rotation(second);
  CHECK(nothing_waits(third));
  const int copy = dup(second);
  close(second);
  rotate(&family);
  expect_rotation(copy);
}

static void overrun(int flag) {
  const int fd = open_genl();
  const struct family family = resolve(fd);
  const int small = 2048;
  CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small) == 0);
  if (flag != 0) set_flag(fd, flag);
  join(fd, family.use);
  for (int i = 0; i < 64; i++) rotate(&family);
  int heard = 0, lost = 0;
  struct pollfd one = {.fd = fd, .events = POLLIN};
  while (poll(&one, 1, 700) == 1) {
    const ssize_t got = recv(fd, room, sizeof room, MSG_DONTWAIT);
    CHECK(got > 0 || errno == ENOBUFS || (flag != 0 && errno == EAGAIN));
    heard += got > 0;
    lost += got < 0 && errno == ENOBUFS;
  }
  CHECK(heard > 0 && heard < 64 && lost == (flag == 0));
  rotate(&family);
  expect_rotation(fd);
}

/* A listener without a port hears nothing, as of the kernel; from the time on that it has one, it
 * does. */
static void unbound(void) {
  const int other = open_genl(), fd = open_genl();
  const struct family family = resolve(other);
  struct pollfd one = {.fd = fd, .events = POLLIN};
  join(fd, family.use);
  CHECK(port_of(fd) == 0);
  rotate(&family);
  CHECK(poll(&one, 1, 300) == 0 && port_of(fd) == 0);
  const struct sockaddr_nl own = {.nl_family = AF_NETLINK};
  CHECK(bind(fd, (const struct sockaddr*)&own, sizeof own) == 0 && port_of(fd) != 0);
  rotate(&family);
  expect_rotation(fd);
  CHECK(setsockopt(fd, SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, &family.use, sizeof family.use) == 0);
  rotate(&family);
  CHECK(poll(&one, 1, 300) == 0);
}

/* A dump that is longer than the receive buffer goes on as it is read. */
static void long_dump(void) {
  const int fd = open_genl();
  const struct family family = resolve(fd);
  const int small = 2048;
  CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small) == 0);
  struct request r;
  begin(&r, family.id, NLM_F_DUMP, 6, DEV_GET);
  send_request(fd, &r);
  uint32_t devices = 0, last = 0;
  for (int done = 0; !done;) {
    size_t left = receive(fd, room);
    for (const struct nlmsghdr* m = answer; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
      CHECK(m->nlmsg_seq == 6 && m->nlmsg_pid == port_of(fd));
      done = m->nlmsg_type == NLMSG_DONE;
      if (done) continue;
      devices++;
      CHECK(u32(attribute(m, 1)) > last);
      last = u32(attribute(m, 1));
    }
  }
  printf("%u devices\n", devices);
  CHECK(nothing_waits(fd));
}

/* Octets that look like ours on descriptors that are not netlink: nobody's business. */
static void ordinary(void) {
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
static void bad_pointers(void) {
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

/* Nobody serves `psp`: what a kernel without it says. */
static void absent(void) {
  const int fd = open_genl();
  struct family family;
  ask_family(fd, 1, "psp");
  CHECK(read_family(fd, &family) == ENOENT);
  ask_family(fd, 2, "nlctrl");
  CHECK(read_family(fd, &family) == 0);
}

static void proceed(const char* word) {
  char line[8];
  printf("%s\n", word);
  fflush(stdout);
  CHECK(read(STDIN_FILENO, line, sizeof line) > 0);
}

/* Very many sockets with a dump that is never read, all members of a group. */
static void deaf(void) {
  const struct rlimit many = {4096, 4096};
  CHECK(setrlimit(RLIMIT_NOFILE, &many) == 0);
  const struct family family = resolve(open_genl());
  const int small = 2048;
  int refused = 0;
  for (int i = 0; i < 1500; i++) {
    const int fd = open_genl();
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small) == 0);
    join(fd, family.use);
    struct request r;
    begin(&r, family.id, NLM_F_DUMP, 6, DEV_GET);
    const ssize_t sent = send(fd, &r, r.netlink.nlmsg_len, 0);
    CHECK(sent > 0 || errno == ENOBUFS);
    refused += sent < 0;
  }
  printf("%d refused\n", refused);
  proceed("deaf");
}

/* Who has the family is seen by its number. */
static void kernel(void) {
  const int fd = open_genl();
  ask_family(fd, 1, "psp");
  CHECK(recv(fd, room, sizeof room, 0) > 0 && answer->nlmsg_type == GENL_ID_CTRL);
  uint16_t id;
  memcpy(&id, value(attribute(room, CTRL_ATTR_FAMILY_ID)), sizeof id);
  printf("psp is %#x\n", id);
}

/* The daemon goes and comes back: a clear error, then a fresh lookup. */
static void restart(void) {
  const int fd = open_genl();
  const struct family family = resolve(fd);
  join(fd, family.use);
  proceed("stop");
  const struct request r = device_request(&family, 1, 3);
  send_request(fd, &r);
  receive(fd, room);
  CHECK(error_in(room) == ENOENT && answer->nlmsg_seq == 3);
  uint32_t group = family.use;
  CHECK(setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) < 0);
  proceed("start");
  const struct family again = resolve(fd);
  join(fd, again.use);
  rotate(&again);
  expect_rotation(fd);
  get_device(fd, &again, 11);
}

int main(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "";
  alarm(20); /* an answer that never comes is a failure too */
  const struct {
    const char* name;
    void (*run)(void);
  } cases[] = {{"lookup", lookup},       {"families", families},   {"batch", batch},
               {"associate", associate}, {"errors", errors},       {"peek", peek},
               {"polling", polling},     {"connected", connected}, {"calls", calls},
               {"control", control},     {"threads", threads},     {"forked", forked},
               {"closing", closing},     {"long_dump", long_dump}, {"ordinary", ordinary},
               {"absent", absent},       {"restart", restart},     {"kernel", kernel},
               {"deaf", deaf},           {"unbound", unbound},     {"bad_pointers", bad_pointers}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
    if (strcmp(what, cases[i].name) == 0) {
      cases[i].run();
      puts("ok");
      return 0;
    }
  if (strcmp(what, "executed") == 0) executed(argv[0]);
  if (strcmp(what, "inherited") == 0) inherited(atoi(argv[2]));
  if (strcmp(what, "overrun") == 0) overrun(0);
  if (strcmp(what, "overrun_unheard") == 0) overrun(NETLINK_NO_ENOBUFS);
  puts("ok");
  return 0;
}
