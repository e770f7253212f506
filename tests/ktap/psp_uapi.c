// SPDX-License-Identifier: Apache-2.0
//
// psp_uapi: the contract of Linux's `psp` generic netlink family, as a program that speaks it.
//
// It uses the C library alone and has its own copy of every number, since it tests the contract and
// not the headers of whoever keeps it. It runs on a kernel with PSP and a NIC (or netdevsim), and
// unchanged on softpsp by `pspctl run -- psp_uapi ...`. Output: KTAP version 1.
//
//   psp_uapi --serve [::]:7000                              on the peer, PSP there too
//   psp_uapi --dev eth0 --peer 10.77.0.2:7000 --peer-assoc  here, as root
//
// Parts, in this order: numbers, options, KTAP, netlink, sockets, the peer service, the table of
// refused requests, cases by subject, main.
//
// Threading: one thread. No secrets: keys in here are test data.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/capability.h>
#include <linux/genetlink.h>
#include <linux/if_link.h>
#include <linux/net_namespace.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

// --- numbers of the contract
// ----------------------------------------------------------------------

enum {
  DEV_GET = 1,
  DEV_ADD_NTF,
  DEV_DEL_NTF,
  DEV_SET,
  DEV_CHANGE_NTF,
  KEY_ROTATE,
  KEY_ROTATE_NTF,
  RX_ASSOC,
  TX_ASSOC,
  GET_STATS,
  DEV_ASSOC,
  DEV_DISASSOC,
};
enum {
  DEV_ID = 1,
  DEV_IFINDEX,
  DEV_CAP,
  DEV_ENA,
  DEV_ASSOC_LIST,
  DEV_NSID,
  DEV_BY_ASSOCIATION,
};
enum { ASSOC_DEV_IFINDEX = 1, ASSOC_DEV_NSID };
enum { ASSOC_DEV_ID = 1, ASSOC_VERSION, ASSOC_RX_KEY, ASSOC_TX_KEY, ASSOC_SOCK_FD };
enum { KEYS_KEY = 1, KEYS_SPI };
enum {
  STATS_DEV_ID = 1,
  STATS_KEY_ROTATIONS,
  STATS_STALE_EVENTS,
  STATS_RX_PACKETS,
  STATS_RX_BYTES,
  STATS_RX_AUTH_FAIL,
  STATS_RX_ERROR,
  STATS_RX_BAD,
  STATS_TX_PACKETS,
  STATS_TX_BYTES,
  STATS_TX_ERROR,
};
#define ALL_VERSIONS 0xfu
#define TEXT_ESTABLISHED "Socket must be in established state"
#define TEXT_RANGE "integer out of range"
#define TEXT_UNKNOWN "Unknown attribute type"
#define TEXT_POLICY "Attribute failed policy validation"
#define TEXT_LENGTH "invalid attribute length"
#ifndef TCP_ULP
#define TCP_ULP 31
#endif
// Younger than some distributions' headers.
#define POLICY_ATTR_MASK 12
#define PATIENCE_MS 5000  // for what must come
#define SILENCE_MS 300    // for what must not

// --- options
// --------------------------------------------------------------------------------------

static struct {
  const char *dev, *dev2, *rereg, *only, *serve;
  struct sockaddr_storage peer;
  socklen_t peer_size;
  bool peer_assoc, linux_6_18, net_next, list;
  unsigned without;  // NEED_... that this host is known not to have
} opt;

enum {  // what a case needs, beyond a device and a peer that accepts
  NEED_ROOT = 1,
  NEED_PEER_ASSOC = 2,
  NEED_DEV2 = 4,
  NEED_PARTIAL_CAP = 8,  // a device without some version
  NEED_KTLS = 16,
  NEED_REREG = 32,
  NEED_NETNS = 64,
  NEED_USERNS = 128,
  NEED_EVERYWHERE = 1024,  // namespaces without a device have the family too
  ONLY_NET_NEXT = 256,
  NOT_NET_NEXT = 512,
  NOT_6_18 = 1024,
  ONLY_6_18 = 2048,
};

// --- KTAP
// -----------------------------------------------------------------------------------------

static struct {
  unsigned number, failed;
  char why[512];
  bool bad;
} tap;

// The descriptors of the running case; closed behind it.
static int kept[512];
static unsigned kept_count;

static int keep(int fd) {
  if (fd >= 0 && kept_count < sizeof kept / sizeof kept[0]) kept[kept_count++] = fd;
  return fd;
}

static void close_kept(void) {
  while (kept_count > 0) close(kept[--kept_count]);
}

__attribute__((format(printf, 2, 3))) static void fail(int line, const char* format, ...) {
  if (tap.bad) return;  // the first reason is the reason
  tap.bad = true;
  int at = snprintf(tap.why, sizeof tap.why, "line %d: ", line);
  va_list list;
  va_start(list, format);
  vsnprintf(tap.why + at, sizeof tap.why - (size_t)at, format, list);
  va_end(list);
}

#define CHECK(condition, ...)      \
  do {                             \
    if (!(condition)) {            \
      fail(__LINE__, __VA_ARGS__); \
      return;                      \
    }                              \
  } while (0)
#define CHECK_EQ(got, want, what)                                                              \
  CHECK((long long)(got) == (long long)(want), "%s is %lld, not %lld", what, (long long)(got), \
        (long long)(want))
#define PASS_ON          \
  do {                   \
    if (tap.bad) return; \
  } while (0)

static void report(const char* name, const char* skip) {
  tap.number++;
  if (skip != NULL) {
    printf("ok %u %s # SKIP %s\n", tap.number, name, skip);
  } else {
    if (tap.bad) printf("# %s\n", tap.why);
    printf("%s %u %s\n", tap.bad ? "not ok" : "ok", tap.number, name);
    tap.failed += tap.bad;
  }
  tap.bad = false;
  fflush(stdout);
}

// --- netlink: messages
// ----------------------------------------------------------------------------

struct message {
  _Alignas(8) uint8_t octets[8192];
  size_t size;
  uint32_t bad, missing_in;  // offsets of the attributes that the table marks
};

static struct nlmsghdr* header_of(struct message* m) { return (struct nlmsghdr*)m->octets; }

static void begin(struct message* m, uint16_t family, uint8_t cmd, uint16_t flags) {
  memset(m->octets, 0, NLMSG_HDRLEN + GENL_HDRLEN);
  m->size = NLMSG_HDRLEN + GENL_HDRLEN;
  m->bad = m->missing_in = 0;
  *header_of(m) = (struct nlmsghdr){.nlmsg_type = family, .nlmsg_flags = flags};
  *(struct genlmsghdr*)(m->octets + NLMSG_HDRLEN) = (struct genlmsghdr){.cmd = cmd, .version = 1};
}

static size_t put(struct message* m, uint16_t type, const void* data, size_t size) {
  const size_t at = m->size;
  const struct nlattr head = {.nla_len = (uint16_t)(NLA_HDRLEN + size), .nla_type = type};
  memset(m->octets + at, 0, NLA_HDRLEN + NLA_ALIGN(size));
  memcpy(m->octets + at, &head, sizeof head);
  if (size != 0) memcpy(m->octets + at + NLA_HDRLEN, data, size);
  m->size += NLA_HDRLEN + NLA_ALIGN(size);
  return at;
}

static size_t put_u32(struct message* m, uint16_t type, uint32_t value) {
  return put(m, type, &value, sizeof value);
}

static size_t put_text(struct message* m, uint16_t type, const char* text) {
  return put(m, type, text, strlen(text) + 1);
}

static size_t nest(struct message* m, uint16_t type) { return put(m, type, NULL, 0); }

static void end_nest(struct message* m, size_t at) {
  ((struct nlattr*)(m->octets + at))->nla_len = (uint16_t)(m->size - at);
}

// attribute finds `type` among the attributes in [data, data + size); NULL: not there. With `skip`,
// the one after so many of its type.
static const struct nlattr* attribute_nth(const void* data, size_t size, uint16_t type,
                                          unsigned skip) {
  const uint8_t* at = data;
  while (size >= NLA_HDRLEN) {
    const struct nlattr* a = (const struct nlattr*)at;
    if (a->nla_len < NLA_HDRLEN || a->nla_len > size) return NULL;
    if ((a->nla_type & NLA_TYPE_MASK) == type && skip-- == 0) return a;
    const size_t padded = NLA_ALIGN((size_t)a->nla_len), step = padded < size ? padded : size;
    at += step;
    size -= step;
  }
  return NULL;
}
static const struct nlattr* attribute(const void* data, size_t size, uint16_t type) {
  return attribute_nth(data, size, type, 0);
}
static unsigned count_attributes(const void* data, size_t size) {
  unsigned count = 0;
  for (size_t at = 0; at + NLA_HDRLEN <= size; count++) {
    const struct nlattr* a = (const struct nlattr*)((const uint8_t*)data + at);
    if (a->nla_len < NLA_HDRLEN) break;
    at += NLA_ALIGN(a->nla_len);
  }
  return count;
}
static const void* payload(const struct nlattr* a) { return (const uint8_t*)a + NLA_HDRLEN; }
static size_t payload_size(const struct nlattr* a) { return a->nla_len - (size_t)NLA_HDRLEN; }
static uint32_t u32_of(const struct nlattr* a) {
  uint32_t value = 0;
  if (a != NULL && payload_size(a) >= sizeof value) memcpy(&value, payload(a), sizeof value);
  return value;
}
static uint64_t uint_of(const struct nlattr* a) {
  uint64_t value = 0;
  if (a != NULL && payload_size(a) == 8) memcpy(&value, payload(a), 8);
  return a != NULL && payload_size(a) == 4 ? u32_of(a) : value;
}
static const struct nlattr* inside(const struct nlattr* a, uint16_t type) {
  return a == NULL ? NULL : attribute(payload(a), payload_size(a), type);
}

// --- netlink: sockets
// -----------------------------------------------------------------------------

struct netlink {
  int fd;
  uint32_t seq, port;
};

static struct {
  struct netlink nl;
  uint16_t family;
  uint32_t mgmt, use;  // group ids
  uint32_t id, ifindex, cap, id2;
} psp;

static struct netlink open_netlink_of(int protocol) {
  struct netlink nl = {.fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol), .seq = 1000};
  struct sockaddr_nl name = {.nl_family = AF_NETLINK};
  socklen_t size = sizeof name;
  const int on = 1;
  const struct timeval limit = {.tv_sec = PATIENCE_MS / 1000};
  if (nl.fd < 0 || bind(nl.fd, (struct sockaddr*)&name, sizeof name) != 0 ||
      getsockname(nl.fd, (struct sockaddr*)&name, &size) != 0 ||
      setsockopt(nl.fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on) != 0 ||
      setsockopt(nl.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0)
    fail(__LINE__, "netlink socket: %s", strerror(errno));
  nl.port = name.nl_pid;
  return nl;
}

static struct netlink open_netlink(void) {
  struct netlink nl = open_netlink_of(NETLINK_GENERIC);
  keep(nl.fd);
  return nl;
}

struct answer {
  int error;  // positive; 0: acknowledged; -1: nothing came
  uint16_t ack_flags;
  char text[160];
  uint32_t bad, missing, missing_in;
  uint32_t policy_type;
  uint64_t policy_min, policy_max, policy_mask;
  bool has_policy;
  unsigned messages;  // genl messages before the acknowledgement; the last of them:
  uint8_t cmd, version;
  uint16_t flags;
  uint32_t port;
  _Alignas(8) uint8_t attributes[16384];
  size_t size;
};

