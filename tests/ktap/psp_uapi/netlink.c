// SPDX-License-Identifier: Apache-2.0
//
// Netlink sockets: requests and their answers, notifications, and what is found out at the start.
//
// Each request is awaited to its acknowledgement, whose extended attributes are taken apart too.
// Who waits for what must come has PATIENCE_MS, so that a case fails and does not hang.
#include <net/if.h>
#include <poll.h>
#include <sys/time.h>

#include "psp_uapi.h"

struct subject psp;

struct netlink open_netlink_of(int protocol) {
  struct netlink nl = {.fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol), .seq = 1000};
  struct sockaddr_nl name = {.nl_family = AF_NETLINK};
  socklen_t size = sizeof name;
  const int on = 1;
  const struct timeval limit = {.tv_sec = PATIENCE_MS / 1000};
  if (nl.fd < 0 || bind(nl.fd, (struct sockaddr*)&name, sizeof name) != 0 ||
      getsockname(nl.fd, (struct sockaddr*)&name, &size) != 0 ||
      setsockopt(nl.fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on) != 0 ||
      setsockopt(nl.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0)
    FAIL("netlink socket: %s", strerror(errno));
  nl.port = name.nl_pid;
  return nl;
}

struct netlink open_netlink(void) {
  struct netlink nl = open_netlink_of(NETLINK_GENERIC);
  keep(nl.fd);
  return nl;
}

bool send_message(struct netlink* nl, struct message* m) {
  header_of(m)->nlmsg_len = (uint32_t)m->size;
  header_of(m)->nlmsg_seq = ++nl->seq;
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  return sendto(nl->fd, m->octets, m->size, 0, (struct sockaddr*)&kernel, sizeof kernel) ==
         (ssize_t)m->size;
}

static void take_extack(struct answer* a, const uint8_t* data, size_t size) {
  const struct nlattr* text = attribute(data, size, NLMSGERR_ATTR_MSG);
  if (text != NULL) snprintf(a->text, sizeof a->text, "%s", (const char*)payload(text));
  a->bad = u32_of(attribute(data, size, NLMSGERR_ATTR_OFFS));
  a->missing = u32_of(attribute(data, size, NLMSGERR_ATTR_MISS_TYPE));
  a->missing_in = u32_of(attribute(data, size, NLMSGERR_ATTR_MISS_NEST));
  const struct nlattr* policy = attribute(data, size, NLMSGERR_ATTR_POLICY);
  a->has_policy = policy != NULL;
  a->policy_type = u32_of(inside(policy, NL_POLICY_TYPE_ATTR_TYPE));
  a->policy_min = uint_of(inside(policy, NL_POLICY_TYPE_ATTR_MIN_VALUE_U));
  a->policy_max = uint_of(inside(policy, NL_POLICY_TYPE_ATTR_MAX_VALUE_U));
  a->policy_mask = uint_of(inside(policy, POLICY_ATTR_MASK));
}

static void take_error(struct answer* a, const struct nlmsghdr* h) {
  const struct nlmsgerr* e = NLMSG_DATA(h);
  a->error = -e->error;
  a->ack_flags = h->nlmsg_flags;
  size_t skip = sizeof *e;
  if (!(h->nlmsg_flags & NLM_F_CAPPED)) skip += NLMSG_ALIGN(e->msg.nlmsg_len - NLMSG_HDRLEN);
  const size_t size = h->nlmsg_len - NLMSG_HDRLEN;
  if (h->nlmsg_flags & NLM_F_ACK_TLVS && size > skip)
    take_extack(a, (const uint8_t*)e + skip, size - skip);
}

static void take_message(struct answer* a, const struct nlmsghdr* h) {
  const struct genlmsghdr* g = NLMSG_DATA(h);
  a->messages++;
  a->cmd = g->cmd;
  a->version = g->version;
  a->flags = h->nlmsg_flags;
  a->port = h->nlmsg_pid;
  a->size = h->nlmsg_len - NLMSG_HDRLEN - GENL_HDRLEN;
  if (a->size > sizeof a->attributes) a->size = 0;
  memcpy(a->attributes, (const uint8_t*)g + GENL_HDRLEN, a->size);
}

void receive(struct netlink* nl, uint32_t seq, struct answer* a, each_message* each,
             void* context) {
  static _Alignas(8) uint8_t buffer[65536];
  memset(a, 0, offsetof(struct answer, attributes));
  a->size = 0;
  a->error = -1;
  for (;;) {
    const ssize_t n = recv(nl->fd, buffer, sizeof buffer, 0);
    if (n <= 0) return;
    size_t left = (size_t)n;
    for (struct nlmsghdr* h = (struct nlmsghdr*)buffer; NLMSG_OK(h, left);
         h = NLMSG_NEXT(h, left)) {
      if (h->nlmsg_seq != seq) continue;
      if (h->nlmsg_type == NLMSG_ERROR) {
        take_error(a, h);
        return;
      }
      if (h->nlmsg_type == NLMSG_DONE) {
        a->error = -*(const int*)NLMSG_DATA(h);
        a->ack_flags = h->nlmsg_flags;
        return;
      }
      take_message(a, h);
      if (each != NULL) each(h, context);
    }
  }
}

