/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hand-written programs where who serves `psp` is not one and the same: nobody, the kernel, both,
 * one that goes and comes back; and those that read nothing of what they have asked for.
 *
 * The kernel with the family is fake_kernel.c, the pspd the test's own; by words on standard output
 * and input a program says when the test may stop or start it. Each must see what a kernel would
 * show: an error for a family that has gone, one list of all devices, one number for the family.
 */
#include <sys/resource.h>

#include "handwritten.h"

/* Nobody serves `psp`: what a kernel without it says. */
void absent(void) {
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
void deaf(void) {
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
void kernel(void) {
  const int fd = open_genl();
  ask_family(fd, 1, "psp");
  CHECK(recv(fd, room, sizeof room, 0) > 0 && answer->nlmsg_type == GENL_ID_CTRL);
  uint16_t id;
  memcpy(&id, value(attribute(room, CTRL_ATTR_FAMILY_ID)), sizeof id);
  printf("psp is %#x\n", id);
}

/* ids_of lists the devices, and returns a bit for each by its last octet. */
static unsigned ids_of(int fd, const struct family* family, uint8_t cmd) {
  struct request r;
  begin(&r, family->id, NLM_F_DUMP, 6, cmd);
  send_request(fd, &r);
  for (unsigned ids = 0;;) {
    size_t left = receive(fd, room);
    for (const struct nlmsghdr* m = answer; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
      CHECK(m->nlmsg_seq == 6);
      if (m->nlmsg_type == NLMSG_DONE) {
        CHECK(nothing_waits(fd));
        return ids;
      }
      CHECK(m->nlmsg_type == family->id);
      ids |= 1u << (u32(attribute(m, 1)) & 15);
    }
  }
}

static uint32_t device_told(int fd, const struct family* family, uint32_t id) {
  const struct request r = device_request(family, id, 7);
  send_request(fd, &r);
  receive(fd, room);
  if (answer->nlmsg_type == NLMSG_ERROR) return 0;
  CHECK(answer->nlmsg_type == family->id && answer->nlmsg_pid == port_of(fd));
  return u32(attribute(room, 1));
}

/* associated returns the errno of rx-assoc on a socket whose route is by netdev `ifindex`. */
static int associated(int fd, const struct family* family, int ifindex) {
  const int tcp = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(setsockopt(tcp, SOL_SOCKET, SO_MARK, &ifindex, sizeof ifindex) == 0);
  struct request r;
  begin(&r, family->id, 0, 8, RX_ASSOC);
  put_u32(&r, 2, 0);
  put_u32(&r, 5, (uint32_t)tcp);
  send_request(fd, &r);
  receive(fd, room);
  close(tcp);
  return answer->nlmsg_type == NLMSG_ERROR ? error_in(room) : 0;
}

static void rotate_device(int fd, const struct family* family, uint32_t id) {
  struct request r;
  begin(&r, family->id, 0, 5, KEY_ROTATE);
  put_u32(&r, 1, id);
  send_request(fd, &r);
}

enum { OF_KERNEL = 3, OF_PSPD = 0x8001, BY_PSPD = 7, BY_KERNEL = 1 };

/* The kernel has the family, and there is a pspd: each is asked about what is its. */
void beside(void) {
  const int fd = open_genl();
  const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  CHECK(connect(fd, (const struct sockaddr*)&kernel, sizeof kernel) == 0);
  const struct family family = resolve(fd);
  CHECK(family.id == 0x19);
  CHECK(ids_of(fd, &family, DEV_GET) == (1u << OF_KERNEL | 1u << (OF_PSPD & 15)));
  CHECK(device_told(fd, &family, OF_PSPD) == OF_PSPD);
  CHECK(device_told(fd, &family, OF_KERNEL) == OF_KERNEL);
  CHECK(device_told(fd, &family, OF_PSPD + 1) == 0);
  CHECK(associated(fd, &family, BY_PSPD) == 0);
  CHECK(associated(fd, &family, BY_KERNEL) == EXFULL);
  const int listener = open_genl();
  CHECK(bind(listener, (const struct sockaddr*)&kernel, sizeof kernel) == 0);
  set_flag(listener, NETLINK_PKTINFO);
  join(listener, family.use);
  rotate_device(fd, &family, OF_PSPD);
  receive(fd, room);
  CHECK(answer->nlmsg_type == family.id && answer->nlmsg_seq == 5);
  receive(listener, room);
  CHECK(answer->nlmsg_type == family.id && u32(attribute(room, 1)) == OF_PSPD);
}

/* As before, but the user has named pspd: it is asked about all, and if it is away nobody is. */
void named(void) {
  const int fd = open_genl();
  const struct family family = resolve(fd);
  CHECK(family.id == 0x19);
  CHECK(ids_of(fd, &family, DEV_GET) == 1u << (OF_PSPD & 15));
  CHECK(device_told(fd, &family, OF_KERNEL) == 0 && error_in(room) == ENODEV);
  CHECK(associated(fd, &family, BY_PSPD) == 0);
  CHECK(associated(fd, &family, BY_KERNEL) == EINVAL);
  proceed("stop");
  CHECK(device_told(fd, &family, OF_KERNEL) == 0 && error_in(room) == ENOENT);
  uint32_t group = family.use;
  CHECK(setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) < 0);
}

/* The daemon goes and comes back: a clear error, then a fresh lookup. */
void restart(void) {
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
