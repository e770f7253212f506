// SPDX-License-Identifier: Apache-2.0
//
// Cases: rx-assoc and tx-assoc where they succeed, and what a socket is like then.
//
// Keys and SPIs, the device that is meant, and what an association outlives. Most of what is
// refused is in refusals.c.
#include "psp_uapi.h"

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

static const struct test_case cases[] = {
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
};
const struct group association_cases = GROUP(cases);