static bool send_message(struct netlink* nl, struct message* m) {
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

// receive takes messages with `seq` until the acknowledgement. each: called with every genl message
// too; may be NULL. The end of a dump counts as acknowledgement.
typedef void each_message(const struct nlmsghdr*, void* context);
static void receive(struct netlink* nl, uint32_t seq, struct answer* a, each_message* each,
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

// ask sends and awaits the answer; it sets NLM_F_ACK, so that each request has an end.
static void ask(struct netlink* nl, struct message* m, struct answer* a) {
  header_of(m)->nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
  a->error = -1;
  if (send_message(nl, m)) receive(nl, nl->seq, a, NULL, NULL);
}

static void ask_id(struct netlink* nl, uint8_t cmd, uint32_t id, struct answer* a) {
  struct message m;
  begin(&m, psp.family, cmd, 0);
  put_u32(&m, DEV_ID, id);
  ask(nl, &m, a);
}

static void dump(struct netlink* nl, uint8_t cmd, struct answer* a, each_message* each,
                 void* context) {
  struct message m;
  begin(&m, psp.family, cmd, NLM_F_REQUEST | NLM_F_DUMP);
  a->error = -1;
  if (send_message(nl, &m)) receive(nl, nl->seq, a, each, context);
}

static void set_ena(struct netlink* nl, uint32_t ena, struct answer* a) {
  struct message m;
  begin(&m, psp.family, DEV_SET, 0);
  put_u32(&m, DEV_ID, psp.id);
  put_u32(&m, DEV_ENA, ena);
  ask(nl, &m, a);
}

// get_family fills `a` from CTRL_CMD_GETFAMILY by name.
static void get_family(struct netlink* nl, const char* name, struct answer* a) {
  struct message m;
  begin(&m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0);
  put_text(&m, CTRL_ATTR_FAMILY_NAME, name);
  ask(nl, &m, a);
}

static uint32_t group_id(const struct answer* a, const char* name) {
  const struct nlattr* groups = attribute(a->attributes, a->size, CTRL_ATTR_MCAST_GROUPS);
  for (uint16_t i = 1; groups != NULL && i < 16; i++) {
    const struct nlattr* group = inside(groups, i);
    const struct nlattr* text = inside(group, CTRL_ATTR_MCAST_GRP_NAME);
    if (text != NULL && strcmp(payload(text), name) == 0)
      return u32_of(inside(group, CTRL_ATTR_MCAST_GRP_ID));
  }
  return 0;
}

static void find_device_row(const struct nlmsghdr* h, void* context) {
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

// set_up resolves family, groups and devices. Returns NULL or what is wrong.
static const char* set_up(void) {
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

// join makes a listener; the groups are a case's to choose.
static struct netlink join(uint32_t group) {
  struct netlink nl = open_netlink();
  if (setsockopt(nl.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) != 0)
    fail(__LINE__, "NETLINK_ADD_MEMBERSHIP: %s", strerror(errno));
  return nl;
}

// next_notification waits for one message; false: none came in time.
static bool next_notification(struct netlink* nl, struct answer* a, int patience_ms) {
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

static const struct nlattr* in_answer(const struct answer* a, uint16_t type) {
  return attribute(a->attributes, a->size, type);
}

// --- sockets
// --------------------------------------------------------------------------------------

static int connect_peer(void) {
  int fd = keep(socket(opt.peer.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const struct timeval limit = {.tv_sec = PATIENCE_MS / 1000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (fd < 0 || connect(fd, (struct sockaddr*)&opt.peer, opt.peer_size) != 0)
    fail(__LINE__, "connect to the peer: %s", strerror(errno));
  return fd;
}

static uint16_t local_port(int fd) {
  struct sockaddr_storage name;
  socklen_t size = sizeof name;
  if (getsockname(fd, (struct sockaddr*)&name, &size) != 0) return 0;
  return ntohs(name.ss_family == AF_INET ? ((struct sockaddr_in*)&name)->sin_port
                                         : ((struct sockaddr_in6*)&name)->sin6_port);
}

struct key {
  uint32_t spi;
  size_t size;
  uint8_t octets[32];
};

static const struct key example = {.spi = 0x123, .size = 16, .octets = "\1\2\3\4\5\6\7\10"};

static size_t key_size(uint32_t version) { return version & 1 ? 32 : 16; }

static void ask_rx(struct netlink* nl, int fd, uint32_t version, struct answer* a) {
  struct message m;
  begin(&m, psp.family, RX_ASSOC, 0);
  put_u32(&m, ASSOC_VERSION, version);
  put_u32(&m, ASSOC_SOCK_FD, (uint32_t)fd);
  ask(nl, &m, a);
}

static void ask_tx(struct netlink* nl, int fd, uint32_t version, const struct key* key,
                   struct answer* a) {
  struct message m;
  begin(&m, psp.family, TX_ASSOC, 0);
  put_u32(&m, ASSOC_VERSION, version);
  const size_t tx_key = nest(&m, ASSOC_TX_KEY | NLA_F_NESTED);
  put_u32(&m, KEYS_SPI, key->spi);
  put(&m, KEYS_KEY, key->octets, key->size);
  end_nest(&m, tx_key);
  put_u32(&m, ASSOC_SOCK_FD, (uint32_t)fd);
  ask(nl, &m, a);
}

static void take_key(const struct answer* a, struct key* key) {
  const struct nlattr* rx_key = in_answer(a, ASSOC_RX_KEY);
  const struct nlattr* octets = inside(rx_key, KEYS_KEY);
  memset(key, 0, sizeof *key);
  key->spi = u32_of(inside(rx_key, KEYS_SPI));
  if (octets == NULL || payload_size(octets) > sizeof key->octets) return;
  key->size = payload_size(octets);
  memcpy(key->octets, payload(octets), key->size);
}

static void must_rx(int fd, uint32_t version, struct key* key) {
  struct answer a;
  ask_rx(&psp.nl, fd, version, &a);
  CHECK(a.error == 0, "rx-assoc: %s %s", strerror(a.error), a.text);
  if (key != NULL) take_key(&a, key);
}

static void must_tx(int fd, uint32_t version, const struct key* key) {
  struct answer a;
  ask_tx(&psp.nl, fd, version, key, &a);
  CHECK(a.error == 0, "tx-assoc: %s %s", strerror(a.error), a.text);
}

static bool wait_readable(int fd, int patience_ms) {
  struct pollfd ready = {.fd = fd, .events = POLLIN};
  return poll(&ready, 1, patience_ms) == 1;
}

// loopback_socket is connected to a listener of this program: its route has no PSP device.
static int loopback_socket(void) {
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof here;
  int listener = keep(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  int fd = keep(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (bind(listener, (struct sockaddr*)&here, size) != 0 || listen(listener, 4) != 0 ||
      getsockname(listener, (struct sockaddr*)&here, &size) != 0 ||
      connect(fd, (struct sockaddr*)&here, size) != 0)
    fail(__LINE__, "connect over loopback: %s", strerror(errno));
  return fd;
}

enum socket_kind {
  S_ESTABLISHED,
  S_RX,
  S_FULL,
  S_RX_HALF_CLOSED,
  S_HALF_CLOSED,
  S_CLOSED,
  S_LISTEN,
  S_LOOPBACK,
  S_UDP,
  S_UNIX,
  S_NETLINK,
  S_FILE,
  S_NOT_OPEN,
  S_MINUS_ONE,
};

static int plain_socket(enum socket_kind kind) {
  const int family = opt.peer.ss_family;
  switch (kind) {
    case S_UDP:
      return keep(socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    case S_UNIX:
      return keep(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    case S_NETLINK:
      return keep(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    case S_FILE:
      return keep(open("/dev/null", O_RDWR | O_CLOEXEC));
    case S_NOT_OPEN:
      return 987;
    case S_MINUS_ONE:
      return -1;
    default:
      return keep(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  }
}

static int make_socket(enum socket_kind kind) {
  int fd;
  switch (kind) {
    case S_LOOPBACK:
      return loopback_socket();
    case S_LISTEN:
      fd = plain_socket(kind);
      if (listen(fd, 1) != 0) fail(__LINE__, "listen: %s", strerror(errno));
      return fd;
    case S_ESTABLISHED:
    case S_RX:
    case S_FULL:
    case S_RX_HALF_CLOSED:
    case S_HALF_CLOSED:
      fd = connect_peer();
      break;
    default:
      return plain_socket(kind);
  }
  if (kind == S_RX || kind == S_FULL || kind == S_RX_HALF_CLOSED) must_rx(fd, 0, NULL);
  if (kind == S_FULL) must_tx(fd, 0, &example);
  if (kind == S_RX_HALF_CLOSED || kind == S_HALF_CLOSED) shutdown(fd, SHUT_WR);
  return fd;
}

// --- the peer service
// -----------------------------------------------------------------------------
//
// Every connection is accepted and what arrives on it is counted. One that begins with the line
// "CONTROL" commands the others, which it names by the port that they come from:
//   ASSOC PORT VERSION SPI KEY  -> OK SPI KEY    rx-assoc and tx-assoc on that connection
//   SEND PORT COUNT             -> OK            then sends so many octets of the pattern
//   COUNT PORT                  -> OK COUNT      octets that have arrived
//   CHECK PORT                  -> OK SUM        their sum
// and "ERR text" if it failed.

struct guest {
  int fd;
  uint16_t port;
  bool control;
  uint64_t count, sum;
  char line[512];
  size_t line_size;
};
static struct guest guests[512];
static unsigned guest_count;

static uint8_t pattern(uint64_t at) { return (uint8_t)(at * 31 + 7); }

static int send_pattern(int fd, uint64_t count) {
  uint8_t buffer[4096];
  for (uint64_t at = 0; at < count;) {
    size_t part = count - at < sizeof buffer ? (size_t)(count - at) : sizeof buffer;
    for (size_t i = 0; i < part; i++) buffer[i] = pattern(at + i);
    const ssize_t n = send(fd, buffer, part, MSG_NOSIGNAL);
    if (n <= 0) return -1;
    at += (uint64_t)n;
  }
  return 0;
}

static void to_hex(const struct key* key, char* text) {
  for (size_t i = 0; i < key->size; i++) sprintf(text + 2 * i, "%02x", key->octets[i]);
}
static void from_hex(struct key* key, const char* text) {
  key->size = strlen(text) / 2 < sizeof key->octets ? strlen(text) / 2 : sizeof key->octets;
  for (size_t i = 0; i < key->size; i++) {
    unsigned value = 0;
    sscanf(text + 2 * i, "%2x", &value);
    key->octets[i] = (uint8_t)value;
  }
}

static void serve_assoc(struct guest* g, uint32_t version, struct key* theirs, char* reply,
                        size_t room) {
  struct key ours;
  char hex[80] = "";
  tap.bad = false;
  must_rx(g->fd, version, &ours);
  if (!tap.bad) must_tx(g->fd, version, theirs);
  if (tap.bad) {
    snprintf(reply, room, "ERR %.200s\n", tap.why);
    return;
  }
  to_hex(&ours, hex);
  snprintf(reply, room, "OK %u %s\n", ours.spi, hex);
}

// delivery is what SEND wants: done behind the reply, since who gets it reads that first.
struct delivery {
  int fd;
  uint64_t count;
};

static void serve_line(const char* line, char* reply, size_t room, struct delivery* due) {
  char verb[16] = "", hex[80] = "";
  unsigned port = 0, number = 0, spi = 0;
  const int fields = sscanf(line, "%15s %u %u %u %79s", verb, &port, &number, &spi, hex);
  struct guest* g = NULL;
  for (unsigned i = 0; i < guest_count; i++)
    if (guests[i].port == port && !guests[i].control) g = &guests[i];
  if (fields < 2 || g == NULL) {
    snprintf(reply, room, "ERR no connection from port %u\n", port);
  } else if (strcmp(verb, "ASSOC") == 0) {
    struct key theirs = {.spi = spi};
    from_hex(&theirs, hex);
    serve_assoc(g, number, &theirs, reply, room);
  } else if (strcmp(verb, "SEND") == 0) {
    snprintf(reply, room, "OK\n");
    *due = (struct delivery){.fd = g->fd, .count = number};
  } else if (strcmp(verb, "COUNT") == 0) {
    snprintf(reply, room, "OK %llu\n", (unsigned long long)g->count);
  } else if (strcmp(verb, "CHECK") == 0) {
    snprintf(reply, room, "OK %llu\n", (unsigned long long)g->sum);
  } else {
    snprintf(reply, room, "ERR what is %s?\n", verb);
  }
}

static bool serve_guest(struct guest* g) {
  uint8_t buffer[65536];
  const ssize_t n = recv(g->fd, buffer, sizeof buffer, MSG_DONTWAIT);
  if (n < 0 && errno == EAGAIN) return true;
  if (n <= 0) return false;
  if (g->count == 0 && n >= 8 && memcmp(buffer, "CONTROL\n", 8) == 0) g->control = true;
  for (ssize_t i = 0; i < n; i++) {
    if (!g->control) {
      g->sum += (uint64_t)buffer[i] * ((g->count + (uint64_t)i) % 251 + 1);
      continue;
    }
    if (buffer[i] != '\n') {
      if (g->line_size + 1 < sizeof g->line) g->line[g->line_size++] = (char)buffer[i];
      continue;
    }
    char reply[512];
    g->line[g->line_size] = '\0';
    g->line_size = 0;
    if (strcmp(g->line, "CONTROL") == 0) continue;
    struct delivery due = {.fd = -1};
    serve_line(g->line, reply, sizeof reply, &due);
    if (send(g->fd, reply, strlen(reply), MSG_NOSIGNAL) < 0) return false;
    if (due.fd >= 0) send_pattern(due.fd, due.count);
  }
  g->count += (uint64_t)n;
  return true;
}

static void serve_accept(int listener) {
  struct sockaddr_storage name;
  socklen_t size = sizeof name;
  const int fd = accept4(listener, (struct sockaddr*)&name, &size, SOCK_CLOEXEC);
  if (fd < 0) return;
  if (guest_count == sizeof guests / sizeof guests[0]) {
    close(fd);
    return;
  }
  const uint16_t port = name.ss_family == AF_INET ? ((struct sockaddr_in*)&name)->sin_port
                                                  : ((struct sockaddr_in6*)&name)->sin6_port;
  guests[guest_count++] = (struct guest){.fd = fd, .port = ntohs(port)};
}

static int serve(const struct sockaddr_storage* where, socklen_t size) {
  int listener = socket(where->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (const struct sockaddr*)where, size) != 0 || listen(listener, 64) != 0) {
    perror("psp_uapi --serve");
    return 1;
  }
  if (set_up() != NULL) fprintf(stderr, "psp_uapi --serve: no psp family here: only accepts\n");
  puts("serving");
  fflush(stdout);
  for (;;) {
    struct pollfd ready[1 + sizeof guests / sizeof guests[0]];
    ready[0] = (struct pollfd){.fd = listener, .events = POLLIN};
    const unsigned count = guest_count;
    for (unsigned i = 0; i < count; i++)
      ready[i + 1] = (struct pollfd){.fd = guests[i].fd, .events = POLLIN};
    if (poll(ready, count + 1, -1) < 0) continue;
    // Newcomers first: a control connection may name one that came at the same time.
    if (ready[0].revents != 0) serve_accept(listener);
    for (unsigned i = count; i-- > 0;) {
      if (ready[i + 1].revents == 0 || serve_guest(&guests[i])) continue;
      close(guests[i].fd);
      guests[i] = guests[--guest_count];
    }
  }
}

// command sends one line to the service and takes its answer. false: it failed, and so has the
// case.
__attribute__((format(printf, 3, 4))) static bool command(char* answer, size_t room,
                                                          const char* format, ...) {
  char line[512];
  const int fd = connect_peer();
  va_list list;
  va_start(list, format);
  int size = snprintf(line, sizeof line, "CONTROL\n");
  size += vsnprintf(line + size, sizeof line - (size_t)size, format, list);
  va_end(list);
  size_t got = 0;
  if (!tap.bad && send(fd, line, (size_t)size, MSG_NOSIGNAL) == size) {
    ssize_t n;
    while (got + 1 < room && (n = recv(fd, answer + got, room - got - 1, 0)) > 0) {
      got += (size_t)n;
      if (answer[got - 1] == '\n') break;
    }
  }
  answer[got] = '\0';
  if (strncmp(answer, "OK", 2) == 0) return true;
  fail(__LINE__, "peer says '%s' to '%s'", answer, line + 8);
  return false;
}

// secure makes both ends of a new connection secured; returns this one.
static int secure(uint32_t version) {
  char text[512], hex[80] = "";
  struct key ours, theirs = {0};
  const int fd = connect_peer();
  must_rx(fd, version, &ours);
  if (tap.bad) return -1;
  to_hex(&ours, hex);
  if (!command(text, sizeof text, "ASSOC %u %u %u %s\n", local_port(fd), version, ours.spi, hex))
    return -1;
  if (sscanf(text, "OK %u %79s", &theirs.spi, hex) != 2) fail(__LINE__, "peer says %s", text);
  from_hex(&theirs, hex);
  must_tx(fd, version, &theirs);
  return tap.bad ? -1 : fd;
}

// fetch has the peer send the pattern on `fd` and compares what arrives.
static void fetch(int fd, unsigned count) {
  char text[512];
  uint8_t buffer[65536];
  if (!command(text, sizeof text, "SEND %u %u\n", local_port(fd), count)) return;
  for (unsigned at = 0; at < count;) {
    const ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    CHECK(n > 0, "only %u of %u octets arrived: %s", at, count, strerror(errno));
    for (ssize_t i = 0; i < n; i++, at++)
      CHECK(buffer[i] == pattern(at), "octet %u is not what was sent", at);
  }
}

// deliver sends the pattern on `fd` and awaits that the peer has all of it, unchanged.
static void deliver(int fd, unsigned count) {
  char text[512];
  uint64_t sum = 0, got = 0;
  CHECK(send_pattern(fd, count) == 0, "send: %s", strerror(errno));
  for (uint64_t at = 0; at < count; at++) sum += (uint64_t)pattern(at) * (at % 251 + 1);
  for (int tries = 0; tries < PATIENCE_MS / 20 && got < count; tries++) {
    if (!command(text, sizeof text, "COUNT %u\n", local_port(fd))) return;
    got = strtoull(text + 3, NULL, 10);
    if (got < count) usleep(20000);
  }
  CHECK_EQ(got, count, "octets at the peer");
  if (!command(text, sizeof text, "CHECK %u\n", local_port(fd))) return;
  CHECK_EQ(strtoull(text + 3, NULL, 10), sum, "their sum");
}

// --- the table of refused requests
// ----------------------------------------------------------------
//
// A row is a request, written as its attributes, and the whole answer: errno, text, and which
// attribute is named. BAD stands before the attribute whose offset must be given, MISSING_IN before
// the nest that lacks something. What a row does not mention must not be in the answer.

enum {
  K_END_ROW,
  K_BAD,
  K_MISSING_IN,
  K_U32,
  K_OWN_ID,
  K_SOCKET,
  K_OCTETS,
  K_NEST,
  K_END_NEST,
  K_STRAY,
  K_IFINDEX
};
struct part {
  uint8_t kind;
  uint16_t type;
  uint32_t value;
};
#define BAD \
  { K_BAD, 0, 0 }
#define MISSING_IN \
  { K_MISSING_IN, 0, 0 }
#define U32(type, value) \
  { K_U32, type, value }
#define OWN_ID \
  { K_OWN_ID, 1, 0 } /* dev.id, assoc.dev-id and stats.dev-id are all 1 */
#define SOCK(kind) \
  { K_SOCKET, ASSOC_SOCK_FD, kind }
#define OCTETS(type, count) \
  { K_OCTETS, type, count }
#define NEST(type) \
  { K_NEST, (type) | NLA_F_NESTED, 0 }
#define OLD_NEST(type) \
  { K_NEST, type, 0 }
#define END_NEST \
  { K_END_NEST, 0, 0 }
#define STRAY(count) \
  { K_STRAY, 0, count } /* octets too few for an attribute */
#define VERSION(value) U32(ASSOC_VERSION, value)
#define TX_KEY(spi, size) NEST(ASSOC_TX_KEY), U32(KEYS_SPI, spi), OCTETS(KEYS_KEY, size), END_NEST
#define MANY_PARTS 12
#define NO_SUCH_ID 64999

struct row {
  const char* name;
  uint8_t cmd;
  struct part parts[MANY_PARTS];
  int error;
  const char* text;
  uint32_t missing;
  unsigned needs;
};

// clang-format off
static const struct row rows[] = {
    // Any operation with an id.
    {"dev-get without id misses id", DEV_GET, {{0}}, EINVAL, "", DEV_ID, 0},
    {"dev-set without id misses id", DEV_SET, {U32(DEV_ENA, 1)}, EINVAL, "", DEV_ID, NEED_ROOT},
    {"key-rotate without id misses id", KEY_ROTATE, {{0}}, EINVAL, "", DEV_ID, NEED_ROOT},
    {"get-stats without dev-id misses dev-id", GET_STATS, {{0}}, EINVAL, "", STATS_DEV_ID, 0},
    {"dev-assoc without id misses id", DEV_ASSOC, {U32(DEV_IFINDEX, 1)}, EINVAL, "", DEV_ID,
     NEED_ROOT},
    {"dev-disassoc without id misses id", DEV_DISASSOC, {U32(DEV_IFINDEX, 1)}, EINVAL, "", DEV_ID,
     NEED_ROOT},
    {"dev-get of an id that nobody has is ENODEV", DEV_GET, {U32(1, NO_SUCH_ID)}, ENODEV, "", 0, 0},
    {"dev-set of an id that nobody has is ENODEV", DEV_SET, {U32(1, NO_SUCH_ID), U32(DEV_ENA, 1)},
     ENODEV, "", 0, NEED_ROOT},
    {"key-rotate of an id that nobody has is ENODEV", KEY_ROTATE, {U32(1, NO_SUCH_ID)}, ENODEV, "",
     0, NEED_ROOT},
    {"get-stats of an id that nobody has is ENODEV", GET_STATS, {U32(1, NO_SUCH_ID)}, ENODEV, "", 0,
     0},
    {"dev-assoc of an id that nobody has is ENODEV", DEV_ASSOC, {U32(1, NO_SUCH_ID),
     U32(DEV_IFINDEX, 1)}, ENODEV, "", 0, NEED_ROOT},
    {"dev-disassoc of an id that nobody has is ENODEV", DEV_DISASSOC, {U32(1, NO_SUCH_ID),
     U32(DEV_IFINDEX, 1)}, ENODEV, "", 0, NEED_ROOT},
    {"an id beyond 65535 is ENODEV", DEV_GET, {U32(1, 0x10001)}, ENODEV, "", 0, 0},
    {"the largest id is ENODEV", DEV_GET, {U32(1, UINT32_MAX)}, ENODEV, "", 0, 0},

    // Policies: range, mask, length, type, strictness.
    {"dev-get of id 0 is out of range", DEV_GET, {BAD, U32(1, 0)}, ERANGE, TEXT_RANGE, 0, 0},
    {"dev-set of id 0 is out of range", DEV_SET, {BAD, U32(1, 0)}, ERANGE, TEXT_RANGE, 0,
     NEED_ROOT},
    {"key-rotate of id 0 is out of range", KEY_ROTATE, {BAD, U32(1, 0)}, ERANGE, TEXT_RANGE, 0,
     NEED_ROOT},
    {"rx-assoc with dev-id 0 is out of range", RX_ASSOC, {BAD, U32(1, 0)}, ERANGE, TEXT_RANGE, 0,
     0},
    {"tx-assoc with dev-id 0 is out of range", TX_ASSOC, {BAD, U32(1, 0)}, ERANGE, TEXT_RANGE, 0,
     0},
    {"get-stats of dev-id 0 is out of range", GET_STATS, {BAD, U32(1, 0)}, ERANGE, TEXT_RANGE, 0,
     0},
    {"dev-assoc of id 0 is out of range", DEV_ASSOC, {BAD, U32(1, 0)}, ERANGE, TEXT_RANGE, 0,
     NEED_ROOT},
    {"dev-disassoc of id 0 is out of range", DEV_DISASSOC, {BAD, U32(1, 0)}, ERANGE, TEXT_RANGE, 0,
     NEED_ROOT},
    {"rx-assoc of version 4 is out of range", RX_ASSOC, {BAD, VERSION(4), SOCK(S_ESTABLISHED)},
     ERANGE, TEXT_RANGE, 0, 0},
    {"tx-assoc of version 4 is out of range", TX_ASSOC, {BAD, VERSION(4), SOCK(S_ESTABLISHED)},
     ERANGE, TEXT_RANGE, 0, 0},
    {"a versions mask with a fifth bit is refused by policy", DEV_SET, {OWN_ID, BAD,
     U32(DEV_ENA, 0x10)}, EINVAL, "reserved bit set", 0, NEED_ROOT},
    {"a versions mask with the highest bit is refused by policy", DEV_SET, {OWN_ID, BAD,
     U32(DEV_ENA, 0x80000001)}, EINVAL, "reserved bit set", 0, NEED_ROOT},
    {"an id of two octets is refused", DEV_GET, {BAD, OCTETS(1, 2)}, EINVAL, TEXT_LENGTH, 0, 0},
    {"an id of eight octets is refused", DEV_GET, {BAD, OCTETS(1, 8)}, EINVAL, TEXT_LENGTH, 0, 0},
    {"an id without octets is refused", DEV_GET, {BAD, OCTETS(1, 0)}, EINVAL, TEXT_LENGTH, 0, 0},
    {"a sock-fd of eight octets is refused", RX_ASSOC, {VERSION(0), BAD, OCTETS(ASSOC_SOCK_FD, 8)},
     EINVAL, TEXT_LENGTH, 0, 0},
    {"a version of one octet is refused", TX_ASSOC, {BAD, OCTETS(ASSOC_VERSION, 1)}, EINVAL,
     TEXT_LENGTH, 0, 0},
    {"a versions mask of two octets is refused", DEV_SET, {OWN_ID, BAD, OCTETS(DEV_ENA, 2)}, EINVAL,
     TEXT_LENGTH, 0, NEED_ROOT},
    {"an SPI of eight octets is refused inside its nest", TX_ASSOC, {VERSION(0), NEST(ASSOC_TX_KEY),
     BAD, OCTETS(KEYS_SPI, 8), END_NEST, SOCK(S_RX)}, EINVAL, TEXT_LENGTH, 0, 0},
    {"a tx-key of two octets fails its policy", TX_ASSOC, {VERSION(0), BAD,
     OCTETS(ASSOC_TX_KEY | NLA_F_NESTED, 2)}, ERANGE, TEXT_POLICY, 0, 0},
    {"an attribute beyond the policy is unknown to dev-get", DEV_GET, {OWN_ID, BAD, U32(99, 1)},
     EINVAL, TEXT_UNKNOWN, 0, 0},
    {"an attribute of the reply is unknown to dev-get", DEV_GET, {OWN_ID, BAD, U32(DEV_IFINDEX, 1)},
     EINVAL, TEXT_UNKNOWN, 0, 0},
    {"an attribute beyond the policy is unknown to rx-assoc", RX_ASSOC, {BAD, U32(6, 1)}, EINVAL,
     TEXT_UNKNOWN, 0, 0},
    {"an attribute beyond the policy is unknown inside tx-key", TX_ASSOC, {VERSION(0),
     NEST(ASSOC_TX_KEY), BAD, U32(3, 1), END_NEST}, EINVAL, TEXT_UNKNOWN, 0, 0},
    {"attribute 0 is unknown", DEV_GET, {BAD, U32(0, 1)}, EINVAL, TEXT_UNKNOWN, 0, 0},
    {"an attribute without policy is unsupported by dev-set", DEV_SET, {OWN_ID, BAD,
     U32(DEV_IFINDEX, 1)}, EINVAL, "Unsupported attribute", 0, NEED_ROOT},
    {"an rx-key in a request is unsupported by rx-assoc", RX_ASSOC, {BAD, NEST(ASSOC_RX_KEY),
     END_NEST}, EINVAL, "Unsupported attribute", 0, 0},
    {"a tx-key in rx-assoc is unsupported", RX_ASSOC, {VERSION(0), BAD, TX_KEY(1, 16)}, EINVAL,
     "Unsupported attribute", 0, 0},
    {"a nest flag on a number is not expected", DEV_GET, {BAD, U32(1 | NLA_F_NESTED, 1)}, EINVAL,
     "NLA_F_NESTED not expected", 0, 0},
    {"a tx-key without nest flag misses it", TX_ASSOC, {VERSION(0), BAD, OLD_NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 1), END_NEST}, EINVAL, "NLA_F_NESTED is missing", 0, 0},
    {"octets behind the last attribute are refused", DEV_GET, {OWN_ID, STRAY(2)}, EINVAL,
     "bytes leftover after parsing attributes", 0, 0},
    {"of a repeated attribute the last counts", DEV_GET, {OWN_ID, U32(1, NO_SUCH_ID)}, ENODEV, "",
     0, 0},
    {"each of a repeated attribute is checked", DEV_GET, {BAD, U32(1, 0), OWN_ID}, ERANGE,
     TEXT_RANGE, 0, 0},

    // dev-set.
    {"dev-set without versions has no settings", DEV_SET, {OWN_ID}, EINVAL, "No settings present",
     0, NEED_ROOT},
    {"dev-set of versions beyond the capabilities is refused", DEV_SET, {OWN_ID, U32(DEV_ENA, 0xf)},
     EINVAL, "Requested PSP versions not supported by the device", 0, NEED_ROOT | NEED_PARTIAL_CAP},

    // Descriptor and socket.
    {"rx-assoc without sock-fd misses sock-fd", RX_ASSOC, {VERSION(0)}, EINVAL, "", ASSOC_SOCK_FD,
     0},
    {"tx-assoc without sock-fd misses sock-fd", TX_ASSOC, {VERSION(0), TX_KEY(1, 16)}, EINVAL, "",
     ASSOC_SOCK_FD, 0},
    {"rx-assoc on a number that is not open is EBADF", RX_ASSOC, {VERSION(0), SOCK(S_NOT_OPEN)},
     EBADF, "", 0, 0},
    {"tx-assoc on a number that is not open is EBADF", TX_ASSOC, {VERSION(0), TX_KEY(1, 16),
     SOCK(S_NOT_OPEN)}, EBADF, "", 0, 0},
    {"rx-assoc on descriptor -1 is EBADF", RX_ASSOC, {VERSION(0), SOCK(S_MINUS_ONE)}, EBADF, "", 0,
     0},
    {"rx-assoc on a file is ENOTSOCK", RX_ASSOC, {VERSION(0), SOCK(S_FILE)}, ENOTSOCK, "", 0, 0},
    {"tx-assoc on a file is ENOTSOCK", TX_ASSOC, {VERSION(0), TX_KEY(1, 16), SOCK(S_FILE)},
     ENOTSOCK, "", 0, 0},
    {"rx-assoc on a UDP socket is refused", RX_ASSOC, {VERSION(0), BAD, SOCK(S_UDP)}, EOPNOTSUPP,
     "Unsupported socket family and type", 0, 0},
    {"tx-assoc on a UDP socket is refused", TX_ASSOC, {VERSION(0), TX_KEY(1, 16), BAD, SOCK(S_UDP)},
     EOPNOTSUPP, "Unsupported socket family and type", 0, 0},
    {"rx-assoc on a unix socket is refused", RX_ASSOC, {VERSION(0), BAD, SOCK(S_UNIX)}, EOPNOTSUPP,
     "Unsupported socket family and type", 0, 0},
    {"rx-assoc on a netlink socket is refused", RX_ASSOC, {VERSION(0), BAD, SOCK(S_NETLINK)},
     EOPNOTSUPP, "Unsupported socket family and type", 0, 0},

    // The device of the socket.
    {"rx-assoc without dev-id on a route without PSP device misses dev-id", RX_ASSOC, {VERSION(0),
     SOCK(S_LOOPBACK)}, EINVAL, "", ASSOC_DEV_ID, 0},
    {"tx-assoc without dev-id on a route without PSP device misses dev-id", TX_ASSOC, {VERSION(0),
     TX_KEY(1, 16), SOCK(S_LOOPBACK)}, EINVAL, "", ASSOC_DEV_ID, 0},
    {"rx-assoc without dev-id on a closed socket misses dev-id", RX_ASSOC, {VERSION(0),
     SOCK(S_CLOSED)}, EINVAL, "", ASSOC_DEV_ID, 0},
    {"rx-assoc with the dev-id of no device mismatches the socket", RX_ASSOC, {BAD,
     U32(1, NO_SUCH_ID), VERSION(0), SOCK(S_ESTABLISHED)}, EINVAL, "Device id vs socket mismatch", 0,
     0},
    {"tx-assoc with the dev-id of no device mismatches the socket", TX_ASSOC, {BAD,
     U32(1, NO_SUCH_ID), VERSION(0), TX_KEY(1, 16), SOCK(S_RX)}, EINVAL,
     "Device id vs socket mismatch", 0, 0},
    {"rx-assoc with an unknown dev-id on a route without PSP device is ENODEV", RX_ASSOC,
     {U32(1, NO_SUCH_ID), VERSION(0), SOCK(S_LOOPBACK)}, ENODEV, "", 0, 0},
    {"tx-assoc with an unknown dev-id on a route without PSP device is ENODEV", TX_ASSOC,
     {U32(1, NO_SUCH_ID), VERSION(0), TX_KEY(1, 16), SOCK(S_LOOPBACK)}, ENODEV, "", 0, 0},

    // Version and key.
    {"rx-assoc without version misses version", RX_ASSOC, {SOCK(S_ESTABLISHED)}, EINVAL, "",
     ASSOC_VERSION, 0},
    {"tx-assoc without version misses version", TX_ASSOC, {TX_KEY(1, 16), SOCK(S_RX)}, EINVAL, "",
     ASSOC_VERSION, 0},
    {"tx-assoc without tx-key misses tx-key", TX_ASSOC, {VERSION(0), SOCK(S_RX)}, EINVAL, "",
     ASSOC_TX_KEY, 0},
    {"rx-assoc of a version that the device cannot is refused", RX_ASSOC, {BAD, VERSION(3),
     SOCK(S_ESTABLISHED)}, EOPNOTSUPP, "", 0, NEED_PARTIAL_CAP},
    {"tx-assoc of a version that the device cannot is refused", TX_ASSOC, {BAD, VERSION(3),
     TX_KEY(1, 32), SOCK(S_RX)}, EOPNOTSUPP, "", 0, NEED_PARTIAL_CAP},
    {"a tx-key without key misses key in its nest", TX_ASSOC, {VERSION(0), MISSING_IN,
     NEST(ASSOC_TX_KEY), U32(KEYS_SPI, 1), END_NEST, SOCK(S_RX)}, EINVAL, "", KEYS_KEY, 0},
    {"a tx-key without spi misses spi in its nest", TX_ASSOC, {VERSION(0), MISSING_IN,
     NEST(ASSOC_TX_KEY), OCTETS(KEYS_KEY, 16), END_NEST, SOCK(S_RX)}, EINVAL, "", KEYS_SPI, 0},
    {"an empty tx-key misses key first", TX_ASSOC, {VERSION(0), MISSING_IN, NEST(ASSOC_TX_KEY),
     END_NEST, SOCK(S_RX)}, EINVAL, "", KEYS_KEY, 0},
    {"a key of 15 octets has the wrong length", TX_ASSOC, {VERSION(0), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 1), BAD, OCTETS(KEYS_KEY, 15), END_NEST, SOCK(S_RX)}, EINVAL,
     "incorrect key length", 0, 0},
    {"a key of 32 octets is wrong for version 0", TX_ASSOC, {VERSION(0), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 1), BAD, OCTETS(KEYS_KEY, 32), END_NEST, SOCK(S_RX)}, EINVAL,
     "incorrect key length", 0, 0},
    {"a key of 16 octets is wrong for version 1", TX_ASSOC, {VERSION(1), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 1), BAD, OCTETS(KEYS_KEY, 16), END_NEST, SOCK(S_RX)}, EINVAL,
     "incorrect key length", 0, 0},
    {"a key of 17 octets is wrong for version 2", TX_ASSOC, {VERSION(2), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 1), BAD, OCTETS(KEYS_KEY, 17), END_NEST, SOCK(S_RX)}, EINVAL,
     "incorrect key length", 0, 0},
    {"a key of 16 octets is wrong for version 3", TX_ASSOC, {VERSION(3), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 1), BAD, OCTETS(KEYS_KEY, 16), END_NEST, SOCK(S_RX)}, EINVAL,
     "incorrect key length", 0, 0},
    {"a key without octets has the wrong length", TX_ASSOC, {VERSION(0), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 1), BAD, OCTETS(KEYS_KEY, 0), END_NEST, SOCK(S_RX)}, EINVAL,
     "incorrect key length", 0, 0},
    {"SPI 0 is invalid and the key is named", TX_ASSOC, {VERSION(0), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 0), BAD, OCTETS(KEYS_KEY, 16), END_NEST, SOCK(S_RX)}, EINVAL,
     "invalid SPI: lower 31b must be non-zero", 0, 0},
    {"an SPI of the phase bit alone is invalid", TX_ASSOC, {VERSION(0), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 0x80000000), BAD, OCTETS(KEYS_KEY, 16), END_NEST, SOCK(S_RX)}, EINVAL,
     "invalid SPI: lower 31b must be non-zero", 0, 0},

    // The state of the socket.
    {"a second rx-assoc finds PSP state", RX_ASSOC, {VERSION(0), BAD, SOCK(S_RX)}, EBUSY,
     "Socket already has PSP state", 0, 0},
    {"rx-assoc after tx-assoc finds PSP state", RX_ASSOC, {VERSION(0), BAD, SOCK(S_FULL)}, EBUSY,
     "Socket already has PSP state", 0, 0},
    {"a second rx-assoc of another version finds PSP state", RX_ASSOC, {VERSION(1), BAD,
     SOCK(S_RX)}, EBUSY, "Socket already has PSP state", 0, 0},
    {"tx-assoc before rx-assoc has no Rx key", TX_ASSOC, {VERSION(0), TX_KEY(1, 16),
     SOCK(S_ESTABLISHED)}, EINVAL, "Socket has no Rx key", 0, 0},
    {"tx-assoc of another version than rx-assoc mismatches", TX_ASSOC, {VERSION(1), TX_KEY(1, 32),
     SOCK(S_RX)}, EINVAL, "PSP version mismatch with existing state", 0, 0},
    {"a second tx-assoc finds the Tx key set", TX_ASSOC, {VERSION(0), TX_KEY(1, 16), SOCK(S_FULL)},
     EBUSY, "Tx key already set", 0, 0},
    {"rx-assoc on a closed socket needs an established one", RX_ASSOC, {OWN_ID, VERSION(0), BAD,
     SOCK(S_CLOSED)}, ENOTCONN, TEXT_ESTABLISHED, 0, ONLY_NET_NEXT},
    {"rx-assoc on a listening socket needs an established one", RX_ASSOC, {OWN_ID, VERSION(0), BAD,
     SOCK(S_LISTEN)}, ENOTCONN, TEXT_ESTABLISHED, 0, ONLY_NET_NEXT},
    {"rx-assoc after shutdown needs an established socket", RX_ASSOC, {VERSION(0), BAD,
     SOCK(S_HALF_CLOSED)}, ENOTCONN, TEXT_ESTABLISHED, 0, ONLY_NET_NEXT},
    {"tx-assoc on a closed socket needs an established one", TX_ASSOC, {OWN_ID, VERSION(0),
     TX_KEY(1, 16), SOCK(S_CLOSED)}, ENOTCONN, TEXT_ESTABLISHED, 0, ONLY_NET_NEXT},
    {"tx-assoc after shutdown needs an established socket", TX_ASSOC, {VERSION(0), TX_KEY(1, 16),
     SOCK(S_RX_HALF_CLOSED)}, ENOTCONN, TEXT_ESTABLISHED, 0, ONLY_NET_NEXT},
    {"rx-assoc on a closed socket with dev-id succeeds up to Linux 7.3", RX_ASSOC, {OWN_ID,
     VERSION(0), SOCK(S_CLOSED)}, 0, "", 0, NOT_NET_NEXT},
    {"rx-assoc on a listening socket with dev-id succeeds up to Linux 7.3", RX_ASSOC, {OWN_ID,
     VERSION(0), SOCK(S_LISTEN)}, 0, "", 0, NOT_NET_NEXT},
    {"rx-assoc after shutdown succeeds up to Linux 7.3", RX_ASSOC, {VERSION(0), SOCK(S_HALF_CLOSED)},
     0, "", 0, NOT_NET_NEXT},
    {"tx-assoc after shutdown succeeds up to Linux 7.3", TX_ASSOC, {VERSION(0), TX_KEY(1, 16),
     SOCK(S_RX_HALF_CLOSED)}, 0, "", 0, NOT_NET_NEXT},
    {"tx-assoc on a closed socket has no Rx key up to Linux 7.3", TX_ASSOC, {OWN_ID, VERSION(0),
     TX_KEY(1, 16), SOCK(S_CLOSED)}, EINVAL, "Socket has no Rx key", 0, NOT_NET_NEXT},

    // Which of two errors is told.
    {"order: policy before missing sock-fd", RX_ASSOC, {BAD, VERSION(9)}, ERANGE, TEXT_RANGE, 0, 0},
    {"order: policy before descriptor", TX_ASSOC, {BAD, VERSION(9), SOCK(S_NOT_OPEN)}, ERANGE,
     TEXT_RANGE, 0, 0},
    {"order: descriptor before device", RX_ASSOC, {U32(1, NO_SUCH_ID), SOCK(S_NOT_OPEN)}, EBADF, "",
     0, 0},
    {"order: kind of file before kind of socket", RX_ASSOC, {SOCK(S_FILE)}, ENOTSOCK, "", 0, 0},
    {"order: kind of socket before device", RX_ASSOC, {U32(1, NO_SUCH_ID), BAD, SOCK(S_UDP)},
     EOPNOTSUPP, "Unsupported socket family and type", 0, 0},
    {"order: device before version", RX_ASSOC, {BAD, U32(1, NO_SUCH_ID), SOCK(S_ESTABLISHED)},
     EINVAL, "Device id vs socket mismatch", 0, 0},
    {"order: missing dev-id before missing version", RX_ASSOC, {SOCK(S_LOOPBACK)}, EINVAL, "",
     ASSOC_DEV_ID, 0},
    {"order: version before tx-key", TX_ASSOC, {SOCK(S_RX)}, EINVAL, "", ASSOC_VERSION, 0},
    {"order: version before the state of the socket", RX_ASSOC, {SOCK(S_RX)}, EINVAL, "",
     ASSOC_VERSION, 0},
    {"order: key before the state of the socket", TX_ASSOC, {VERSION(0), NEST(ASSOC_TX_KEY),
     U32(KEYS_SPI, 1), BAD, OCTETS(KEYS_KEY, 4), END_NEST, SOCK(S_ESTABLISHED)}, EINVAL,
     "incorrect key length", 0, 0},
    {"order: key length before SPI", TX_ASSOC, {VERSION(0), NEST(ASSOC_TX_KEY), U32(KEYS_SPI, 0),
     BAD, OCTETS(KEYS_KEY, 4), END_NEST, SOCK(S_RX)}, EINVAL, "incorrect key length", 0, 0},
    {"order: missing spi before key length", TX_ASSOC, {VERSION(0), MISSING_IN, NEST(ASSOC_TX_KEY),
     OCTETS(KEYS_KEY, 4), END_NEST, SOCK(S_RX)}, EINVAL, "", KEYS_SPI, 0},
    {"order: TCP state before PSP state", RX_ASSOC, {VERSION(0), BAD, SOCK(S_RX_HALF_CLOSED)},
     ENOTCONN, TEXT_ESTABLISHED, 0, ONLY_NET_NEXT},
    {"order: TCP state before missing Rx key", TX_ASSOC, {VERSION(0), TX_KEY(1, 16),
     SOCK(S_HALF_CLOSED)}, ENOTCONN, TEXT_ESTABLISHED, 0, ONLY_NET_NEXT},
    {"order: version mismatch before Tx key set", TX_ASSOC, {VERSION(1), TX_KEY(1, 32),
     SOCK(S_FULL)}, EINVAL, "PSP version mismatch with existing state", 0, 0},

    // dev-assoc and dev-disassoc; what succeeds is among the cases below.
    {"dev-assoc without ifindex misses ifindex", DEV_ASSOC, {OWN_ID}, EINVAL, "", DEV_IFINDEX,
     NEED_ROOT},
    {"dev-disassoc without ifindex misses ifindex", DEV_DISASSOC, {OWN_ID}, EINVAL, "", DEV_IFINDEX,
     NEED_ROOT},
    {"dev-assoc of a netdev that is not there is ENODEV", DEV_ASSOC, {OWN_ID, BAD,
     U32(DEV_IFINDEX, 7654321)}, ENODEV, "", 0, NEED_ROOT},
    {"dev-disassoc of a netdev that is not in the list is ENODEV", DEV_DISASSOC, {OWN_ID, BAD,
     U32(DEV_IFINDEX, 7654321)}, ENODEV, "", 0, NEED_ROOT},
    {"dev-assoc with an unknown nsid is refused", DEV_ASSOC, {OWN_ID, U32(DEV_IFINDEX, 1), BAD,
     U32(DEV_NSID, 12345)}, EINVAL, "", 0, NEED_ROOT},
    {"dev-disassoc with an unknown nsid is refused", DEV_DISASSOC, {OWN_ID, U32(DEV_IFINDEX, 1),
     BAD, U32(DEV_NSID, 12345)}, EINVAL, "", 0, NEED_ROOT},
    {"dev-assoc of a netdev that has a PSP device is EBUSY", DEV_ASSOC, {OWN_ID, {K_IFINDEX,
     DEV_IFINDEX, 0}}, EBUSY, "Device already associated with a PSP device", 0, NEED_ROOT},
};
// clang-format on

static void put_part(struct message* m, const struct part* p, size_t* open_nest) {
  static const uint8_t zeros[64];
  switch (p->kind) {
    case K_BAD:
      m->bad = (uint32_t)m->size;
      break;
    case K_MISSING_IN:
      m->missing_in = (uint32_t)m->size;
      break;
    case K_U32:
      put_u32(m, p->type, p->value);
      break;
    case K_OWN_ID:
      put_u32(m, p->type, psp.id);
      break;
    case K_IFINDEX:
      put_u32(m, p->type, psp.ifindex);
      break;
    case K_SOCKET:
      put_u32(m, p->type, (uint32_t)make_socket((enum socket_kind)p->value));
      break;
    case K_OCTETS:
      put(m, p->type, zeros, p->value);
      break;
    case K_NEST:
      *open_nest = nest(m, p->type);
      break;
    case K_END_NEST:
      end_nest(m, *open_nest);
      break;
    case K_STRAY:
      memset(m->octets + m->size, 0, p->value);
      m->size += p->value;
      break;
  }
}

static void run_row(const struct row* row) {
  struct message m;
  struct answer a;
  size_t open_nest = 0;
  begin(&m, psp.family, row->cmd, 0);
  for (unsigned i = 0; i < MANY_PARTS && row->parts[i].kind != K_END_ROW; i++)
    put_part(&m, &row->parts[i], &open_nest);
  PASS_ON;
  ask(&psp.nl, &m, &a);
  CHECK(a.error >= 0, "no answer within %d ms", PATIENCE_MS);
  CHECK(a.error == row->error, "error is %d (%s, \"%s\"), not %d (%s)", a.error, strerror(a.error),
        a.text, row->error, strerror(row->error));
  CHECK(strcmp(a.text, row->text) == 0, "text is \"%s\", not \"%s\"", a.text, row->text);
  CHECK_EQ(a.bad, m.bad, "offset of the bad attribute");
  CHECK_EQ(a.missing, row->missing, "missing attribute");
  CHECK_EQ(a.missing_in, m.missing_in, "offset of the nest with the missing attribute");
  CHECK_EQ(a.messages, row->error == 0 ? 1 : 0, "messages before the acknowledgement");
}

// --- cases: the control family
// --------------------------------------------------------------------

static void case_family_by_name(void) {
  struct answer a;
  get_family(&psp.nl, "psp", &a);
  CHECK_EQ(a.error, 0, "error");
  CHECK_EQ(a.messages, 1, "messages");
  CHECK_EQ(a.cmd, CTRL_CMD_NEWFAMILY, "command");
  const struct nlattr* name = in_answer(&a, CTRL_ATTR_FAMILY_NAME);
  CHECK(name != NULL && strcmp(payload(name), "psp") == 0, "no name psp");
  CHECK_EQ(u32_of(in_answer(&a, CTRL_ATTR_VERSION)), 1, "version");
  CHECK(in_answer(&a, CTRL_ATTR_HDRSIZE) != NULL, "no header size");
  CHECK_EQ(u32_of(in_answer(&a, CTRL_ATTR_HDRSIZE)), 0, "header size");
  CHECK(in_answer(&a, CTRL_ATTR_MAXATTR) != NULL, "no maxattr");
  CHECK_EQ(u32_of(in_answer(&a, CTRL_ATTR_MAXATTR)), 0, "maxattr (policies are per operation)");
}

static void case_family_by_id(void) {
  struct message m;
  struct answer a;
  begin(&m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0);
  put(&m, CTRL_ATTR_FAMILY_ID, &psp.family, sizeof psp.family);
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.error, 0, "error");
  const struct nlattr* name = in_answer(&a, CTRL_ATTR_FAMILY_NAME);
  CHECK(name != NULL && strcmp(payload(name), "psp") == 0, "no name psp");
  CHECK_EQ(group_id(&a, "mgmt"), psp.mgmt, "id of mgmt by id and by name");
}

static void case_family_of_another_name(void) {
  struct answer a;
  get_family(&psp.nl, "pspx", &a);
  CHECK_EQ(a.error, ENOENT, "error of an unknown name");
  get_family(&psp.nl, "nlctrl", &a);
  CHECK_EQ(a.error, 0, "error of nlctrl");
}

static void case_family_operations(void) {
  static const struct {
    uint32_t cmd, flags;
  } want[] = {
      {DEV_GET, 0xe},  {DEV_SET, 0xb},   {KEY_ROTATE, 0xb}, {RX_ASSOC, 0xa},
      {TX_ASSOC, 0xa}, {GET_STATS, 0xe}, {DEV_ASSOC, 0xb},  {DEV_DISASSOC, 0xb},
  };
  struct answer a;
  get_family(&psp.nl, "psp", &a);
  const struct nlattr* ops = in_answer(&a, CTRL_ATTR_OPS);
  CHECK(ops != NULL, "no operations");
  CHECK_EQ(count_attributes(payload(ops), payload_size(ops)), sizeof want / sizeof want[0],
           "operations");
  for (uint16_t i = 0; i < sizeof want / sizeof want[0]; i++) {
    const struct nlattr* op = inside(ops, (uint16_t)(i + 1));
    uint32_t flags = want[i].flags;
    if (opt.linux_6_18 && (want[i].cmd == DEV_SET || want[i].cmd == KEY_ROTATE))
      flags &= ~(uint32_t)GENL_ADMIN_PERM;
    CHECK_EQ(u32_of(inside(op, CTRL_ATTR_OP_ID)), want[i].cmd, "operation");
    CHECK(u32_of(inside(op, CTRL_ATTR_OP_FLAGS)) == flags,
          "flags of operation %u are 0x%x, not 0x%x", want[i].cmd,
          u32_of(inside(op, CTRL_ATTR_OP_FLAGS)), flags);
  }
}

static void case_family_groups(void) {
  struct answer a;
  get_family(&psp.nl, "psp", &a);
  const struct nlattr* groups = in_answer(&a, CTRL_ATTR_MCAST_GROUPS);
  CHECK(groups != NULL, "no groups");
  CHECK_EQ(count_attributes(payload(groups), payload_size(groups)), 2, "groups");
  const struct nlattr* first = inside(inside(groups, 1), CTRL_ATTR_MCAST_GRP_NAME);
  CHECK(first != NULL && strcmp(payload(first), "mgmt") == 0, "the first group is not mgmt");
  CHECK(psp.mgmt != 0 && psp.use != 0 && psp.mgmt != psp.use, "group ids %u and %u", psp.mgmt,
        psp.use);
}

static void count_families(const struct nlmsghdr* h, void* context) {
  unsigned* counts = context;
  const uint8_t* data = (const uint8_t*)NLMSG_DATA(h) + GENL_HDRLEN;
  const struct nlattr* name =
      attribute(data, h->nlmsg_len - NLMSG_HDRLEN - GENL_HDRLEN, CTRL_ATTR_FAMILY_NAME);
  if (name == NULL) return;
  counts[0] += strcmp(payload(name), "psp") == 0;
  counts[1] += strcmp(payload(name), "nlctrl") == 0;
  counts[2]++;
}

static void case_family_dump(void) {
  struct message m;
  struct answer a;
  unsigned counts[3] = {0};
  begin(&m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, NLM_F_REQUEST | NLM_F_DUMP);
  CHECK(send_message(&psp.nl, &m), "send: %s", strerror(errno));
  receive(&psp.nl, psp.nl.seq, &a, count_families, counts);
  CHECK_EQ(a.error, 0, "error");
  CHECK_EQ(counts[0], 1, "families called psp");
  CHECK_EQ(counts[1], 1, "families called nlctrl");
  CHECK(counts[2] > 2, "the kernel's other families are missing: %u", counts[2]);
}

// The policy dump, as a table of what was told.
struct policies {
  uint32_t do_index[16], has_do[16], dump_index[16], has_dump[16];
  struct {
    uint32_t type, nested, nested_max;
    uint64_t min, max, mask;
  } at[16][16];
};

static void take_policies(const struct nlmsghdr* h, void* context) {
  struct policies* p = context;
  const uint8_t* data = (const uint8_t*)NLMSG_DATA(h) + GENL_HDRLEN;
  const size_t size = h->nlmsg_len - NLMSG_HDRLEN - GENL_HDRLEN;
  const struct nlattr* ops = attribute(data, size, CTRL_ATTR_OP_POLICY);
  const struct nlattr* policy = attribute(data, size, CTRL_ATTR_POLICY);
  for (uint16_t cmd = 0; cmd < 16; cmd++) {
    const struct nlattr* op = inside(ops, cmd);
    if (inside(op, CTRL_ATTR_POLICY_DO) != NULL) {
      p->has_do[cmd] = 1;
      p->do_index[cmd] = u32_of(inside(op, CTRL_ATTR_POLICY_DO));
    }
    if (inside(op, CTRL_ATTR_POLICY_DUMP) != NULL) {
      p->has_dump[cmd] = 1;
      p->dump_index[cmd] = u32_of(inside(op, CTRL_ATTR_POLICY_DUMP));
    }
  }
  for (uint16_t index = 0; index < 16; index++)
    for (uint16_t type = 0; type < 16; type++) {
      const struct nlattr* a = inside(inside(policy, index), type);
      if (a == NULL) continue;
      p->at[index][type].type = u32_of(inside(a, NL_POLICY_TYPE_ATTR_TYPE));
      p->at[index][type].min = uint_of(inside(a, NL_POLICY_TYPE_ATTR_MIN_VALUE_U));
      p->at[index][type].max = uint_of(inside(a, NL_POLICY_TYPE_ATTR_MAX_VALUE_U));
      p->at[index][type].mask = uint_of(inside(a, POLICY_ATTR_MASK));
      p->at[index][type].nested = u32_of(inside(a, NL_POLICY_TYPE_ATTR_POLICY_IDX));
      p->at[index][type].nested_max = u32_of(inside(a, NL_POLICY_TYPE_ATTR_POLICY_MAXTYPE));
    }
}

static void ask_policies(struct policies* p, struct answer* a, int op) {
  struct message m;
  memset(p, 0, sizeof *p);
  begin(&m, GENL_ID_CTRL, CTRL_CMD_GETPOLICY, NLM_F_REQUEST | NLM_F_ACK | NLM_F_DUMP);
  put_text(&m, CTRL_ATTR_FAMILY_NAME, "psp");
  if (op != 0) put_u32(&m, CTRL_ATTR_OP, (uint32_t)op);
  CHECK(send_message(&psp.nl, &m), "send: %s", strerror(errno));
  receive(&psp.nl, psp.nl.seq, a, take_policies, p);
}

static const uint16_t policy_types[16][8] = {
    [DEV_GET] = {DEV_ID},
    [DEV_SET] = {DEV_ID, DEV_ENA},
    [KEY_ROTATE] = {DEV_ID},
    [RX_ASSOC] = {ASSOC_DEV_ID, ASSOC_VERSION, ASSOC_SOCK_FD},
    [TX_ASSOC] = {ASSOC_DEV_ID, ASSOC_VERSION, ASSOC_TX_KEY, ASSOC_SOCK_FD},
    [GET_STATS] = {STATS_DEV_ID},
    [DEV_ASSOC] = {DEV_ID, DEV_IFINDEX, DEV_NSID},
    [DEV_DISASSOC] = {DEV_ID, DEV_IFINDEX, DEV_NSID},
};

static void case_policy_dump(void) {
  struct policies p;
  struct answer a;
  ask_policies(&p, &a, 0);
  PASS_ON;
  CHECK_EQ(a.error, 0, "error");
  for (unsigned cmd = 1; cmd < 16; cmd++) {
    CHECK(!p.has_do[cmd] == (policy_types[cmd][0] == 0), "operation %u has %s policy", cmd,
          p.has_do[cmd] ? "a" : "no");
    CHECK(p.has_dump[cmd] == (cmd == DEV_GET || cmd == GET_STATS),
          "operation %u has %s policy for dumps", cmd, p.has_dump[cmd] ? "a" : "no");
    for (unsigned type = 0; p.has_dump[cmd] && type < 16; type++)
      CHECK(p.at[p.dump_index[cmd] & 15][type].type == 0, "a dump of %u takes attribute %u", cmd,
            type);
    if (!p.has_do[cmd]) continue;
    unsigned seen = 0, want = 0;
    for (unsigned type = 1; type < 16; type++) seen += p.at[p.do_index[cmd] & 15][type].type != 0;
    for (; policy_types[cmd][want] != 0; want++)
      CHECK(p.at[p.do_index[cmd] & 15][policy_types[cmd][want]].type != 0,
            "operation %u has no policy for attribute %u", cmd, policy_types[cmd][want]);
    CHECK(seen == want, "operation %u has %u policies, not %u", cmd, seen, want);
  }
}

static void case_policy_limits(void) {
  struct policies p;
  struct answer a;
  ask_policies(&p, &a, 0);
  PASS_ON;
  const uint32_t get = p.do_index[DEV_GET] & 15, set = p.do_index[DEV_SET] & 15;
  const uint32_t tx = p.do_index[TX_ASSOC] & 15, in_key = p.at[tx][ASSOC_TX_KEY].nested & 15;
  CHECK_EQ(p.at[get][DEV_ID].type, NL_ATTR_TYPE_U32, "type of id");
  CHECK_EQ(p.at[get][DEV_ID].min, 1, "least id");
  CHECK_EQ(p.at[get][DEV_ID].max, UINT32_MAX, "greatest id");
  CHECK_EQ(p.at[set][DEV_ENA].mask, ALL_VERSIONS, "mask of versions-ena");
  CHECK_EQ(p.at[tx][ASSOC_VERSION].min, 0, "least version");
  CHECK_EQ(p.at[tx][ASSOC_VERSION].max, 3, "greatest version");
  CHECK_EQ(p.at[tx][ASSOC_SOCK_FD].max, UINT32_MAX, "greatest sock-fd");
  CHECK_EQ(p.at[tx][ASSOC_TX_KEY].type, NL_ATTR_TYPE_NESTED, "type of tx-key");
  CHECK_EQ(p.at[tx][ASSOC_TX_KEY].nested_max, KEYS_SPI, "greatest attribute in tx-key");
  CHECK_EQ(p.at[in_key][KEYS_KEY].type, NL_ATTR_TYPE_BINARY, "type of key");
  CHECK_EQ(p.at[in_key][KEYS_SPI].type, NL_ATTR_TYPE_U32, "type of spi");
  CHECK_EQ(p.at[p.do_index[DEV_ASSOC] & 15][DEV_NSID].type, NL_ATTR_TYPE_S32, "type of nsid");
}

static void case_policy_of_one_operation(void) {
  struct policies p;
  struct answer a;
  ask_policies(&p, &a, RX_ASSOC);
  PASS_ON;
  CHECK_EQ(a.error, 0, "error");
  CHECK(p.has_do[RX_ASSOC], "no policy of rx-assoc");
  for (unsigned cmd = 1; cmd < 16; cmd++)
    CHECK(cmd == RX_ASSOC || !p.has_do[cmd], "operation %u was not asked for", cmd);
  ask_policies(&p, &a, 77);
  PASS_ON;
  CHECK_EQ(a.error, ENOENT, "error of an operation that there is not");
  CHECK(a.bad != 0, "the operation is not named as bad attribute");
}

// --- cases: messages
// ------------------------------------------------------------------------------

static void case_unknown_command(void) {
  struct message m;
  struct answer a;
  static const uint8_t commands[] = {0,  DEV_ADD_NTF, DEV_DEL_NTF, DEV_CHANGE_NTF, KEY_ROTATE_NTF,
                                     13, 200};
  for (unsigned i = 0; i < sizeof commands; i++) {
    begin(&m, psp.family, commands[i], 0);
    ask(&psp.nl, &m, &a);
    CHECK(a.error == EOPNOTSUPP, "command %u: %s", commands[i], strerror(a.error));
  }
}

static void case_dump_of_what_has_none(void) {
  static const uint8_t commands[] = {DEV_SET, KEY_ROTATE, RX_ASSOC, TX_ASSOC, DEV_ASSOC};
  struct answer a;
  for (unsigned i = 0; i < sizeof commands; i++) {
    dump(&psp.nl, commands[i], &a, NULL, NULL);
    CHECK(a.error == EOPNOTSUPP, "dump of command %u: %s", commands[i], strerror(a.error));
  }
}

static void case_reserved_field(void) {
  struct message m;
  struct answer a;
  begin(&m, psp.family, DEV_GET, 0);
  ((struct genlmsghdr*)(m.octets + NLMSG_HDRLEN))->reserved = 1;
  put_u32(&m, DEV_ID, psp.id);
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.error, EINVAL, "error");
  CHECK(strcmp(a.text, "genlmsghdr.reserved field is not 0") == 0, "text is %s", a.text);
  CHECK_EQ(a.bad, 0, "bad attribute");
}

static void case_reserved_flags(void) {
  struct message m;
  struct answer a;
  begin(&m, psp.family, DEV_GET, NLM_F_APPEND);
  put_u32(&m, DEV_ID, psp.id);
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.error, EINVAL, "error");
  CHECK(strcmp(a.text, "ambiguous or reserved bits set in nlmsg_flags") == 0, "text is %s", a.text);
  begin(&m, psp.family, DEV_GET, NLM_F_ECHO);
  put_u32(&m, DEV_ID, psp.id);
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.error, 0, "error with NLM_F_ECHO");
}

