/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of handwritten.c share: a room for answers, requests, a device that is asked for
 * and rotated, and a connection.
 *
 * Numbers of commands and attributes are written out, as in programs that were copied from
 * somebody's notes. Device 1 is there; a rotation makes the notification that a test waits for.
 * Each part is a translation unit of the same program, so `room` is each one's own.
 */
#pragma once
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>

#include "genl.h"

enum { DEV_GET = 1, KEY_ROTATE = 6, KEY_ROTATE_NTF = 7, RX_ASSOC = 8, TX_ASSOC = 9 };

static _Alignas(8) unsigned char room[kRoom];
static const struct nlmsghdr* const answer = (const struct nlmsghdr*)room;

static inline struct request device_request(const struct family* family, uint32_t id,
                                            uint32_t seq) {
  struct request r;
  begin(&r, family->id, 0, seq, DEV_GET);
  put_u32(&r, 1, id);
  return r;
}

static inline void expect_device(uint32_t seq) {
  CHECK(answer->nlmsg_seq == seq && answer->nlmsg_type != NLMSG_ERROR);
  CHECK(u32(attribute(room, 1)) == 1);
}

static inline void get_device(int fd, const struct family* family, uint32_t seq) {
  const struct request r = device_request(family, 1, seq);
  send_request(fd, &r);
  receive(fd, room);
  expect_device(seq);
  CHECK(answer->nlmsg_pid == port_of(fd));
}

/* rotate makes a notification of the group `use`, on a socket of its own. */
static inline void rotate(const struct family* family) {
  const int fd = open_genl();
  struct request r;
  begin(&r, family->id, 0, 5, KEY_ROTATE);
  put_u32(&r, 1, 1);
  send_request(fd, &r);
  receive(fd, room);
  CHECK(answer->nlmsg_type == family->id && answer->nlmsg_seq == 5);
  close(fd);
}

static inline void expect_rotation(int fd) {
  receive(fd, room);
  CHECK(answer->nlmsg_seq == 0 && answer->nlmsg_pid == 0);
  CHECK(((const struct genlmsghdr*)NLMSG_DATA(answer))->cmd == KEY_ROTATE_NTF);
  CHECK(u32(attribute(room, 1)) == 1);
}

static inline int nothing_waits(int fd) {
  return recv(fd, room, sizeof room, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static inline void connect_pair(int fds[2]) {
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

/* The habits that are shown elsewhere: handwritten_calls.c, handwritten_daemons.c. */
void calls(void);
void control(void);
void ordinary(void);
void bad_pointers(void);
void absent(void);
void deaf(void);
void kernel(void);
void beside(void);
void named(void);
void restart(void);