void ask(struct netlink* nl, struct message* m, struct answer* a) {
  header_of(m)->nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
  a->error = -1;
  if (send_message(nl, m)) receive(nl, nl->seq, a, NULL, NULL);
}

void ask_id(struct netlink* nl, uint8_t cmd, uint32_t id, struct answer* a) {
  struct message m;
  begin(&m, psp.family, cmd, 0);
  put_u32(&m, DEV_ID, id);
  ask(nl, &m, a);
}

void dump(struct netlink* nl, uint8_t cmd, struct answer* a, each_message* each, void* context) {
  struct message m;
  begin(&m, psp.family, cmd, NLM_F_REQUEST | NLM_F_DUMP);
  a->error = -1;
  if (send_message(nl, &m)) receive(nl, nl->seq, a, each, context);
}

void set_ena(struct netlink* nl, uint32_t ena, struct answer* a) {
  struct message m;
  begin(&m, psp.family, DEV_SET, 0);
  put_u32(&m, DEV_ID, psp.id);
  put_u32(&m, DEV_ENA, ena);
  ask(nl, &m, a);
}

void get_family(struct netlink* nl, const char* name, struct answer* a) {
  struct message m;
  begin(&m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0);
  put_text(&m, CTRL_ATTR_FAMILY_NAME, name);
  ask(nl, &m, a);
}

uint32_t group_id(const struct answer* a, const char* name) {
  const struct nlattr* groups = attribute(a->attributes, a->size, CTRL_ATTR_MCAST_GROUPS);
  for (uint16_t i = 1; groups != NULL && i < 16; i++) {
    const struct nlattr* group = inside(groups, i);
    const struct nlattr* text = inside(group, CTRL_ATTR_MCAST_GRP_NAME);
    if (text != NULL && strcmp(payload(text), name) == 0)
      return u32_of(inside(group, CTRL_ATTR_MCAST_GRP_ID));
  }
  return 0;
}

void find_device_row(const struct nlmsghdr* h, void* context) {
  const uint8_t* data = (const uint8_t*)NLMSG_DATA(h) + GENL_HDRLEN;
  const size_t size = h->nlmsg_len - NLMSG_HDRLEN - GENL_HDRLEN;
  const uint32_t ifindex = u32_of(attribute(data, size, DEV_IFINDEX));
  (void)context;
  if (ifindex == psp.ifindex) {
    psp.id = u32_of(attribute(data, size, DEV_ID));
    psp.cap = u32_of(attribute(data, size, DEV_CAP));
  } else if (opt.dev2 != NULL && ifindex == if_nametoindex(opt.dev2)) {
    psp.id2 = u32_of(attribute(data, size, DEV_ID));
  }
}

const char* set_up(void) {
  struct answer a;
  psp.nl = open_netlink_of(NETLINK_GENERIC);
  if (tap.bad) return tap.why;
  get_family(&psp.nl, "psp", &a);
  if (a.error != 0) return "there is no psp family: neither in the kernel nor by softpsp";
  uint16_t id = 0;
  const struct nlattr* number = attribute(a.attributes, a.size, CTRL_ATTR_FAMILY_ID);
  if (number != NULL) memcpy(&id, payload(number), sizeof id);
  psp.family = id;
  psp.mgmt = group_id(&a, "mgmt");
  psp.use = group_id(&a, "use");
  if (opt.dev == NULL) return NULL;
  psp.ifindex = if_nametoindex(opt.dev);
  if (psp.ifindex == 0) return "--dev: no such netdev";
  dump(&psp.nl, DEV_GET, &a, find_device_row, NULL);
  if (psp.id == 0) return "--dev has no PSP device";
  return NULL;
}

struct netlink join(uint32_t group) {
  struct netlink nl = open_netlink();
  if (setsockopt(nl.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) != 0)
    FAIL("NETLINK_ADD_MEMBERSHIP: %s", strerror(errno));
  return nl;
}

bool next_notification(struct netlink* nl, struct answer* a, int patience_ms) {
  static _Alignas(8) uint8_t buffer[65536];
  struct pollfd ready = {.fd = nl->fd, .events = POLLIN};
  memset(a, 0, offsetof(struct answer, attributes));
  if (poll(&ready, 1, patience_ms) != 1) return false;
  const ssize_t n = recv(nl->fd, buffer, sizeof buffer, 0);
  const struct nlmsghdr* h = (const struct nlmsghdr*)buffer;
  if (n < (ssize_t)(NLMSG_HDRLEN + GENL_HDRLEN) || h->nlmsg_type != psp.family) return false;
  take_message(a, h);
  a->error = (int)h->nlmsg_seq;  // of a notification: 0
  return true;
}

const struct nlattr* in_answer(const struct answer* a, uint16_t type) {
  return attribute(a->attributes, a->size, type);
}
