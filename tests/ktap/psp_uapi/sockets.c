// SPDX-License-Identifier: Apache-2.0
//
// Sockets of every kind that a request may name, and the two associations of a connected one.
//
// Every TCP socket but those of loopback_socket is connected to the peer of --peer, over the
// device.
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/time.h>

#include "psp_uapi.h"

int connect_peer(void) {
  int fd = keep(socket(opt.peer.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const struct timeval limit = {.tv_sec = PATIENCE_MS / 1000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (fd < 0 || connect(fd, (struct sockaddr*)&opt.peer, opt.peer_size) != 0)
    FAIL("connect to the peer: %s", strerror(errno));
  return fd;
}

uint16_t local_port(int fd) {
  struct sockaddr_storage name;
  socklen_t size = sizeof name;
  if (getsockname(fd, (struct sockaddr*)&name, &size) != 0) return 0;
  return ntohs(name.ss_family == AF_INET ? ((struct sockaddr_in*)&name)->sin_port
                                         : ((struct sockaddr_in6*)&name)->sin6_port);
}

const struct key example = {.spi = 0x123, .size = 16, .octets = "\1\2\3\4\5\6\7\10"};

size_t key_size(uint32_t version) { return version & 1 ? 32 : 16; }

void ask_rx(struct netlink* nl, int fd, uint32_t version, struct answer* a) {
  struct message m;
  begin(&m, psp.family, RX_ASSOC, 0);
  put_u32(&m, ASSOC_VERSION, version);
  put_u32(&m, ASSOC_SOCK_FD, (uint32_t)fd);
  ask(nl, &m, a);
}

void ask_tx(struct netlink* nl, int fd, uint32_t version, const struct key* key, struct answer* a) {
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

void take_key(const struct answer* a, struct key* key) {
  const struct nlattr* rx_key = in_answer(a, ASSOC_RX_KEY);
  const struct nlattr* octets = inside(rx_key, KEYS_KEY);
  memset(key, 0, sizeof *key);
  key->spi = u32_of(inside(rx_key, KEYS_SPI));
  if (octets == NULL || payload_size(octets) > sizeof key->octets) return;
  key->size = payload_size(octets);
  memcpy(key->octets, payload(octets), key->size);
}

void must_rx(int fd, uint32_t version, struct key* key) {
  struct answer a;
  ask_rx(&psp.nl, fd, version, &a);
  CHECK(a.error == 0, "rx-assoc: %s %s", strerror(a.error), a.text);
  if (key != NULL) take_key(&a, key);
}

void must_tx(int fd, uint32_t version, const struct key* key) {
  struct answer a;
  ask_tx(&psp.nl, fd, version, key, &a);
  CHECK(a.error == 0, "tx-assoc: %s %s", strerror(a.error), a.text);
}

bool wait_readable(int fd, int patience_ms) {
  struct pollfd ready = {.fd = fd, .events = POLLIN};
  return poll(&ready, 1, patience_ms) == 1;
}

int loopback_socket(void) {
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof here;
  int listener = keep(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  int fd = keep(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (bind(listener, (struct sockaddr*)&here, size) != 0 || listen(listener, 4) != 0 ||
      getsockname(listener, (struct sockaddr*)&here, &size) != 0 ||
      connect(fd, (struct sockaddr*)&here, size) != 0)
    FAIL("connect over loopback: %s", strerror(errno));
  return fd;
}

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

int make_socket(enum socket_kind kind) {
  int fd;
  switch (kind) {
    case S_LOOPBACK:
      return loopback_socket();
    case S_LISTEN:
      fd = plain_socket(kind);
      if (listen(fd, 1) != 0) FAIL("listen: %s", strerror(errno));
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