static void case_any_header_version(void) {
  struct message m;
  struct answer a;
  begin(&m, psp.family, DEV_GET, 0);
  ((struct genlmsghdr*)(m.octets + NLMSG_HDRLEN))->version = 200;
  put_u32(&m, DEV_ID, psp.id);
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.error, 0, "error");
  CHECK_EQ(a.version, 1, "version of the reply");
}

static void case_short_message(void) {
  struct message m;
  struct answer a;
  begin(&m, psp.family, DEV_GET, 0);
  m.size = NLMSG_HDRLEN + 2;
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.error, EINVAL, "error");
  CHECK(a.text[0] == '\0', "text is %s", a.text);
}

static void case_answer_carries_port_and_sequence(void) {
  struct answer a;
  struct netlink nl = open_netlink();
  nl.seq = 0xfffffffe;
  ask_id(&nl, DEV_GET, psp.id, &a);  // receive() looks for the sequence number
  CHECK_EQ(a.error, 0, "error");
  CHECK(a.port == nl.port, "port is %u, not %u", a.port, nl.port);
  CHECK_EQ(a.version, 1, "version");
  CHECK_EQ(a.flags, 0, "flags");
}

static void case_answer_comes_from_the_kernel(void) {
  struct netlink nl = open_netlink();
  struct message m;
  uint8_t buffer[8192];
  struct sockaddr_nl from = {0};
  socklen_t size = sizeof from;
  begin(&m, psp.family, DEV_GET, NLM_F_REQUEST);
  put_u32(&m, DEV_ID, psp.id);
  CHECK(send_message(&nl, &m), "send: %s", strerror(errno));
  CHECK(recvfrom(nl.fd, buffer, sizeof buffer, 0, (struct sockaddr*)&from, &size) > 0, "recv: %s",
        strerror(errno));
  CHECK_EQ(size, sizeof from, "size of the sender's address");
  CHECK_EQ(from.nl_family, AF_NETLINK, "family of the sender");
  CHECK_EQ(from.nl_pid, 0, "port of the sender");
}

