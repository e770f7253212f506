// SPDX-License-Identifier: Apache-2.0
//
// Field by field. The kernel numbers TCP's states from 1, and has an IPv4 connection of an IPv6
// socket with mapped addresses: it is told as what it is on the wire.
//
// A state that a later kernel adds is "?". The Tx SPI is told only of a socket that has a Tx key:
// before that the field in the socket's storage says nothing.
#include "assoc_info.hh"

#include <arpa/inet.h>
#include <iterator>

#include "base/v4_mapped.hh"
#include "device/state_table.h"

namespace psp::host {
namespace {

const char* tcp_state_name(unsigned state) {
  static constexpr const char* names[] = {"?",          "established", "syn-sent",  "syn-recv",
                                          "fin-wait-1", "fin-wait-2",  "time-wait", "close",
                                          "close-wait", "last-ack",    "listen",    "closing"};
  return state < std::size(names) ? names[state] : "?";
}

std::string address_text(unsigned family, const std::uint32_t* words) {
  char text[INET6_ADDRSTRLEN] = "";
  const void* v4 = family == 4 ? static_cast<const void*>(words) : v4_of(words);
  ::inet_ntop(v4 != nullptr ? AF_INET : AF_INET6, v4 != nullptr ? v4 : words, text, sizeof text);
  return text;
}

}  // namespace

AssocInfo assoc_info(const kernel::SecuredSocket& socket) {
  const psp_sock& assoc = socket.assoc;
  AssocInfo info;
  info.cookie = socket.cookie();
  info.rx = assoc.rx;
  info.family = socket.family;
  info.local_address = address_text(info.family, socket.id.idiag_src);
  info.peer_address = address_text(info.family, socket.id.idiag_dst);
  if (info.local_address.find(':') == std::string::npos) info.family = 4;
  info.local_port = ntohs(socket.id.idiag_sport);
  info.peer_port = ntohs(socket.id.idiag_dport);
  info.state = assoc.state;
  info.tcp_state = tcp_state_name(socket.tcp_state);
  if (assoc.state >= PSP_STATE_TX) info.tx_spi = Spi{assoc.tx_spi};
  info.rx_packets = assoc.rx_packets;
  info.rx_bytes = assoc.rx_bytes;
  info.tx_packets = assoc.tx_packets;
  info.tx_bytes = assoc.tx_bytes;
  info.rx_drops = assoc.rx_drops;
  return info;
}

}  // namespace psp::host
