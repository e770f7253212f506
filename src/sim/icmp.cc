// SPDX-License-Identifier: Apache-2.0
//
// The quoted packet is read by hand: its length field speaks of all of it, of which only the begin
// is there. Linux asks for the IP header and eight octets, and does not look at its checksum.
//
// The router has an address of its own. Nobody here looks at it, as nobody does in Linux.
#include "icmp.hh"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "wire/bytes.hh"
#include "wire/checksum.hh"
#include "wire/packet.hh"

namespace psp::sim {
namespace {

using wire::load_be;
using wire::store_be;

constexpr std::size_t kIcmp = 8, kNeeded = 8;
constexpr std::uint8_t kProtocol4 = 1, kProtocol6 = 58, kProtocolTcp = 6, kRouter = 254;

std::size_t address_size(unsigned family) { return family == 4 ? 4 : 16; }
std::size_t addresses_at(unsigned family) { return family == 4 ? 12 : 8; }

// sum_of is the checksum over an ICMP message: that of IPv6 is with the addresses.
std::uint16_t sum_of(std::span<const std::uint8_t> ip, const wire::IpHeader& header) {
  const auto message = ip.subspan(header.header_length);
  const auto length = static_cast<std::uint32_t>(message.size());
  const std::uint64_t sum =
      header.family == 4 ? 0 : wire::pseudo_header_sum(ip, 6, kProtocol6, length);
  return wire::checksum_fold(wire::checksum_add(sum, message));
}

}  // namespace

int IcmpError::error() const {
  static constexpr std::array kCodes4 = {ENETUNREACH,  EHOSTUNREACH, ENOPROTOOPT,  ECONNREFUSED,
                                         EMSGSIZE,     EOPNOTSUPP,   ENETUNREACH,  EHOSTDOWN,
                                         ENONET,       ENETUNREACH,  EHOSTUNREACH, ENETUNREACH,
                                         EHOSTUNREACH, EHOSTUNREACH, EHOSTUNREACH, EHOSTUNREACH};
  static constexpr std::array kCodes6 = {ENETUNREACH,  EACCES, EHOSTUNREACH, EHOSTUNREACH,
                                         ECONNREFUSED, EACCES, EACCES};
  if (tuple.family == 4) {
    if (type == 3) return code < kCodes4.size() ? kCodes4[code] : 0;
    return type == 11 ? EHOSTUNREACH : type == 12 ? EPROTO : 0;
  }
  if (type == 1) return code < kCodes6.size() ? kCodes6[code] : EPROTO;
  return type == 3 ? EHOSTUNREACH : type == 4 ? EPROTO : 0;
}

Notice too_big_for(unsigned family, std::uint32_t mtu) {
  return family == 4 ? Notice{3, 4, mtu & 0xffff} : Notice{2, 0, mtu};
}

Octets build_icmp(const Notice& notice, std::span<const std::uint8_t> about, std::size_t quoted) {
  const bool four = about[0] >> 4 == 4;
  const auto family = static_cast<std::uint8_t>(four ? 4 : 6);
  const std::size_t length = four ? 20 : 40, size = address_size(family);
  const std::size_t at = addresses_at(family);
  quoted = std::min(quoted, about.size());
  Octets frame(kEthernet + length + kIcmp + quoted);
  frame[0] = frame[6] = 2;
  store_be(frame.data() + 12, four ? std::uint16_t{0x0800} : std::uint16_t{0x86dd});
  std::uint8_t* ip = frame.data() + kEthernet;
  ip[0] = four ? 0x45 : 0x60;
  ip[four ? 8 : 7] = 64;
  std::memcpy(ip + at, about.data() + at + size, size);
  ip[at + size - 1] = kRouter;
  std::memcpy(ip + at + size, about.data() + at, size);
  std::uint8_t* icmp = ip + length;
  icmp[0] = notice.type;
  icmp[1] = notice.code;
  store_be(icmp + 4, notice.rest);
  std::copy_n(about.begin(), quoted, icmp + kIcmp);
  const wire::IpHeader header{.family = family,
                              .header_length = static_cast<std::uint16_t>(length)};
  const std::span packet(ip, frame.size() - kEthernet);
  wire::set_ip_payload(packet, header, kIcmp + quoted, four ? kProtocol4 : kProtocol6);
  store_be(icmp + 2, static_cast<std::uint16_t>(~sum_of(packet, header)));
  return frame;
}

bool is_icmp(std::span<const std::uint8_t> ip) {
  const auto header = wire::parse_ip(ip);
  return header && !header->fragment &&
         header->protocol == (header->family == 4 ? kProtocol4 : kProtocol6) &&
         header->total_length >= header->header_length + kIcmp;
}

std::span<const std::uint8_t> quote_of(std::span<const std::uint8_t> ip) {
  if (!is_icmp(ip)) return {};
  const auto header = wire::parse_ip(ip);
  return ip.first(header->total_length).subspan(header->header_length + kIcmp);
}

std::optional<IcmpError> parse_icmp(std::span<const std::uint8_t> ip) {
  const auto quote = quote_of(ip);
  if (quote.empty()) return {};
  const auto header = wire::parse_ip(ip);
  if (sum_of(ip.first(header->total_length), *header) != 0xffff) return {};
  IcmpError error;
  const unsigned family = header->family;
  const std::size_t length = family == 4 ? std::size_t{quote[0] & 15u} * 4 : 40;
  if (quote[0] >> 4 != family || length < 20 || quote.size() < length + kNeeded) return {};
  if (quote[family == 4 ? 9 : 6] != kProtocolTcp) return {};
  const std::uint8_t* icmp = ip.data() + header->header_length;
  error.type = icmp[0];
  error.code = icmp[1];
  error.mtu = family == 4 ? load_be<std::uint16_t>(icmp + 6) : load_be<std::uint32_t>(icmp + 4);
  error.tuple.family = family;
  const std::size_t size = address_size(family), at = addresses_at(family);
  std::memcpy(error.tuple.local.octets.data(), quote.data() + at, size);
  std::memcpy(error.tuple.remote.octets.data(), quote.data() + at + size, size);
  error.tuple.local_port = load_be<std::uint16_t>(quote.data() + length);
  error.tuple.remote_port = load_be<std::uint16_t>(quote.data() + length + 2);
  error.seq = load_be<std::uint32_t>(quote.data() + length + 4);
  return error;
}

}  // namespace psp::sim