static void case_no_acknowledgement_unless_asked(void) {
  struct netlink nl = open_netlink();
  struct message m;
  struct answer a;
  begin(&m, psp.family, DEV_GET, NLM_F_REQUEST);
  put_u32(&m, DEV_ID, psp.id);
  CHECK(send_message(&nl, &m) && next_notification(&nl, &a, PATIENCE_MS), "no reply");
  CHECK_EQ(a.cmd, DEV_GET, "command of the reply");
  CHECK(!wait_readable(nl.fd, SILENCE_MS), "something follows the reply");
  begin(&m, psp.family, DEV_GET, NLM_F_REQUEST);
  CHECK(send_message(&nl, &m), "send: %s", strerror(errno));
  receive(&nl, nl.seq, &a, NULL, NULL);
  CHECK_EQ(a.error, EINVAL, "an error is told without NLM_F_ACK too: error");
}

static void case_no_request_flag_no_answer(void) {
  struct netlink nl = open_netlink();
  struct message m;
  begin(&m, psp.family, DEV_GET, 0);
  put_u32(&m, DEV_ID, psp.id);
  CHECK(send_message(&nl, &m), "send: %s", strerror(errno));
  CHECK(!wait_readable(nl.fd, SILENCE_MS), "there is an answer");
}

static void case_cap_ack(void) {
  struct netlink nl = open_netlink();
  struct answer a;
  const int on = 1;
  ask_id(&nl, DEV_GET, NO_SUCH_ID, &a);
  CHECK(!(a.ack_flags & NLM_F_CAPPED), "an error is capped without NETLINK_CAP_ACK");
  ask_id(&nl, DEV_GET, psp.id, &a);
  CHECK(a.ack_flags & NLM_F_CAPPED, "an acknowledgement is not capped");
  CHECK(setsockopt(nl.fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on) == 0, "NETLINK_CAP_ACK: %s",
        strerror(errno));
  ask_id(&nl, DEV_GET, 0, &a);
  CHECK_EQ(a.error, ERANGE, "error");
  CHECK(a.ack_flags & NLM_F_CAPPED, "an error is not capped with NETLINK_CAP_ACK");
  CHECK(strcmp(a.text, TEXT_RANGE) == 0, "the text behind a capped error is \"%s\"", a.text);
}

