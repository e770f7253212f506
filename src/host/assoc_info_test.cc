// SPDX-License-Identifier: Apache-2.0
//
// How a socket looks to an operator: addresses, ports, cookie, TCP state, SPIs. The sockets are
// filled in here, as sock_diag and the socket's storage would have them, so no root is needed and
// states that no kernel has yet can be shown.
//
// What the kernel fills in is tested with pspd (tests/netns).
#include "assoc_info.hh"

#include <arpa/inet.h>
#include <gtest/gtest.h>

#include "device/state_table.h"

namespace psp::host {
namespace {

kernel::SecuredSocket socket_of(unsigned family, const char* local, const char* peer) {
  kernel::SecuredSocket socket;
  socket.family = family;
  socket.tcp_state = 1;
  const int domain = family == 4 ? AF_INET : AF_INET6;
  ::inet_pton(domain, local, socket.id.idiag_src);
  ::inet_pton(domain, peer, socket.id.idiag_dst);
  socket.id.idiag_sport = htons(1111);
  socket.id.idiag_dport = htons(2222);
  socket.id.idiag_cookie[0] = 5;
  socket.id.idiag_cookie[1] = 1;
  socket.assoc.rx.dev_id = 3;
  socket.assoc.rx.spi = 10;
  socket.assoc.tx_spi = 20;
  socket.assoc.state = PSP_STATE_RX;
  return socket;
}

TEST(AssocInfo, HasAddressesPortsAndCookie) {
  const AssocInfo info = assoc_info(socket_of(4, "10.0.0.1", "10.0.0.2"));
  EXPECT_EQ(info.cookie, 0x1'0000'0005u);
  EXPECT_EQ(info.rx.dev_id, 3);
  EXPECT_EQ(info.family, 4u);
  EXPECT_EQ(info.local_address, "10.0.0.1");
  EXPECT_EQ(info.peer_address, "10.0.0.2");
  EXPECT_EQ(info.local_port, 1111);
  EXPECT_EQ(info.peer_port, 2222);
  EXPECT_EQ(info.tcp_state, std::string("established"));
}

TEST(AssocInfo, AnIpv4ConnectionOfAnIpv6SocketIsIpv4) {
  const AssocInfo info = assoc_info(socket_of(6, "::ffff:10.0.0.1", "::ffff:10.0.0.2"));
  EXPECT_EQ(info.family, 4u);
  EXPECT_EQ(info.local_address, "10.0.0.1");
  EXPECT_EQ(info.peer_address, "10.0.0.2");
  EXPECT_EQ(assoc_info(socket_of(6, "fd00::1", "fd00::2")).family, 6u);
}

TEST(AssocInfo, HasATxSpiOnceThereIsATxKey) {
  kernel::SecuredSocket socket = socket_of(4, "10.0.0.1", "10.0.0.2");
  EXPECT_EQ(assoc_info(socket).rx.spi, 10u);
  EXPECT_FALSE(assoc_info(socket).tx_spi);
  socket.assoc.state = PSP_STATE_TX;
  EXPECT_EQ(assoc_info(socket).tx_spi, Spi{20});
}

TEST(AssocInfo, ATcpStateOfALaterKernelIsNotKnown) {
  kernel::SecuredSocket socket = socket_of(4, "10.0.0.1", "10.0.0.2");
  socket.tcp_state = 99;
  EXPECT_EQ(assoc_info(socket).tcp_state, std::string("?"));
}

}  // namespace
}  // namespace psp::host
