// SPDX-License-Identifier: Apache-2.0
//
// psp_uapi: the contract of Linux's `psp` generic netlink family, as a program that speaks it.
//
// It uses the C library alone and has its own copy of every number, since it tests the contract and
// not the headers of whoever keeps it. It runs on a kernel with PSP and a NIC (or netdevsim), and
// unchanged on softpsp by `pspctl run -- psp_uapi ...`. Output: KTAP version 1. This directory is
// all of it: `cc -D_GNU_SOURCE -o psp_uapi *.c`. Below is what its files share, in the order of the
// files. One thread. No secrets: keys in here are test data.
#pragma once

#include <errno.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// --- numbers of the contract

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
#define NO_SUCH_ID 64999

// --- options (main.c)

struct options {
  const char *dev, *dev2, *rereg, *only, *serve;
  struct sockaddr_storage peer;
  socklen_t peer_size;
  bool peer_assoc, linux_6_18, net_next, list;
  unsigned without;  // NEED_... that this host is known not to have
};
extern struct options opt;

enum {  // what a case needs, beyond a device and a peer that accepts
  NEED_ROOT = 1,
  NEED_PEER_ASSOC = 2,
  NEED_DEV2 = 4,
  NEED_PARTIAL_CAP = 8,  // a device without some version
  NEED_KTLS = 16,
  NEED_REREG = 32,
  NEED_NETNS = 64,
  NEED_USERNS = 128,
  NEED_EVERYWHERE = 4096,  // namespaces without a device have the family too
  ONLY_NET_NEXT = 256,
  NOT_NET_NEXT = 512,
  NOT_6_18 = 1024,
  ONLY_6_18 = 2048,
};

// --- cases

struct test_case {
  const char* name;
  void (*run)(void);
  unsigned needs;
};
// A file of cases gives them as a group.
struct group {
  const struct test_case* cases;
  unsigned count;
};
#define GROUP(table) \
  { table, sizeof table / sizeof table[0] }
extern const struct group control_family_cases, request_cases, device_cases, notification_cases,
    association_cases, data_cases, permission_cases, namespace_cases;

// --- KTAP (ktap.c)

struct tap {
  unsigned number, failed;
  char why[512];
  bool bad;
};
extern struct tap tap;

// keep: the descriptor belongs to the running case, and close_kept closes it behind that.
int keep(int fd);
void close_kept(void);
void report(const char* name, const char* skip);

__attribute__((format(printf, 3, 4))) void fail_at(const char* file, int line, const char* format,
                                                   ...);
#define FAIL(...) fail_at(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(condition, ...) \
  do {                        \
    if (!(condition)) {       \
      FAIL(__VA_ARGS__);      \
      return;                 \
    }                         \
  } while (0)
#define CHECK_EQ(got, want, what)                                                              \
  CHECK((long long)(got) == (long long)(want), "%s is %lld, not %lld", what, (long long)(got), \
        (long long)(want))
#define PASS_ON          \
  do {                   \
    if (tap.bad) return; \
  } while (0)

// --- messages (message.c)

struct message {
  _Alignas(8) uint8_t octets[8192];
  size_t size;
  uint32_t bad, missing_in;  // offsets of the attributes that the table marks
};

struct nlmsghdr* header_of(struct message* m);
void begin(struct message* m, uint16_t family, uint8_t cmd, uint16_t flags);
// put and its like return where the attribute stands.
size_t put(struct message* m, uint16_t type, const void* data, size_t size);
size_t put_u32(struct message* m, uint16_t type, uint32_t value);
size_t put_text(struct message* m, uint16_t type, const char* text);
size_t nest(struct message* m, uint16_t type);
void end_nest(struct message* m, size_t at);

// attribute finds `type` among the attributes in [data, data + size); NULL: not there.
// attribute_nth finds the one after so many of its type, inside one in a nest.
const struct nlattr* attribute(const void* data, size_t size, uint16_t type);
const struct nlattr* attribute_nth(const void* data, size_t size, uint16_t type, unsigned skip);
const struct nlattr* inside(const struct nlattr* a, uint16_t type);
unsigned count_attributes(const void* data, size_t size);
const void* payload(const struct nlattr* a);
size_t payload_size(const struct nlattr* a);
uint32_t u32_of(const struct nlattr* a);
uint64_t uint_of(const struct nlattr* a);