static void case_no_ext_ack(void) {
  struct netlink nl = open_netlink();
  struct answer a;
  const int off = 0;
  setsockopt(nl.fd, SOL_NETLINK, NETLINK_EXT_ACK, &off, sizeof off);
  ask_id(&nl, DEV_GET, 0, &a);
  CHECK_EQ(a.error, ERANGE, "error");
  CHECK(!(a.ack_flags & NLM_F_ACK_TLVS), "the error has attributes");
}

static void case_policy_comes_with_the_error(void) {
  struct message m;
  struct answer a;
  ask_id(&psp.nl, DEV_GET, 0, &a);
  CHECK(a.has_policy, "no policy with an integer out of range");
  CHECK_EQ(a.policy_type, NL_ATTR_TYPE_U32, "type");
  CHECK_EQ(a.policy_min, 1, "least id");
  CHECK_EQ(a.policy_max, UINT32_MAX, "greatest id");
  begin(&m, psp.family, RX_ASSOC, 0);
  put_u32(&m, ASSOC_VERSION, 4);
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.policy_max, 3, "greatest version");
  ask_id(&psp.nl, DEV_GET, NO_SUCH_ID, &a);
  CHECK(!a.has_policy, "a policy with ENODEV");
}

static void case_several_messages_in_a_datagram(void) {
  struct netlink nl = open_netlink();
  struct message m[3];
  struct answer a;
  uint8_t all[512];
  size_t size = 0;
  for (unsigned i = 0; i < 3; i++) {
    begin(&m[i], psp.family, DEV_GET, NLM_F_REQUEST | NLM_F_ACK);
    put_u32(&m[i], DEV_ID, i == 1 ? NO_SUCH_ID : psp.id);
    header_of(&m[i])->nlmsg_len = (uint32_t)m[i].size;
    header_of(&m[i])->nlmsg_seq = 50 + i;
    memcpy(all + size, m[i].octets, m[i].size);
    size += m[i].size;
  }
  CHECK(send(nl.fd, all, size, 0) == (ssize_t)size, "send: %s", strerror(errno));
  for (unsigned i = 0; i < 3; i++) {
    receive(&nl, 50 + i, &a, NULL, NULL);
    CHECK(a.error == (i == 1 ? ENODEV : 0), "message %u: error %d", i, a.error);
  }
}

static void case_strict_check_changes_nothing(void) {
  struct netlink nl = open_netlink();
  struct message m;
  struct answer a;
  const int on = 1;
  CHECK(setsockopt(nl.fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof on) == 0, "%s",
        strerror(errno));
  begin(&m, psp.family, DEV_GET, NLM_F_REQUEST | NLM_F_DUMP);
  put_u32(&m, 99, 1);
  CHECK(send_message(&nl, &m), "send: %s", strerror(errno));
  receive(&nl, nl.seq, &a, NULL, NULL);
  CHECK_EQ(a.error, opt.linux_6_18 ? 0 : EINVAL, "error");
  CHECK(!opt.linux_6_18 || a.messages > 0, "no devices");
}

static void case_dump_refuses_attributes(void) {
  static const uint8_t commands[] = {DEV_GET, GET_STATS};
  struct message m;
  struct answer a;
  for (unsigned i = 0; i < sizeof commands; i++) {
    begin(&m, psp.family, commands[i], NLM_F_REQUEST | NLM_F_DUMP);
    const size_t bad = put_u32(&m, DEV_ID, psp.id);
    CHECK(send_message(&psp.nl, &m), "send: %s", strerror(errno));
    receive(&psp.nl, psp.nl.seq, &a, NULL, NULL);
    CHECK_EQ(a.error, EINVAL, "error");
    CHECK(strcmp(a.text, "Unknown attribute type") == 0, "text is \"%s\"", a.text);
    CHECK_EQ(a.bad, bad, "offset of the bad attribute");
  }
}

// --- cases: devices
// -------------------------------------------------------------------------------

static void check_device_set(const struct answer* a) {
  CHECK_EQ(u32_of(in_answer(a, DEV_ID)), psp.id, "id");
  CHECK_EQ(u32_of(in_answer(a, DEV_IFINDEX)), psp.ifindex, "ifindex");
  CHECK_EQ(u32_of(in_answer(a, DEV_CAP)), psp.cap, "psp-versions-cap");
  CHECK(in_answer(a, DEV_ENA) != NULL, "no psp-versions-ena");
  CHECK(in_answer(a, DEV_BY_ASSOCIATION) == NULL, "by-association in the main namespace");
}

static void case_dev_get(void) {
  struct answer a;
  ask_id(&psp.nl, DEV_GET, psp.id, &a);
  CHECK_EQ(a.error, 0, "error");
  CHECK_EQ(a.cmd, DEV_GET, "command");
  check_device_set(&a);
  PASS_ON;
  CHECK(psp.id >= 1 && psp.id <= 65535, "id %u", psp.id);
  CHECK(psp.cap & 1, "a device without version 0");
}

static void case_dev_get_dump(void) {
  struct answer a;
  const uint32_t known = psp.id;
  psp.id = 0;
  dump(&psp.nl, DEV_GET, &a, find_device_row, NULL);
  CHECK_EQ(a.error, 0, "error");
  CHECK_EQ(psp.id, known, "id in the dump");
  CHECK_EQ(a.cmd, DEV_GET, "command");
  CHECK(a.messages >= (opt.dev2 != NULL ? 2u : 1u), "%u devices", a.messages);
  CHECK(opt.dev2 == NULL || (psp.id2 != 0 && psp.id2 != psp.id), "ids %u and %u", psp.id, psp.id2);
}

static uint32_t ena_now(void) {
  struct answer a;
  ask_id(&psp.nl, DEV_GET, psp.id, &a);
  return u32_of(in_answer(&a, DEV_ENA));
}

static void case_dev_set(void) {
  struct answer a;
  const uint32_t before = ena_now();
  const uint32_t masks[] = {0, 1, psp.cap, before};
  for (unsigned i = 0; i < 4; i++) {
    set_ena(&psp.nl, masks[i], &a);
    CHECK_EQ(a.error, 0, "error");
    CHECK_EQ(a.messages, 1, "replies");
    CHECK_EQ(a.cmd, DEV_SET, "command");
    CHECK_EQ(a.size, 0, "octets of the reply");
    CHECK_EQ(ena_now(), masks[i], "versions that are enabled");
  }
}

static void case_key_rotate(void) {
  struct answer a;
  for (unsigned i = 0; i < 3; i++) {
    ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
    CHECK_EQ(a.error, 0, "error");
    CHECK_EQ(a.messages, 1, "replies");
    CHECK_EQ(a.cmd, KEY_ROTATE, "command");
    CHECK_EQ(count_attributes(a.attributes, a.size), 1, "attributes");
    CHECK_EQ(u32_of(in_answer(&a, DEV_ID)), psp.id, "id");
  }
}

static void case_get_stats(void) {
  struct answer a;
  ask_id(&psp.nl, GET_STATS, psp.id, &a);
  CHECK_EQ(a.error, 0, "error");
  CHECK_EQ(a.cmd, GET_STATS, "command");
  CHECK_EQ(u32_of(in_answer(&a, STATS_DEV_ID)), psp.id, "dev-id");
  CHECK_EQ(count_attributes(a.attributes, a.size), STATS_TX_ERROR, "attributes");
  for (uint16_t type = STATS_KEY_ROTATIONS; type <= STATS_TX_ERROR; type++) {
    const struct nlattr* counter = in_answer(&a, type);
    CHECK(counter != NULL, "counter %u is missing", type);
    CHECK(payload_size(counter) == (uint_of(counter) > UINT32_MAX ? 8u : 4u),
          "counter %u with %llu has %zu octets", type, (unsigned long long)uint_of(counter),
          payload_size(counter));
  }
}

static void count_own_rows(const struct nlmsghdr* h, void* context) {
  const uint8_t* data = (const uint8_t*)NLMSG_DATA(h) + GENL_HDRLEN;
  const size_t size = h->nlmsg_len - NLMSG_HDRLEN - GENL_HDRLEN;
  *(unsigned*)context += u32_of(attribute(data, size, 1)) == psp.id;
}

static void case_get_stats_dump(void) {
  struct answer a, devices;
  unsigned own = 0;
  dump(&psp.nl, GET_STATS, &a, count_own_rows, &own);
  CHECK_EQ(a.error, 0, "error");
  CHECK_EQ(own, 1, "rows of the device");
  dump(&psp.nl, DEV_GET, &devices, NULL, NULL);
  CHECK_EQ(a.messages, devices.messages, "rows of get-stats and dev-get");
}

static uint64_t statistic(uint16_t type) {
  struct answer a;
  ask_id(&psp.nl, GET_STATS, psp.id, &a);
  return uint_of(in_answer(&a, type));
}

static void case_rotations_are_counted(void) {
  struct answer a;
  const uint64_t before = statistic(STATS_KEY_ROTATIONS);
  ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
  CHECK_EQ(statistic(STATS_KEY_ROTATIONS), before + 1, "key-rotations");
  ask_id(&psp.nl, KEY_ROTATE, NO_SUCH_ID, &a);
  CHECK_EQ(statistic(STATS_KEY_ROTATIONS), before + 1, "key-rotations after a refused one");
}

static void case_associations_become_stale(void) {
  struct answer a;
  const int fd = connect_peer();
  must_rx(fd, 0, NULL);
  PASS_ON;
  ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
  const uint64_t before = statistic(STATS_STALE_EVENTS);
  ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
  CHECK(statistic(STATS_STALE_EVENTS) > before, "stale-events stays %llu at the second rotation",
        (unsigned long long)before);
}

// --- cases: notifications
// -------------------------------------------------------------------------

static void case_dev_change_ntf(void) {
  struct netlink listener = join(psp.mgmt);
  struct answer a, n;
  const uint32_t before = ena_now();
  PASS_ON;
  for (unsigned i = 0; i < 2; i++) {  // the second time nothing changes
    set_ena(&psp.nl, before, &a);
    CHECK_EQ(a.error, 0, "error of dev-set");
    CHECK(next_notification(&listener, &n, PATIENCE_MS), "no notification of dev-set %u", i + 1);
    CHECK_EQ(n.cmd, DEV_CHANGE_NTF, "command");
    CHECK_EQ(n.error, 0, "sequence number");
    CHECK_EQ(n.port, 0, "port");
    check_device_set(&n);
    PASS_ON;
    CHECK_EQ(u32_of(in_answer(&n, DEV_ENA)), before, "psp-versions-ena");
  }
  CHECK(!wait_readable(listener.fd, SILENCE_MS), "a third notification");
}

static void case_key_rotate_ntf(void) {
  struct netlink listener = join(psp.use);
  struct answer a, n;
  PASS_ON;
  ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
  CHECK_EQ(a.error, 0, "error of key-rotate");
  CHECK(next_notification(&listener, &n, PATIENCE_MS), "no notification");
  CHECK_EQ(n.cmd, KEY_ROTATE_NTF, "command");
  CHECK_EQ(n.error, 0, "sequence number");
  CHECK_EQ(n.port, 0, "port");
  CHECK_EQ(count_attributes(n.attributes, n.size), 1, "attributes");
  CHECK_EQ(u32_of(in_answer(&n, DEV_ID)), psp.id, "id");
  CHECK(!wait_readable(listener.fd, SILENCE_MS), "a second notification");
}

static void case_groups_are_apart(void) {
  struct netlink mgmt = join(psp.mgmt), use = join(psp.use);
  struct answer a;
  PASS_ON;
  ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
  CHECK(next_notification(&use, &a, PATIENCE_MS), "no key-rotate-ntf");
  CHECK(!wait_readable(mgmt.fd, SILENCE_MS), "mgmt hears of a rotation");
  set_ena(&psp.nl, ena_now(), &a);
  CHECK(next_notification(&mgmt, &a, PATIENCE_MS), "no dev-change-ntf");
  CHECK(!wait_readable(use.fd, SILENCE_MS), "use hears of dev-set");
}

static void case_every_listener_hears(void) {
  struct netlink one = join(psp.mgmt), two = join(psp.mgmt);
  struct answer a;
  PASS_ON;
  set_ena(&psp.nl, ena_now(), &a);
  CHECK(next_notification(&one, &a, PATIENCE_MS), "the first hears nothing");
  CHECK(next_notification(&two, &a, PATIENCE_MS), "the second hears nothing");
}

static void case_leaving_a_group(void) {
  struct netlink listener = join(psp.mgmt), other = join(psp.mgmt);
  struct answer a;
  PASS_ON;
  CHECK(setsockopt(listener.fd, SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, &psp.mgmt, sizeof psp.mgmt) ==
            0,
        "NETLINK_DROP_MEMBERSHIP: %s", strerror(errno));
  set_ena(&psp.nl, ena_now(), &a);
  CHECK(next_notification(&other, &a, PATIENCE_MS), "the one that stayed hears nothing");
  CHECK(!wait_readable(listener.fd, SILENCE_MS), "the one that left hears it");
}

static void case_refused_requests_notify_nobody(void) {
  struct netlink mgmt = join(psp.mgmt), use = join(psp.use);
  struct answer a;
  PASS_ON;
  set_ena(&psp.nl, 0x10, &a);
  CHECK_EQ(a.error, EINVAL, "error of dev-set");
  ask_id(&psp.nl, KEY_ROTATE, NO_SUCH_ID, &a);
  CHECK_EQ(a.error, ENODEV, "error of key-rotate");
  CHECK(!wait_readable(mgmt.fd, SILENCE_MS), "mgmt hears something");
  CHECK(!wait_readable(use.fd, 1), "use hears something");
}

// An actor that listens on the same socket has its notification first, then the reply.
static void case_notification_before_the_reply(void) {
  struct netlink nl = join(psp.mgmt);
  struct message m;
  struct answer a;
  const uint32_t before = ena_now();
  PASS_ON;
  begin(&m, psp.family, DEV_SET, NLM_F_REQUEST);
  put_u32(&m, DEV_ID, psp.id);
  put_u32(&m, DEV_ENA, before);
  CHECK(send_message(&nl, &m), "send: %s", strerror(errno));
  CHECK(next_notification(&nl, &a, PATIENCE_MS), "nothing came");
  CHECK_EQ(a.cmd, DEV_CHANGE_NTF, "first command");
  CHECK(next_notification(&nl, &a, PATIENCE_MS), "no reply");
  CHECK_EQ(a.cmd, DEV_SET, "second command");
}

