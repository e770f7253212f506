/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program of the kind that people write by hand against the kernel's `psp` family. The first
 * argument says which habit of such programs to show. Prints "ok" and ends with 0, or says what was
 * not as with the kernel. Device 1 exists, of device 9 there is none.
 */
#include "handwritten.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/wait.h>

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

int main(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "";
  alarm(20); /* an answer that never comes is a failure too */
  const struct {
    const char* name;
    void (*run)(void);
  } cases[] = {{"lookup", lookup},
               {"families", families},
               {"batch", batch},
               {"associate", associate},
               {"errors", errors},
               {"peek", peek},
               {"polling", polling},
               {"connected", connected},
               {"calls", calls},
               {"control", control},
               {"threads", threads},
               {"forked", forked},
               {"closing", closing},
               {"long_dump", long_dump},
               {"ordinary", ordinary},
               {"absent", absent},
               {"restart", restart},
               {"kernel", kernel},
               {"beside", beside},
               {"named", named},
               {"deaf", deaf},
               {"unbound", unbound},
               {"bad_pointers", bad_pointers}};
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