// --- netlink (netlink.c)

struct netlink {
  int fd;
  uint32_t seq, port;
};

// What is under test.
struct subject {
  struct netlink nl;
  uint16_t family;
  uint32_t mgmt, use;  // group ids
  uint32_t id, ifindex, cap, id2;
};
extern struct subject psp;

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

// set_up resolves family, groups and devices. Returns NULL or what is wrong.
const char* set_up(void);
// open_netlink's socket belongs to the case, open_netlink_of's to the caller.
struct netlink open_netlink_of(int protocol);
struct netlink open_netlink(void);
bool send_message(struct netlink* nl, struct message* m);
typedef void each_message(const struct nlmsghdr*, void* context);
// receive takes messages with `seq` until the acknowledgement. each: called with every genl message
// too; may be NULL. The end of a dump counts as acknowledgement.
void receive(struct netlink* nl, uint32_t seq, struct answer* a, each_message* each, void* context);
// ask sends and awaits the answer; it sets NLM_F_ACK, so that each request has an end.
void ask(struct netlink* nl, struct message* m, struct answer* a);
void ask_id(struct netlink* nl, uint8_t cmd, uint32_t id, struct answer* a);
void dump(struct netlink* nl, uint8_t cmd, struct answer* a, each_message* each, void* context);
each_message find_device_row;
void set_ena(struct netlink* nl, uint32_t ena, struct answer* a);
// get_family fills `a` from CTRL_CMD_GETFAMILY by name.
void get_family(struct netlink* nl, const char* name, struct answer* a);
uint32_t group_id(const struct answer* a, const char* name);
const struct nlattr* in_answer(const struct answer* a, uint16_t type);
// join makes a listener; the groups are a case's to choose.
struct netlink join(uint32_t group);
// next_notification waits for one message; false: none came in time.
bool next_notification(struct netlink* nl, struct answer* a, int patience_ms);

// --- sockets (sockets.c)

struct key {
  uint32_t spi;
  size_t size;
  uint8_t octets[32];
};
extern const struct key example;

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

int make_socket(enum socket_kind kind);
int connect_peer(void);
// loopback_socket is connected to a listener of this program: its route has no PSP device.
int loopback_socket(void);
uint16_t local_port(int fd);
bool wait_readable(int fd, int patience_ms);
size_t key_size(uint32_t version);
void ask_rx(struct netlink* nl, int fd, uint32_t version, struct answer* a);
void ask_tx(struct netlink* nl, int fd, uint32_t version, const struct key* key, struct answer* a);
void take_key(const struct answer* a, struct key* key);
void must_rx(int fd, uint32_t version, struct key* key);
void must_tx(int fd, uint32_t version, const struct key* key);

// --- the peer (peer.c)

int serve(const struct sockaddr_storage* where, socklen_t size);
// command sends one line to the service and takes its answer. false: it failed, and so has the
// case.
__attribute__((format(printf, 3, 4))) bool command(char* answer, size_t room, const char* format,
                                                   ...);
// secure makes both ends of a new connection secured; returns this one.
int secure(uint32_t version);
// fetch has the peer send the pattern on `fd` and compares what arrives.
void fetch(int fd, unsigned count);
// deliver sends the pattern on `fd` and awaits that the peer has all of it, unchanged.
void deliver(int fd, unsigned count);

// --- refused requests (refusals.c)

#define MANY_PARTS 12
struct part {
  uint8_t kind;
  uint16_t type;
  uint32_t value;
};
struct row {
  const char* name;
  uint8_t cmd;
  struct part parts[MANY_PARTS];
  int error;
  const char* text;
  uint32_t missing;
  unsigned needs;
};
extern const struct row rows[];
extern const unsigned row_count;
void run_row(const struct row* row);

// --- the device (devices.c)

void check_device_set(const struct answer* a);
uint32_t ena_now(void);
uint64_t statistic(uint16_t type);