// --rereg CMD makes the PSP device of --dev2 go and come back, as netdevsim's psp_rereg does.
static void case_device_goes_and_comes(void) {
  struct netlink listener = join(psp.mgmt);
  struct answer n;
  PASS_ON;
  const uint32_t old = psp.id2;
  CHECK(old != 0, "--dev2 has no PSP device");
  CHECK(system(opt.rereg) == 0, "'%s' failed", opt.rereg);
  CHECK(next_notification(&listener, &n, PATIENCE_MS), "no notification");
  CHECK_EQ(n.cmd, DEV_DEL_NTF, "first command");
  CHECK_EQ(u32_of(in_answer(&n, DEV_ID)), old, "id");
  CHECK(in_answer(&n, DEV_IFINDEX) != NULL && in_answer(&n, DEV_CAP) != NULL &&
            in_answer(&n, DEV_ENA) != NULL,
        "dev-del-ntf is not the full set");
  CHECK(next_notification(&listener, &n, PATIENCE_MS), "no second notification");
  CHECK_EQ(n.cmd, DEV_ADD_NTF, "second command");
  const uint32_t id = u32_of(in_answer(&n, DEV_ID));
  CHECK(in_answer(&n, DEV_IFINDEX) != NULL && in_answer(&n, DEV_CAP) != NULL, "not the full set");
  CHECK(id != 0 && id != old, "the new device has id %u, the old one had %u", id, old);
  ask_id(&psp.nl, DEV_GET, old, &n);
  CHECK_EQ(n.error, ENODEV, "error of dev-get of the old id");
  ask_id(&psp.nl, DEV_GET, id, &n);
  CHECK_EQ(n.error, 0, "error of dev-get of the new id");
  ask_id(&psp.nl, DEV_GET, psp.id, &n);
  CHECK_EQ(n.error, 0, "error of dev-get of the other device");
  psp.id2 = id;
}

// --- cases: associations
// --------------------------------------------------------------------------

static void check_rx(uint32_t version) {
  struct answer a;
  struct key key;
  const int fd = connect_peer();
  PASS_ON;
  ask_rx(&psp.nl, fd, version, &a);
  CHECK(a.error == 0, "version %u: %s %s", version, strerror(a.error), a.text);
  CHECK_EQ(a.messages, 1, "replies");
  CHECK_EQ(a.cmd, RX_ASSOC, "command");
  CHECK_EQ(u32_of(in_answer(&a, ASSOC_DEV_ID)), psp.id, "dev-id");
  CHECK_EQ(count_attributes(a.attributes, a.size), 2, "attributes");
  const struct nlattr* rx_key = in_answer(&a, ASSOC_RX_KEY);
  CHECK(rx_key != NULL && rx_key->nla_type & NLA_F_NESTED, "no rx-key, or without nest flag");
  const struct nlattr* first = payload(rx_key);
  CHECK_EQ(first->nla_type, KEYS_SPI, "first attribute in rx-key");
  take_key(&a, &key);
  CHECK_EQ(key.size, key_size(version), "size of the key");
  CHECK((key.spi & 0x7fffffff) != 0, "SPI 0x%x", key.spi);
}

static void case_rx_assoc(void) {
  for (uint32_t version = 0; version < 4; version++) {
    if (psp.cap & 1u << version) check_rx(version);
    PASS_ON;
  }
}

static void case_rx_keys_differ(void) {
  struct key keys[8];
  for (unsigned i = 0; i < 8; i++) {
    const int fd = connect_peer();
    must_rx(fd, 0, &keys[i]);
    PASS_ON;
    for (unsigned j = 0; j < i; j++) {
      CHECK(keys[i].spi != keys[j].spi, "SPI 0x%x twice", keys[i].spi);
      CHECK(memcmp(keys[i].octets, keys[j].octets, 16) != 0, "one key twice");
    }
  }
}

static void case_spi_is_in_host_order(void) {
  struct key a, b;
  const int one = connect_peer(), two = connect_peer();
  must_rx(one, 0, &a);
  must_rx(two, 0, &b);
  PASS_ON;
  // Devices count SPIs up; read in the wrong order neighbours would be 2^24 apart.
  CHECK(b.spi - a.spi < 0x10000, "SPIs 0x%x and 0x%x are far apart", a.spi, b.spi);
}

static void case_phase_follows_the_device_key(void) {
  struct key a, b;
  struct answer r;
  const int one = connect_peer(), two = connect_peer();
  must_rx(one, 0, &a);
  ask_id(&psp.nl, KEY_ROTATE, psp.id, &r);
  must_rx(two, 0, &b);
  PASS_ON;
  CHECK((a.spi ^ b.spi) & 0x80000000, "SPI 0x%x before and 0x%x after rotation", a.spi, b.spi);
}

static void case_refused_rx_assoc_burns_an_spi(void) {
  struct key a, b;
  struct answer r;
  const int one = connect_peer(), two = connect_peer();
  must_rx(one, 0, &a);
  PASS_ON;
  ask_rx(&psp.nl, one, 0, &r);
  CHECK_EQ(r.error, EBUSY, "error");
  must_rx(two, 0, &b);
  PASS_ON;
  CHECK(b.spi == a.spi + 2, "SPIs 0x%x and 0x%x", a.spi, b.spi);
}

static void case_tx_assoc(void) {
  for (uint32_t version = 0; version < 4; version++) {
    if (!(psp.cap & 1u << version)) continue;
    struct key key = {.spi = 0x80000001, .size = key_size(version)};
    struct answer a;
    const int fd = connect_peer();
    must_rx(fd, version, NULL);
    PASS_ON;
    ask_tx(&psp.nl, fd, version, &key, &a);
    CHECK(a.error == 0, "version %u: %s %s", version, strerror(a.error), a.text);
    CHECK_EQ(a.messages, 1, "replies");
    CHECK_EQ(a.cmd, TX_ASSOC, "command");
    CHECK_EQ(a.size, 0, "octets of the reply");
  }
}

static void case_own_dev_id(void) {
  struct message m;
  struct answer a;
  begin(&m, psp.family, RX_ASSOC, 0);
  put_u32(&m, ASSOC_DEV_ID, psp.id);
  put_u32(&m, ASSOC_VERSION, 0);
  put_u32(&m, ASSOC_SOCK_FD, (uint32_t)connect_peer());
  ask(&psp.nl, &m, &a);
  CHECK(a.error == 0, "%s %s", strerror(a.error), a.text);
}

static void case_dev_id_where_the_route_has_none(void) {
  struct message m;
  struct answer a;
  begin(&m, psp.family, RX_ASSOC, 0);
  put_u32(&m, ASSOC_DEV_ID, psp.id);
  put_u32(&m, ASSOC_VERSION, 0);
  put_u32(&m, ASSOC_SOCK_FD, (uint32_t)loopback_socket());
  ask(&psp.nl, &m, &a);
  CHECK(a.error == 0, "%s %s", strerror(a.error), a.text);
  CHECK_EQ(u32_of(in_answer(&a, ASSOC_DEV_ID)), psp.id, "dev-id");
}

static void case_dev_id_of_another_device(void) {
  struct message m;
  struct answer a;
  begin(&m, psp.family, RX_ASSOC, 0);
  m.bad = (uint32_t)put_u32(&m, ASSOC_DEV_ID, psp.id2);
  put_u32(&m, ASSOC_VERSION, 0);
  put_u32(&m, ASSOC_SOCK_FD, (uint32_t)connect_peer());
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.error, EINVAL, "error");
  CHECK(strcmp(a.text, "Device id vs socket mismatch") == 0, "text is \"%s\"", a.text);
  CHECK_EQ(a.bad, m.bad, "offset of the bad attribute");
}

// Only released kernels associate sockets without a route, so that two devices can be had for one.
static void case_rx_key_of_another_device(void) {
  struct message m;
  struct answer a;
  const uint32_t fd = (uint32_t)make_socket(S_CLOSED);
  begin(&m, psp.family, RX_ASSOC, 0);
  put_u32(&m, ASSOC_DEV_ID, psp.id);
  put_u32(&m, ASSOC_VERSION, 0);
  put_u32(&m, ASSOC_SOCK_FD, fd);
  ask(&psp.nl, &m, &a);
  CHECK(a.error == 0, "rx-assoc: %s %s", strerror(a.error), a.text);
  begin(&m, psp.family, TX_ASSOC, 0);
  put_u32(&m, ASSOC_DEV_ID, psp.id2);
  put_u32(&m, ASSOC_VERSION, 0);
  const size_t key = nest(&m, ASSOC_TX_KEY | NLA_F_NESTED);
  put_u32(&m, KEYS_SPI, 1);
  put(&m, KEYS_KEY, example.octets, 16);
  end_nest(&m, key);
  put_u32(&m, ASSOC_SOCK_FD, fd);
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.error, EINVAL, "error");
  CHECK(strcmp(a.text, "Rx key from different device") == 0, "text is \"%s\"", a.text);
}

static void case_one_tx_key_for_several_sockets(void) {
  for (unsigned i = 0; i < 3; i++) {
    const int fd = connect_peer();
    must_rx(fd, 0, NULL);
    if (!tap.bad) must_tx(fd, 0, &example);
    PASS_ON;
  }
}

static void case_associations_without_enabled_versions(void) {
  struct answer a;
  const uint32_t before = ena_now();
  set_ena(&psp.nl, 0, &a);
  const int fd = connect_peer();
  must_rx(fd, 0, NULL);
  if (!tap.bad) must_tx(fd, 0, &example);
  set_ena(&psp.nl, before, &a);
}

static int max_segment(int fd) {
  int value = 0;
  socklen_t size = sizeof value;
  getsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &value, &size);
  return value;
}

static void case_segment_size(void) {
  const int fd = connect_peer(), before = max_segment(fd);
  must_rx(fd, 0, NULL);
  PASS_ON;
  CHECK_EQ(max_segment(fd), before, "TCP_MAXSEG after rx-assoc");
  must_tx(fd, 0, &example);
  PASS_ON;
  CHECK_EQ(max_segment(fd), before - 40, "TCP_MAXSEG after tx-assoc");
}

static void case_another_descriptor_of_the_socket(void) {
  const int fd = connect_peer(), other = keep(dup(fd));
  struct answer a;
  must_rx(fd, 0, NULL);
  PASS_ON;
  ask_rx(&psp.nl, other, 0, &a);
  CHECK_EQ(a.error, EBUSY, "error of rx-assoc by a duplicate");
  must_tx(other, 0, &example);
}

static void case_socket_of_another_netlink_socket(void) {
  struct netlink other = open_netlink();
  struct answer a;
  const int fd = connect_peer();
  must_rx(fd, 0, NULL);
  PASS_ON;
  ask_tx(&other, fd, 0, &example, &a);
  CHECK_EQ(a.error, 0, "error of tx-assoc over another netlink socket");
}

static void case_netlink_socket_may_close(void) {
  struct netlink other = open_netlink_of(NETLINK_GENERIC);
  struct answer a;
  const int fd = connect_peer();
  ask_rx(&other, fd, 0, &a);
  close(other.fd);
  CHECK_EQ(a.error, 0, "error of rx-assoc");
  must_tx(fd, 0, &example);
}

static void case_clear_data_is_queued(void) {
  char text[512];
  struct answer a;
  uint8_t buffer[16];
  const int fd = connect_peer();
  must_rx(fd, 0, NULL);
  if (tap.bad || !command(text, sizeof text, "SEND %u 10\n", local_port(fd))) return;
  CHECK(wait_readable(fd, PATIENCE_MS), "nothing came from the peer");
  ask_tx(&psp.nl, fd, 0, &example, &a);
  CHECK_EQ(a.error, EBUSY, "error");
  CHECK(strcmp(a.text, "Socket has incompatible segments already in the recv queue") == 0,
        "text is \"%s\"", a.text);
  CHECK_EQ(a.bad, 0, "bad attribute");
  CHECK(recv(fd, buffer, sizeof buffer, 0) == 10, "recv: %s", strerror(errno));
  ask_tx(&psp.nl, fd, 0, &example, &a);
  CHECK(a.error == 0, "tx-assoc after reading: %s %s", strerror(a.error), a.text);
}

static void case_kernel_tls_after_rx_assoc(void) {
  const int fd = connect_peer();
  must_rx(fd, 0, NULL);
  PASS_ON;
  const int result = setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", 3);
  CHECK(result != 0 && errno == EINVAL, "TCP_ULP: %s", result == 0 ? "success" : strerror(errno));
}

static void case_rx_assoc_after_kernel_tls(void) {
  struct message m;
  struct answer a;
  const int fd = connect_peer();
  CHECK(setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", 3) == 0, "TCP_ULP: %s", strerror(errno));
  begin(&m, psp.family, RX_ASSOC, 0);
  put_u32(&m, ASSOC_VERSION, 0);
  m.bad = (uint32_t)put_u32(&m, ASSOC_SOCK_FD, (uint32_t)fd);
  ask(&psp.nl, &m, &a);
  CHECK_EQ(a.error, EINVAL, "error");
  CHECK(strcmp(a.text, "Socket has incompatible state") == 0, "text is \"%s\"", a.text);
  CHECK_EQ(a.bad, m.bad, "offset of the bad attribute");
}

// --- cases: data
// ----------------------------------------------------------------------------------

static void flow(uint32_t version) {
  const uint64_t tx = statistic(STATS_TX_PACKETS), rx = statistic(STATS_RX_PACKETS);
  const int fd = secure(version);
  PASS_ON;
  deliver(fd, 200000);
  PASS_ON;
  fetch(fd, 200000);
  PASS_ON;
  CHECK(statistic(STATS_TX_PACKETS) > tx, "tx-packets has not grown");
  CHECK(statistic(STATS_RX_PACKETS) > rx, "rx-packets has not grown");
}
static void flow_if(uint32_t version) {
  if (psp.cap & 1u << version) flow(version);
}
static void case_data_version_0(void) { flow_if(0); }
static void case_data_version_1(void) { flow_if(1); }
static void case_data_version_2(void) { flow_if(2); }
static void case_data_version_3(void) { flow_if(3); }

static void case_one_rotation_is_survived(void) {
  struct answer a;
  const int fd = secure(0);
  PASS_ON;
  ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
  CHECK_EQ(a.error, 0, "error of key-rotate");
  fetch(fd, 50000);
  PASS_ON;
  deliver(fd, 50000);
}

static void case_two_rotations_are_not(void) {
  char text[512];
  struct answer a;
  const int fd = secure(0);
  PASS_ON;
  fetch(fd, 1000);
  PASS_ON;
  for (unsigned i = 0; i < 2; i++) ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
  if (!command(text, sizeof text, "SEND %u 1000\n", local_port(fd))) return;
  CHECK(!wait_readable(fd, 3 * SILENCE_MS), "data came under a key that is no more");
}

static void case_clear_data_is_dropped_after_tx_assoc(void) {
  char text[512];
  const int fd = connect_peer();
  must_rx(fd, 0, NULL);
  if (!tap.bad) must_tx(fd, 0, &example);
  if (tap.bad || !command(text, sizeof text, "SEND %u 100\n", local_port(fd))) return;
  CHECK(!wait_readable(fd, 3 * SILENCE_MS), "clear data was accepted");
}

static void case_disabled_version_is_not_received(void) {
  char text[512];
  struct answer a;
  const uint32_t before = ena_now();
  const int fd = secure(0);
  PASS_ON;
  set_ena(&psp.nl, before & ~1u, &a);
  const bool sent = command(text, sizeof text, "SEND %u 100\n", local_port(fd));
  const bool came = sent && wait_readable(fd, 3 * SILENCE_MS);
  set_ena(&psp.nl, before, &a);
  CHECK(sent && !came, "data came though its version is disabled");
}

// --- cases: permission
// ----------------------------------------------------------------------------

// set_net_admin raises or lowers CAP_NET_ADMIN among the effective capabilities.
static bool set_net_admin(bool on) {
  struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &head, data) != 0) return false;
  if (on)
    data[0].effective |= 1u << CAP_NET_ADMIN;
  else
    data[0].effective &= ~(1u << CAP_NET_ADMIN);
  return syscall(SYS_capset, &head, data) == 0;
}

// errors_without_capability asks each operation that needs one; what comes first is told.
static void check_privileged(struct netlink* nl, int set_and_rotate) {
  struct answer a;
  set_ena(nl, ena_now(), &a);
  CHECK_EQ(a.error, set_and_rotate, "error of dev-set");
  CHECK_EQ(a.bad, 0, "bad attribute");
  CHECK(a.text[0] == '\0', "text is \"%s\"", a.text);
  ask_id(nl, KEY_ROTATE, psp.id, &a);
  CHECK_EQ(a.error, set_and_rotate, "error of key-rotate");
  ask_id(nl, DEV_ASSOC, psp.id, &a);
  CHECK_EQ(a.error, EPERM, "error of dev-assoc");
  ask_id(nl, DEV_DISASSOC, psp.id, &a);
  CHECK_EQ(a.error, EPERM, "error of dev-disassoc");
}

static void case_without_capability(void) {
  CHECK(set_net_admin(false), "capset: %s", strerror(errno));
  struct netlink nl = open_netlink();
  check_privileged(&nl, opt.linux_6_18 ? 0 : EPERM);
  CHECK(set_net_admin(true), "capset: %s", strerror(errno));
}

static void case_capability_given_up(void) {
  struct netlink nl = open_netlink();
  struct answer a;
  ask_id(&nl, DEV_GET, psp.id, &a);  // spoken to while there was the capability
  CHECK(set_net_admin(false), "capset: %s", strerror(errno));
  check_privileged(&nl, opt.linux_6_18 ? 0 : EPERM);
  CHECK(set_net_admin(true), "capset: %s", strerror(errno));
}

static void case_permission_before_attributes(void) {
  struct message m;
  struct answer a;
  CHECK(set_net_admin(false), "capset: %s", strerror(errno));
  struct netlink nl = open_netlink();
  begin(&m, psp.family, DEV_ASSOC, 0);
  put_u32(&m, DEV_ID, 0);
  ask(&nl, &m, &a);
  const bool back = set_net_admin(true);
  CHECK_EQ(a.error, EPERM, "error");
  CHECK(back, "capset: %s", strerror(errno));
}

