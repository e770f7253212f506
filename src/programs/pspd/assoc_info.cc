// SPDX-License-Identifier: Apache-2.0
#include "assoc_info.hh"

#include <arpa/inet.h>
#include <iterator>

#include <psp/device/state_table.h>

namespace psp {
namespace {

const char* tcp_state_name(unsigned state) {
  static constexpr const char* names[] = {"?",          "established", "syn-sent",  "syn-recv",
                                          "fin-wait-1", "fin-wait-2",  "time-wait", "close",
                                          "close-wait", "last-ack",    "listen",    "closing"};
  return state < std::size(names) ? names[state] : "?";
}

std::string address_text(unsigned& family, const std::uint32_t* words) {
  char text[INET6_ADDRSTRLEN] = "";
  const auto* v6 = reinterpret_cast<const in6_addr*>(words);
  if (family == 6 && IN6_IS_ADDR_V4MAPPED(v6)) {
    ::inet_ntop(AF_INET, v6->s6_addr + 12, text, sizeof text);
  } else {
    ::inet_ntop(family == 4 ? AF_INET : AF_INET6, words, text, sizeof text);
  }
  return text;
}

}  // namespace

AssocInfo assoc_info(const datapath::SecuredSocket& socket) {
  const psp_sock& assoc = socket.assoc;
  AssocInfo info;
  info.cookie = socket.cookie();
  info.dev_id = assoc.dev_id;
  info.family = socket.family;
  info.local_address = address_text(info.family, socket.id.idiag_src);
  info.peer_address = address_text(info.family, socket.id.idiag_dst);
  if (info.local_address.find(':') == std::string::npos) info.family = 4;
  info.local_port = ntohs(socket.id.idiag_sport);
  info.peer_port = ntohs(socket.id.idiag_dport);
  info.state = assoc.state;
  info.tcp_state = tcp_state_name(socket.tcp_state);
  info.version = to_version(assoc.version).value_or(Version::kAesGcm128);
  info.generation = assoc.generation;
  info.rx_spi = Spi{assoc.rx_spi};
  if (assoc.state >= PSP_STATE_TX) info.tx_spi = Spi{assoc.tx_spi};
  info.rx_packets = assoc.rx_packets;
  info.rx_bytes = assoc.rx_bytes;
  info.tx_packets = assoc.tx_packets;
  info.tx_bytes = assoc.tx_bytes;
  info.rx_drops = assoc.rx_drops;
  return info;
}

}  // namespace psp
