/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw generic netlink for the programs that are run under libpsp-genl.so: written as for the
 * kernel, knowing nothing of pspd. A check that fails ends the program and says where.
 *
 * It trusts as little as a careful program does: senders must be the kernel (port 0), ports and
 * sequence numbers must fit. No netlink library is used, since these hide which calls are made;
 * those have programs of their own (mnl_client.c, nl_client.c).
 */
#ifndef PSP_TESTS_PRELOAD_GENL_H
#define PSP_TESTS_PRELOAD_GENL_H

#include <errno.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHECK(condition)                                                                  \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      printf("%s:%d: %s (errno: %s)\n", __FILE__, __LINE__, #condition, strerror(errno)); \
      exit(1);                                                                            \
    }                                                                                     \
  } while (0)

enum { kRoom = 32768 };

struct request {
  struct nlmsghdr netlink;
  struct genlmsghdr generic;
  unsigned char attributes[512];
};

/* family is `psp` as resolved. */
struct family {
  uint16_t id;
  uint32_t mgmt, use;
};

static inline int open_genl(void) {
  const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
  CHECK(fd >= 0);
  return fd;
}

static inline void begin(struct request* r, uint16_t type, uint16_t flags, uint32_t seq,
                         uint8_t cmd) {
  memset(r, 0, sizeof *r);
  r->netlink.nlmsg_len = NLMSG_HDRLEN + GENL_HDRLEN;
  r->netlink.nlmsg_type = type;
  r->netlink.nlmsg_flags = NLM_F_REQUEST | flags;
  r->netlink.nlmsg_seq = seq;
  r->generic.cmd = cmd;
  r->generic.version = 1;
}

static inline void put(struct request* r, uint16_t type, const void* data, size_t size) {
  unsigned char* at = (unsigned char*)r + NLMSG_ALIGN(r->netlink.nlmsg_len);
  const struct nlattr header = {(uint16_t)(NLA_HDRLEN + size), type};
  memcpy(at, &header, sizeof header);
  memcpy(at + NLA_HDRLEN, data, size);
  r->netlink.nlmsg_len = NLMSG_ALIGN(r->netlink.nlmsg_len) + NLA_ALIGN(header.nla_len);
}

static inline void put_u32(struct request* r, uint16_t type, uint32_t value) {
  put(r, type, &value, sizeof value);
}

static inline void send_request(int fd, const struct request* r) {
  const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  CHECK(sendto(fd, r, r->netlink.nlmsg_len, 0, (const struct sockaddr*)&kernel, sizeof kernel) ==
        (ssize_t)r->netlink.nlmsg_len);
}

/* receive takes one datagram, as a program does that trusts nobody but the kernel. */
static inline size_t receive(int fd, void* room) {
  struct sockaddr_nl from = {0};
  socklen_t length = sizeof from;
  const ssize_t got = recvfrom(fd, room, kRoom, 0, (struct sockaddr*)&from, &length);
  CHECK(got >= (ssize_t)NLMSG_HDRLEN);
  CHECK(length == sizeof from && from.nl_pid == 0);
  return (size_t)got;
}

static inline const struct nlattr* find(const void* at, size_t size, uint16_t type) {
  const struct nlattr* row = at;
  while (size >= NLA_HDRLEN && row->nla_len >= NLA_HDRLEN && row->nla_len <= size) {
    if ((row->nla_type & NLA_TYPE_MASK) == type) return row;
    const size_t whole = NLA_ALIGN(row->nla_len);
    const size_t step = whole < size ? whole : size;
    size -= step;
    row = (const void*)((const char*)row + step);
  }
  return NULL;
}

static inline const struct nlattr* attribute(const void* message, uint16_t type) {
  const struct nlmsghdr* header = message;
  return find((const char*)message + NLMSG_HDRLEN + GENL_HDRLEN,
              header->nlmsg_len - NLMSG_HDRLEN - GENL_HDRLEN, type);
}

static inline const void* value(const struct nlattr* row) { return (const char*)row + NLA_HDRLEN; }

static inline uint32_t u32(const struct nlattr* row) {
  uint32_t number;
  CHECK(row != NULL && row->nla_len == NLA_HDRLEN + sizeof number);
  memcpy(&number, value(row), sizeof number);
  return number;
}

static inline uint32_t port_of(int fd) {
  struct sockaddr_nl own = {0};
  socklen_t length = sizeof own;
  CHECK(getsockname(fd, (struct sockaddr*)&own, &length) == 0);
  return own.nl_pid;
}

/* error_in returns the errno of a NLMSG_ERROR, 0 for an ack. */
static inline int error_in(const void* message) {
  const struct nlmsghdr* header = message;
  CHECK(header->nlmsg_type == NLMSG_ERROR);
  return -((const struct nlmsgerr*)NLMSG_DATA(header))->error;
}

static inline void ask_family(int fd, uint32_t seq, const char* name) {
  struct request r;
  begin(&r, GENL_ID_CTRL, 0, seq, CTRL_CMD_GETFAMILY);
  put(&r, CTRL_ATTR_FAMILY_NAME, name, strlen(name) + 1);
  send_request(fd, &r);
}

/* read_family takes the answer. Returns an errno. */
static inline int read_family(int fd, struct family* family) {
  _Alignas(8) unsigned char room[kRoom];
  receive(fd, room);
  const struct nlmsghdr* header = (const void*)room;
  CHECK(header->nlmsg_pid == port_of(fd));
  if (header->nlmsg_type == NLMSG_ERROR) return error_in(room);
  CHECK(header->nlmsg_type == GENL_ID_CTRL);
  memcpy(&family->id, value(attribute(room, CTRL_ATTR_FAMILY_ID)), sizeof family->id);
  const struct nlattr* groups = attribute(room, CTRL_ATTR_MCAST_GROUPS);
  family->mgmt = family->use = 0;
  for (uint16_t i = 1; groups != NULL && i <= 2; i++) {
    const struct nlattr* group = find(value(groups), groups->nla_len - NLA_HDRLEN, i);
    if (group == NULL) break;
    const size_t size = group->nla_len - NLA_HDRLEN;
    const uint32_t id = u32(find(value(group), size, CTRL_ATTR_MCAST_GRP_ID));
    const char* name = value(find(value(group), size, CTRL_ATTR_MCAST_GRP_NAME));
    if (strcmp(name, "mgmt") == 0) family->mgmt = id;
    if (strcmp(name, "use") == 0) family->use = id;
  }
  return 0;
}

static inline struct family resolve(int fd) {
  struct family family = {0};
  ask_family(fd, 1, "psp");
  CHECK(read_family(fd, &family) == 0);
  CHECK(family.id != 0 && family.mgmt != 0 && family.use != 0);
  return family;
}

static inline void join(int fd, uint32_t group) {
  CHECK(setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) == 0);
}

static inline void set_flag(int fd, int option) {
  const int on = 1;
  CHECK(setsockopt(fd, SOL_NETLINK, option, &on, sizeof on) == 0);
}

#endif