static void case_everybody_may(void) {
  struct answer a;
  CHECK(set_net_admin(false), "capset: %s", strerror(errno));
  struct netlink nl = join(psp.mgmt), use = join(psp.use);
  const int fd = connect_peer();
  (void)use;
  ask_id(&nl, DEV_GET, psp.id, &a);
  const int get = a.error;
  ask_id(&nl, GET_STATS, psp.id, &a);
  const int stats = a.error;
  ask_rx(&nl, fd, 0, &a);
  const int rx = a.error;
  ask_tx(&nl, fd, 0, &example, &a);
  CHECK(set_net_admin(true), "capset: %s", strerror(errno));
  CHECK_EQ(get, 0, "error of dev-get");
  CHECK_EQ(stats, 0, "error of get-stats");
  CHECK_EQ(rx, 0, "error of rx-assoc");
  CHECK_EQ(a.error, 0, "error of tx-assoc");
}

// In a child: the user namespace cannot be left again. User 0 is mapped: where pspd's user has no
// number, nobody can be told from him, and the preload library does not trust him.
static void case_root_of_a_user_namespace(void) {
  const pid_t child = fork();
  if (child == 0) {
    struct answer a;
    if (unshare(CLONE_NEWUSER) != 0) _exit(200);
    const int map = open("/proc/self/uid_map", O_WRONLY);
    if (write(map, "0 0 1\n", 6) != 6) _exit(202);
    close(map);
    struct netlink nl = open_netlink_of(NETLINK_GENERIC);
    ask_id(&nl, opt.linux_6_18 ? DEV_ASSOC : KEY_ROTATE, psp.id, &a);
    _exit(a.error < 0 ? 201 : a.error);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status), "the child died");
  CHECK(WEXITSTATUS(status) != 200, "unshare(CLONE_NEWUSER) failed");
  CHECK(WEXITSTATUS(status) != 202, "uid_map cannot be written");
  CHECK_EQ(WEXITSTATUS(status), EPERM, "error");
}

// --- cases: other namespaces
// ----------------------------------------------------------------------
//
// A world is another network namespace with one end of a veth pair, of which this one has the
// other, and an nsid for it here. Cases go there by setns and come back.

#define FIRST_NSID 4711
static struct {
  bool made;
  int32_t nsid;  // another each time: namespaces go slowly
  int home, away;
  uint32_t here, there;  // ifindexes of the pair
} world = {.home = -1, .away = -1};

static void begin_route(struct message* m, uint16_t type, uint16_t flags, const void* head,
                        size_t size) {
  memset(m->octets, 0, NLMSG_HDRLEN + NLMSG_ALIGN(size));
  memcpy(m->octets + NLMSG_HDRLEN, head, size);
  m->size = NLMSG_HDRLEN + NLMSG_ALIGN(size);
  *header_of(m) = (struct nlmsghdr){.nlmsg_type = type, .nlmsg_flags = flags};
}

static void ask_route(struct message* m, const char* what) {
  struct netlink nl = open_netlink_of(NETLINK_ROUTE);
  struct answer a;
  ask(&nl, m, &a);
  close(nl.fd);
  if (a.error != 0) fail(__LINE__, "%s: %s %s", what, strerror(a.error), a.text);
}

static void go(int netns) {
  if (setns(netns, CLONE_NEWNET) != 0) fail(__LINE__, "setns: %s", strerror(errno));
}

static void make_pair(void) {
  const struct ifinfomsg head = {.ifi_family = AF_UNSPEC};
  struct message m;
  begin_route(&m, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &head, sizeof head);
  put_text(&m, IFLA_IFNAME, "ktap-here");
  const size_t info = nest(&m, IFLA_LINKINFO);
  put_text(&m, IFLA_INFO_KIND, "veth");
  const size_t data = nest(&m, IFLA_INFO_DATA);
  const size_t peer = put(&m, VETH_INFO_PEER, &head, sizeof head);
  put_text(&m, IFLA_IFNAME, "ktap-there");
  put_u32(&m, IFLA_NET_NS_FD, (uint32_t)world.away);
  end_nest(&m, peer);
  end_nest(&m, data);
  end_nest(&m, info);
  ask_route(&m, "new veth");
}

// change_link sets a netdev up or down, and its name unless that is NULL.
static void change_link(uint32_t ifindex, bool up, const char* name) {
  struct message m;
  const struct ifinfomsg head = {
      .ifi_index = (int)ifindex, .ifi_flags = up ? IFF_UP : 0, .ifi_change = IFF_UP};
  begin_route(&m, RTM_NEWLINK, 0, &head, sizeof head);
  if (name != NULL) put_text(&m, IFLA_IFNAME, name);
  ask_route(&m, "change link");
}

static void bring_up(uint32_t ifindex, const char* address) {
  struct message m;
  const struct ifaddrmsg head = {.ifa_family = AF_INET, .ifa_prefixlen = 30, .ifa_index = ifindex};
  struct in_addr number;
  inet_pton(AF_INET, address, &number);
  change_link(ifindex, true, NULL);
  begin_route(&m, RTM_NEWADDR, NLM_F_CREATE, &head, sizeof head);
  put(&m, IFA_LOCAL, &number, sizeof number);
  put(&m, IFA_ADDRESS, &number, sizeof number);
  ask_route(&m, "new address");
}

static void case_netdev_is_renamed(void) {
  struct netlink listener = join(psp.mgmt);
  struct answer a;
  const uint32_t ifindex = if_nametoindex(opt.dev2);
  PASS_ON;
  change_link(ifindex, false, NULL);
  change_link(ifindex, false, "ktap-renamed");
  change_link(ifindex, true, NULL);
  const bool silent = !wait_readable(listener.fd, 2 * SILENCE_MS);
  ask_id(&psp.nl, DEV_GET, psp.id2, &a);
  change_link(ifindex, false, NULL);
  change_link(ifindex, false, opt.dev2);
  change_link(ifindex, true, NULL);
  CHECK(silent, "there is a notification");
  CHECK_EQ(a.error, 0, "error of dev-get");
  CHECK_EQ(u32_of(in_answer(&a, DEV_IFINDEX)), ifindex, "ifindex");
}

static void remove_pair(void) {
  struct message m;
  const struct ifinfomsg head = {.ifi_index = (int)if_nametoindex("ktap-here")};
  if (head.ifi_index == 0) return;
  begin_route(&m, RTM_DELLINK, 0, &head, sizeof head);
  ask_route(&m, "remove veth");
}

static void make_world(void) {
  const struct rtgenmsg head = {.rtgen_family = AF_UNSPEC};
  struct message m;
  struct answer a;
  static int32_t next = FIRST_NSID;
  world.made = true;
  world.home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  if (unshare(CLONE_NEWNET) != 0) fail(__LINE__, "unshare: %s", strerror(errno));
  world.away = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  go(world.home);
  PASS_ON;
  // Earlier runs may have left numbers behind: a namespace that still has some business keeps its.
  struct netlink route = open_netlink_of(NETLINK_ROUTE);
  for (int tries = 0; tries < 1000; tries++) {
    world.nsid = next++;
    begin_route(&m, RTM_NEWNSID, 0, &head, sizeof head);
    put_u32(&m, NETNSA_NSID, (uint32_t)world.nsid);
    put_u32(&m, NETNSA_FD, (uint32_t)world.away);
    ask(&route, &m, &a);
    if (a.error != EEXIST) break;
  }
  close(route.fd);
  if (a.error != 0) fail(__LINE__, "new nsid: %s %s", strerror(a.error), a.text);
  make_pair();
  PASS_ON;
  world.here = if_nametoindex("ktap-here");
  bring_up(world.here, "192.0.2.1");
  go(world.away);
  world.there = if_nametoindex("ktap-there");
  bring_up(world.there, "192.0.2.2");
  go(world.home);
}

// end_world also waits until the device has nothing associated: the next case would hear of it.
static void end_world(void) {
  struct answer a;
  if (!world.made) return;
  world.made = false;
  if (setns(world.home, CLONE_NEWNET) != 0) exit(2);
  remove_pair();
  close(world.home);
  close(world.away);
  for (int tries = 0; tries < PATIENCE_MS / 10; tries++) {
    ask_id(&psp.nl, DEV_GET, psp.id, &a);
    if (in_answer(&a, DEV_ASSOC_LIST) == NULL) return;
    usleep(10000);
  }
  fail(__LINE__, "the device still has an associated netdev");
}

// Both ends of the netlink talk of one namespace: sockets belong to where they were opened.
static struct netlink open_in(int netns, uint32_t group) {
  go(netns);
  struct netlink nl = group != 0 ? join(group) : open_netlink();
  return nl;
}

static void ask_dev_assoc(struct netlink* nl, uint8_t cmd, uint32_t ifindex, bool with_nsid,
                          struct answer* a) {
  struct message m;
  begin(&m, psp.family, cmd, 0);
  put_u32(&m, DEV_ID, psp.id);
  put_u32(&m, DEV_IFINDEX, ifindex);
  if (with_nsid) m.bad = (uint32_t)put_u32(&m, DEV_NSID, (uint32_t)world.nsid);
  ask(nl, &m, a);
  if (a->bad != 0 && a->bad == m.bad) a->missing = DEV_NSID;  // what the cases ask for
}

static void associate_world(void) {
  struct answer a;
  make_world();
  PASS_ON;
  ask_dev_assoc(&psp.nl, DEV_ASSOC, world.there, true, &a);
  CHECK(a.error == 0, "dev-assoc: %s %s", strerror(a.error), a.text);
  CHECK_EQ(a.messages, 1, "replies");
  CHECK_EQ(a.cmd, DEV_ASSOC, "command");
  CHECK_EQ(a.size, 0, "octets of the reply");
}

// listed tells whether the device's list has this netdev, and how many there are.
// listed also looks at the number of its namespace, unless that is ANY_NSID: a real one of whatever
// value.
#define ANY_NSID INT32_MIN
static bool listed(const struct answer* a, uint32_t ifindex, int32_t nsid, unsigned* count) {
  bool found = false;
  const struct nlattr* row;
  for (*count = 0; (row = attribute_nth(a->attributes, a->size, DEV_ASSOC_LIST, *count)) != NULL;
       ++*count)
    if (u32_of(inside(row, ASSOC_DEV_IFINDEX)) == ifindex && inside(row, ASSOC_DEV_NSID) != NULL &&
        ((int32_t)u32_of(inside(row, ASSOC_DEV_NSID)) == nsid ||
         (nsid == ANY_NSID && (int32_t)u32_of(inside(row, ASSOC_DEV_NSID)) >= 0)))
      found = true;
  return found;
}

static void case_dev_assoc_is_listed(void) {
  struct answer a;
  unsigned count;
  associate_world();
  PASS_ON;
  ask_id(&psp.nl, DEV_GET, psp.id, &a);
  check_device_set(&a);
  PASS_ON;
  CHECK(listed(&a, world.there, world.nsid, &count), "the list of %u has not the netdev", count);
  CHECK_EQ(count, 1, "netdevs in the list");
}

static void case_dev_assoc_notifies(void) {
  struct netlink listener = join(psp.mgmt);
  struct answer n;
  unsigned count;
  associate_world();
  PASS_ON;
  CHECK(next_notification(&listener, &n, PATIENCE_MS), "no notification");
  CHECK_EQ(n.cmd, DEV_CHANGE_NTF, "command");
  CHECK(listed(&n, world.there, world.nsid, &count), "the list of %u has not the netdev", count);
}

static void case_unassociated_namespace(void) {
  struct answer a;
  make_world();
  PASS_ON;
  struct netlink nl = open_in(world.away, 0);
  PASS_ON;
  dump(&nl, DEV_GET, &a, NULL, NULL);
  CHECK_EQ(a.error, 0, "error of the dump");
  CHECK_EQ(a.messages, 0, "devices");
  ask_id(&nl, DEV_GET, psp.id, &a);
  CHECK_EQ(a.error, ENOENT, "error of dev-get");
  ask_id(&nl, DEV_SET, psp.id, &a);
  CHECK_EQ(a.error, ENOENT, "error of dev-set");
  ask_id(&nl, KEY_ROTATE, psp.id, &a);
  CHECK_EQ(a.error, ENOENT, "error of key-rotate");
  ask_id(&nl, GET_STATS, psp.id, &a);
  CHECK_EQ(a.error, ENOENT, "error of get-stats");
  ask_id(&nl, DEV_GET, NO_SUCH_ID, &a);
  CHECK_EQ(a.error, ENODEV, "error of dev-get of an unknown id");
}

// check_main_ifindex: up to Linux 7.3 an associated namespace is told of the main netdev.
static void check_main_ifindex(const struct answer* a) {
  if (opt.net_next)
    CHECK(in_answer(a, DEV_IFINDEX) == NULL, "the ifindex of the other namespace's netdev is told");
  else
    CHECK_EQ(u32_of(in_answer(a, DEV_IFINDEX)), psp.ifindex, "ifindex of the main netdev");
}

static void case_associated_namespace_sees_the_device(void) {
  struct answer a;
  unsigned count;
  associate_world();
  PASS_ON;
  struct netlink nl = open_in(world.away, 0);
  PASS_ON;
  ask_id(&nl, DEV_GET, psp.id, &a);
  CHECK_EQ(a.error, 0, "error of dev-get");
  CHECK(in_answer(&a, DEV_BY_ASSOCIATION) != NULL, "no by-association");
  CHECK_EQ(payload_size(in_answer(&a, DEV_BY_ASSOCIATION)), 0, "octets of by-association");
  CHECK(listed(&a, world.there, -1, &count) == !opt.net_next, "the list has %u netdevs", count);
  CHECK_EQ(count, opt.net_next ? 0 : 1, "netdevs in the list");
  check_main_ifindex(&a);
  CHECK_EQ(u32_of(in_answer(&a, DEV_CAP)), psp.cap, "psp-versions-cap");
  dump(&nl, DEV_GET, &a, NULL, NULL);
  CHECK_EQ(a.error, 0, "error of the dump");
  CHECK_EQ(a.messages, 1, "devices");
  ask_id(&nl, GET_STATS, psp.id, &a);
  CHECK_EQ(a.error, 0, "error of get-stats");
}

static void case_associated_namespace_may_not_manage(void) {
  struct answer a;
  associate_world();
  PASS_ON;
  struct netlink nl = open_in(world.away, 0);
  PASS_ON;
  set_ena(&nl, 1, &a);
  CHECK_EQ(a.error, ENOENT, "error of dev-set");
  ask_id(&nl, KEY_ROTATE, psp.id, &a);
  CHECK_EQ(a.error, ENOENT, "error of key-rotate");
  ask_dev_assoc(&nl, DEV_ASSOC, world.there, true, &a);
  CHECK_EQ(a.error, EPERM, "error of dev-assoc with nsid");
  CHECK_EQ(a.missing, DEV_NSID, "bad attribute of dev-assoc");
  ask_dev_assoc(&nl, DEV_DISASSOC, world.there, true, &a);
  CHECK_EQ(a.error, EPERM, "error of dev-disassoc with nsid");
  CHECK_EQ(a.missing, DEV_NSID, "bad attribute of dev-disassoc");
}

static void case_associated_namespace_hears_of_rotation(void) {
  struct answer a, n;
  associate_world();
  PASS_ON;
  struct netlink listener = open_in(world.away, psp.use);
  go(world.home);
  PASS_ON;
  ask_id(&psp.nl, KEY_ROTATE, psp.id, &a);
  CHECK_EQ(a.error, 0, "error of key-rotate");
  CHECK(next_notification(&listener, &n, PATIENCE_MS), "no notification");
  CHECK_EQ(n.cmd, KEY_ROTATE_NTF, "command");
  CHECK_EQ(u32_of(in_answer(&n, DEV_ID)), psp.id, "id");
}

static void case_associated_namespace_hears_of_dev_set(void) {
  struct answer a, n;
  associate_world();
  PASS_ON;
  struct netlink listener = open_in(world.away, psp.mgmt);
  go(world.home);
  PASS_ON;
  set_ena(&psp.nl, ena_now(), &a);
  CHECK_EQ(a.error, 0, "error of dev-set");
  CHECK(next_notification(&listener, &n, PATIENCE_MS), "no notification");
  CHECK_EQ(n.cmd, DEV_CHANGE_NTF, "command");
  CHECK(in_answer(&n, DEV_BY_ASSOCIATION) != NULL, "no by-association");
  check_main_ifindex(&n);
}

static void check_loss_is_told(struct netlink* home, struct netlink* away) {
  struct answer n;
  unsigned count;
  CHECK(next_notification(home, &n, PATIENCE_MS), "no notification in the main namespace");
  CHECK_EQ(n.cmd, DEV_CHANGE_NTF, "command in the main namespace");
  // Up to Linux 7.3 it is told before it happens, to all alike.
  CHECK(listed(&n, world.there, world.nsid, &count) == !opt.net_next, "the list has %u netdevs",
        count);
  CHECK(next_notification(away, &n, PATIENCE_MS), "no notification in the other namespace");
  CHECK_EQ(n.cmd, opt.net_next ? DEV_DEL_NTF : DEV_CHANGE_NTF, "command in the other namespace");
  CHECK_EQ(u32_of(in_answer(&n, DEV_ID)), psp.id, "id in the other namespace");
  struct netlink nl = open_in(world.away, 0);
  ask_id(&nl, DEV_GET, psp.id, &n);
  CHECK_EQ(n.error, ENOENT, "error of dev-get in the other namespace");
}

static void case_dev_disassoc(void) {
  struct answer a;
  associate_world();
  PASS_ON;
  struct netlink away = open_in(world.away, psp.mgmt);
  struct netlink home = open_in(world.home, psp.mgmt);
  PASS_ON;
  ask_dev_assoc(&psp.nl, DEV_DISASSOC, world.there, true, &a);
  CHECK(a.error == 0, "dev-disassoc: %s %s", strerror(a.error), a.text);
  CHECK_EQ(a.cmd, DEV_DISASSOC, "command");
  CHECK_EQ(a.size, 0, "octets of the reply");
  check_loss_is_told(&home, &away);
  PASS_ON;
  go(world.home);
  ask_dev_assoc(&psp.nl, DEV_DISASSOC, world.there, true, &a);
  CHECK_EQ(a.error, ENODEV, "error of a second dev-disassoc");
  ask_dev_assoc(&psp.nl, DEV_ASSOC, world.there, true, &a);
  CHECK_EQ(a.error, 0, "error of dev-assoc once more");
}

static void case_associated_netdev_is_removed(void) {
  associate_world();
  PASS_ON;
  struct netlink away = open_in(world.away, psp.mgmt);
  struct netlink home = open_in(world.home, psp.mgmt);
  PASS_ON;
  remove_pair();
  PASS_ON;
  check_loss_is_told(&home, &away);
}

static void case_dev_assoc_twice(void) {
  struct answer a;
  associate_world();
  PASS_ON;
  ask_dev_assoc(&psp.nl, DEV_ASSOC, world.there, true, &a);
  CHECK_EQ(a.error, EBUSY, "error");
  CHECK(strcmp(a.text, "Device already associated with a PSP device") == 0, "text is \"%s\"",
        a.text);
}

static void case_dev_assoc_without_nsid(void) {
  struct answer a;
  unsigned count;
  make_world();
  PASS_ON;
  ask_dev_assoc(&psp.nl, DEV_ASSOC, world.here, false, &a);
  CHECK(a.error == 0, "dev-assoc: %s %s", strerror(a.error), a.text);
  ask_id(&psp.nl, DEV_GET, psp.id, &a);
  CHECK(listed(&a, world.here, ANY_NSID, &count), "the list of %u has not the netdev", count);
  ask_dev_assoc(&psp.nl, DEV_DISASSOC, world.here, false, &a);
  CHECK(a.error == 0, "dev-disassoc: %s %s", strerror(a.error), a.text);
}

static void case_rx_assoc_over_an_associated_netdev(void) {
  struct sockaddr_in here = {.sin_family = AF_INET};
  socklen_t size = sizeof here;
  struct answer a;
  associate_world();
  PASS_ON;
  inet_pton(AF_INET, "192.0.2.1", &here.sin_addr);
  const int listener = keep(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CHECK(bind(listener, (struct sockaddr*)&here, size) == 0 && listen(listener, 4) == 0 &&
            getsockname(listener, (struct sockaddr*)&here, &size) == 0,
        "listen: %s", strerror(errno));
  struct netlink nl = open_in(world.away, 0);
  const int fd = keep(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CHECK(connect(fd, (struct sockaddr*)&here, size) == 0, "connect: %s", strerror(errno));
  ask_rx(&nl, fd, 0, &a);
  CHECK(a.error == 0, "rx-assoc: %s %s", strerror(a.error), a.text);
  CHECK_EQ(u32_of(in_answer(&a, ASSOC_DEV_ID)), psp.id, "dev-id");
  ask_tx(&nl, fd, 0, &example, &a);
  CHECK(a.error == 0, "tx-assoc: %s %s", strerror(a.error), a.text);
}

// --- the list of cases
// ----------------------------------------------------------------------------

static const struct {
  const char* name;
  void (*run)(void);
  unsigned needs;
} cases[] = {
    {"the family is found by name", case_family_by_name, 0},
    {"the family is found by id", case_family_by_id, 0},
    {"a family of another name is not psp", case_family_of_another_name, 0},
    {"the family lists its operations and their flags", case_family_operations, 0},
    {"the family has the groups mgmt and use", case_family_groups, 0},
    {"the dump of families has psp once and the kernel's too", case_family_dump, 0},
    {"the policy dump names each operation's attributes", case_policy_dump, 0},
    {"the policy dump tells types, ranges and masks", case_policy_limits, 0},
    {"the policy dump of one operation tells of it alone", case_policy_of_one_operation, 0},

    {"unknown commands and notifications are not supported as requests", case_unknown_command, 0},
    {"operations without dump refuse one", case_dump_of_what_has_none, NEED_ROOT},
    {"a genlmsghdr.reserved that is not 0 is refused", case_reserved_field, 0},
    {"reserved bits in nlmsg_flags are refused", case_reserved_flags, 0},
    {"any version in the genl header is accepted", case_any_header_version, 0},
    {"a message shorter than its headers is refused", case_short_message, 0},
    {"a reply carries the port and the sequence number of the request",
     case_answer_carries_port_and_sequence, 0},
    {"a reply comes from port 0", case_answer_comes_from_the_kernel, 0},
    {"without NLM_F_ACK there is no acknowledgement but of errors",
     case_no_acknowledgement_unless_asked, 0},
    {"without NLM_F_REQUEST there is no answer", case_no_request_flag_no_answer, 0},
    {"NETLINK_CAP_ACK caps what an error quotes", case_cap_ack, 0},
    {"without NETLINK_EXT_ACK an error has no attributes", case_no_ext_ack, 0},
    {"an error of a policy brings the policy", case_policy_comes_with_the_error, 0},
    {"several messages in a datagram are answered one by one", case_several_messages_in_a_datagram,
     0},
    {"NETLINK_GET_STRICT_CHK changes nothing for dumps", case_strict_check_changes_nothing, 0},
    {"a dump takes no attribute", case_dump_refuses_attributes, NOT_6_18},

    {"dev-get tells id, ifindex and versions", case_dev_get, 0},
    {"the dump of dev-get has every device once", case_dev_get_dump, 0},
    {"dev-set enables and disables versions", case_dev_set, NEED_ROOT},
    {"key-rotate answers with the id alone", case_key_rotate, NEED_ROOT},
    {"get-stats tells each counter in four octets while it fits", case_get_stats, 0},
    {"the dump of get-stats has every device once", case_get_stats_dump, 0},
    {"rotations are counted", case_rotations_are_counted, NEED_ROOT},
    {"associations become stale at the second rotation", case_associations_become_stale, NEED_ROOT},

    {"each dev-set sends dev-change-ntf, even if nothing changes", case_dev_change_ntf, NEED_ROOT},
    {"key-rotate sends key-rotate-ntf with the id alone", case_key_rotate_ntf, NEED_ROOT},
    {"mgmt hears of devices and use hears of keys", case_groups_are_apart, NEED_ROOT},
    {"every listener of a group hears", case_every_listener_hears, NEED_ROOT},
    {"who leaves a group hears no more", case_leaving_a_group, NEED_ROOT},
    {"refused requests notify nobody", case_refused_requests_notify_nobody, NEED_ROOT},
    {"an actor hears the notification before the reply", case_notification_before_the_reply,
     NEED_ROOT},
    {"a device that goes and comes sends dev-del-ntf and dev-add-ntf", case_device_goes_and_comes,
     NEED_ROOT | NEED_DEV2 | NEED_REREG},

    {"a device outlives that its netdev is renamed, down and up", case_netdev_is_renamed,
     NEED_ROOT | NEED_DEV2},

    {"rx-assoc gives dev-id, SPI and a key of the version's length", case_rx_assoc, 0},
    {"every rx-assoc gives another SPI and key", case_rx_keys_differ, 0},
    {"SPIs are in host order", case_spi_is_in_host_order, 0},
    {"rotation flips the phase bit of new SPIs", case_phase_follows_the_device_key, NEED_ROOT},
    {"a refused rx-assoc burns an SPI", case_refused_rx_assoc_burns_an_spi, 0},
    {"tx-assoc takes a key of each version", case_tx_assoc, 0},
    {"rx-assoc takes the dev-id of the route's device", case_own_dev_id, 0},
    {"rx-assoc uses dev-id where the route has no PSP device", case_dev_id_where_the_route_has_none,
     0},
    {"rx-assoc with the dev-id of another device mismatches the socket",
     case_dev_id_of_another_device, NEED_DEV2},
    {"tx-assoc with an Rx key from another device is refused", case_rx_key_of_another_device,
     NEED_DEV2 | NOT_NET_NEXT},
    {"one tx-key may serve several sockets", case_one_tx_key_for_several_sockets, 0},
    {"associations need no enabled version", case_associations_without_enabled_versions, NEED_ROOT},
    {"tx-assoc lowers TCP_MAXSEG by 40 and rx-assoc does not", case_segment_size, 0},
    {"a duplicate descriptor is the same socket", case_another_descriptor_of_the_socket, 0},
    {"rx-assoc and tx-assoc may come over different netlink sockets",
     case_socket_of_another_netlink_socket, 0},
    {"an association outlives the netlink socket", case_netlink_socket_may_close, 0},
    {"tx-assoc is refused while clear data is queued, and not after", case_clear_data_is_queued,
     NEED_PEER_ASSOC},
    {"kernel TLS is refused after rx-assoc", case_kernel_tls_after_rx_assoc, NEED_KTLS},
    {"rx-assoc is refused after kernel TLS", case_rx_assoc_after_kernel_tls, NEED_KTLS},

    {"data flows both ways under version 0", case_data_version_0, NEED_PEER_ASSOC},
    {"data flows both ways under version 1", case_data_version_1, NEED_PEER_ASSOC},
    {"data flows both ways under version 2", case_data_version_2, NEED_PEER_ASSOC},
    {"data flows both ways under version 3", case_data_version_3, NEED_PEER_ASSOC},
    {"an association survives one rotation", case_one_rotation_is_survived,
     NEED_ROOT | NEED_PEER_ASSOC},
    {"an association dies at the second rotation", case_two_rotations_are_not,
     NEED_ROOT | NEED_PEER_ASSOC},
    {"clear data is dropped after tx-assoc", case_clear_data_is_dropped_after_tx_assoc,
     NEED_PEER_ASSOC},
    {"a version that is disabled is not received", case_disabled_version_is_not_received,
     NEED_ROOT | NEED_PEER_ASSOC},

    {"without CAP_NET_ADMIN privileged operations are refused", case_without_capability, NEED_ROOT},
    {"CAP_NET_ADMIN is judged at each request", case_capability_given_up, NEED_ROOT},
    {"permission is checked before attributes", case_permission_before_attributes, NEED_ROOT},
    {"associations, dev-get, get-stats and both groups are everybody's", case_everybody_may,
     NEED_ROOT},
    {"root of a user namespace has no permission", case_root_of_a_user_namespace,
     NEED_ROOT | NEED_USERNS},

    {"dev-assoc with nsid is listed by dev-get", case_dev_assoc_is_listed, NEED_ROOT | NEED_NETNS},
    {"dev-assoc sends dev-change-ntf with the list", case_dev_assoc_notifies,
     NEED_ROOT | NEED_NETNS},
    {"a namespace without association does not see the device", case_unassociated_namespace,
     NEED_ROOT | NEED_NETNS | NEED_EVERYWHERE},
    {"an associated namespace sees the device by association",
     case_associated_namespace_sees_the_device, NEED_ROOT | NEED_NETNS},
    {"an associated namespace may not manage the device", case_associated_namespace_may_not_manage,
     NEED_ROOT | NEED_NETNS},
    {"an associated namespace hears of rotation", case_associated_namespace_hears_of_rotation,
     NEED_ROOT | NEED_NETNS},
    {"an associated namespace hears of dev-set", case_associated_namespace_hears_of_dev_set,
     NEED_ROOT | NEED_NETNS},
    {"dev-disassoc tells both namespaces", case_dev_disassoc, NEED_ROOT | NEED_NETNS},
    {"an associated netdev that is removed tells both namespaces",
     case_associated_netdev_is_removed, NEED_ROOT | NEED_NETNS},
    {"dev-assoc of an associated netdev is EBUSY", case_dev_assoc_twice, NEED_ROOT | NEED_NETNS},
    {"dev-assoc without nsid takes a netdev of the caller's namespace", case_dev_assoc_without_nsid,
     NEED_ROOT | NEED_NETNS},
    {"rx-assoc and tx-assoc work over an associated netdev",
     case_rx_assoc_over_an_associated_netdev, NEED_ROOT | NEED_NETNS},
};

// --- main
// -----------------------------------------------------------------------------------------

#define COUNT_ROWS (sizeof rows / sizeof rows[0])
#define COUNT_CASES (sizeof cases / sizeof cases[0])

static bool has_ktls(void) {
  const int fd = loopback_socket();
  const bool has = setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", 3) == 0;
  close_kept();
  tap.bad = false;
  return has;
}

// lack tells what a case needs and this run has not; NULL: nothing.
static const char* lack(unsigned needs) {
  if (needs & NEED_ROOT && geteuid() != 0) return "needs root";
  if (needs & NEED_PEER_ASSOC && !opt.peer_assoc) return "needs --peer-assoc";
  if (needs & NEED_DEV2 && (opt.dev2 == NULL || psp.id2 == 0)) return "needs --dev2";
  if (needs & NEED_REREG && opt.rereg == NULL) return "needs --rereg";
  if (needs & NEED_PARTIAL_CAP && psp.cap & 8) return "the device can all versions";
  if (needs & NEED_KTLS && !has_ktls()) return "the kernel has no kernel TLS (CONFIG_TLS)";
  if (needs & NEED_NETNS && access("/proc/self/ns/net", R_OK) != 0) return "no network namespaces";
  if (needs & NEED_USERNS && access("/proc/self/ns/user", R_OK) != 0) return "no user namespaces";
  return NULL;
}

static bool chosen(const char* name, unsigned needs) {
  if (opt.only != NULL && strstr(name, opt.only) == NULL) return false;
  if (needs & (opt.net_next ? NOT_NET_NEXT : ONLY_NET_NEXT)) return false;
  if (needs & (opt.linux_6_18 ? NOT_6_18 : ONLY_6_18)) return false;
  return !(needs & opt.without);
}

static int run_all(void) {
  unsigned plan = 0;
  for (unsigned i = 0; i < COUNT_ROWS; i++) plan += chosen(rows[i].name, rows[i].needs);
  for (unsigned i = 0; i < COUNT_CASES; i++) plan += chosen(cases[i].name, cases[i].needs);
  printf("KTAP version 1\n1..%u\n", plan);
  printf("# device %s: id %u, versions 0x%x; %zu cases of %zu are in this plan\n", opt.dev, psp.id,
         psp.cap, (size_t)plan, COUNT_ROWS + COUNT_CASES);
  for (unsigned i = 0; i < COUNT_ROWS; i++) {
    if (!chosen(rows[i].name, rows[i].needs)) continue;
    const char* why = lack(rows[i].needs);
    if (why == NULL) run_row(&rows[i]);
    report(rows[i].name, why);
    close_kept();
  }
  for (unsigned i = 0; i < COUNT_CASES; i++) {
    if (!chosen(cases[i].name, cases[i].needs)) continue;
    const char* why = lack(cases[i].needs);
    if (why == NULL) cases[i].run();
    end_world();
    report(cases[i].name, why);
    close_kept();
  }
  printf("# %u of %u failed\n", tap.failed, tap.number);
  return tap.failed == 0 ? 0 : 1;
}

// parse_address takes ADDR:PORT or [ADDR]:PORT.
static bool parse_address(const char* text, struct sockaddr_storage* out, socklen_t* size) {
  char host[64];
  const char* colon = strrchr(text, ':');
  if (colon == NULL || (size_t)(colon - text) >= sizeof host) return false;
  const bool bracket = text[0] == '[';
  snprintf(host, sizeof host, "%.*s", (int)(colon - text) - (bracket ? 2 : 0), text + bracket);
  struct sockaddr_in* v4 = (struct sockaddr_in*)out;
  struct sockaddr_in6* v6 = (struct sockaddr_in6*)out;
  memset(out, 0, sizeof *out);
  if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons((uint16_t)atoi(colon + 1));
    *size = sizeof *v4;
    return true;
  }
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons((uint16_t)atoi(colon + 1));
  *size = sizeof *v6;
  return inet_pton(AF_INET6, host, &v6->sin6_addr) == 1;
}

static unsigned parse_without(char* list) {
  static const struct {
    const char* name;
    unsigned bit;
  } names[] = {{"ktls", NEED_KTLS},
               {"partial-cap", NEED_PARTIAL_CAP},
               {"dev2", NEED_DEV2},
               {"rereg", NEED_REREG},
               {"netns", NEED_NETNS},
               {"userns", NEED_USERNS},
               {"everywhere", NEED_EVERYWHERE},
               {"root", NEED_ROOT},
               {"peer-assoc", NEED_PEER_ASSOC}};
  unsigned bits = 0;
  for (char* word = strtok(list, ","); word != NULL; word = strtok(NULL, ",")) {
    unsigned before = bits;
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
      if (strcmp(word, names[i].name) == 0) bits |= names[i].bit;
    if (bits == before) fprintf(stderr, "psp_uapi: --without: what is '%s'?\n", word);
  }
  return bits;
}

static int usage(void) {
  fputs(
      "usage: psp_uapi --dev IFNAME --peer ADDR:PORT [OPTIONS]   run the cases, as root\n"
      "       psp_uapi --serve ADDR:PORT                         be the peer\n"
      "  --peer-assoc        the peer is a psp_uapi --serve on a host with PSP\n"
      "  --dev2 IFNAME       another netdev with a PSP device\n"
      "  --rereg COMMAND     makes the PSP device of --dev2 go and come back\n"
      "  --compat KERNEL     linux-6.18, linux-7.2 or linux-7.3 (the default), net-next\n"
      "  --without LIST      this host is known to lack these; cases that need them are left out\n"
      "                      of the plan: "
      "ktls,partial-cap,dev2,rereg,netns,everywhere,\n"
      "                      userns,root,peer-assoc\n"
      "  --only TEXT         cases whose names contain it\n"
      "  --list              names of all cases\n"
      "IPv6: write the address of --peer as [ADDR]:PORT.\n",
      stderr);
  return 2;
}

static int list_all(void) {
  for (unsigned i = 0; i < COUNT_ROWS; i++) puts(rows[i].name);
  for (unsigned i = 0; i < COUNT_CASES; i++) puts(cases[i].name);
  return 0;
}

int main(int argc, char** argv) {
  static const struct option options[] = {
      {"dev", 1, NULL, 'd'},    {"dev2", 1, NULL, 'D'}, {"peer", 1, NULL, 'p'},
      {"rereg", 1, NULL, 'r'},  {"only", 1, NULL, 'o'}, {"peer-assoc", 0, NULL, 'a'},
      {"serve", 1, NULL, 's'},  {"list", 0, NULL, 'l'}, {"without", 1, NULL, 'w'},
      {"compat", 1, NULL, 'c'}, {NULL, 0, NULL, 0}};
  int option;
  signal(SIGPIPE, SIG_IGN);
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) switch (option) {
      case 'd':
        opt.dev = optarg;
        break;
      case 'D':
        opt.dev2 = optarg;
        break;
      case 'r':
        opt.rereg = optarg;
        break;
      case 'o':
        opt.only = optarg;
        break;
      case 'a':
        opt.peer_assoc = true;
        break;
      case 'l':
        opt.list = true;
        break;
      case 'w':
        opt.without |= parse_without(optarg);
        break;
      case 'c':
        opt.linux_6_18 = strcmp(optarg, "linux-6.18") == 0;
        opt.net_next = strcmp(optarg, "net-next") == 0;
        if (!opt.linux_6_18 && !opt.net_next && strcmp(optarg, "linux-7.2") != 0 &&
            strcmp(optarg, "linux-7.3") != 0)
          return usage();
        break;
      case 's':
        opt.serve = optarg;  // fall through
      case 'p':
        if (!parse_address(optarg, &opt.peer, &opt.peer_size)) return usage();
        break;
      default:
        return usage();
    }
  if (opt.list) return list_all();
  if (opt.serve != NULL) return serve(&opt.peer, opt.peer_size);
  if (opt.dev == NULL || opt.peer_size == 0) return usage();
  const char* wrong = set_up();
  if (wrong == NULL) return run_all();
  printf("KTAP version 1\n1..0 # SKIP %s\n", wrong);
  return 4;
}
