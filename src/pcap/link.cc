// SPDX-License-Identifier: Apache-2.0
//
// Link layers. Lengths are checked before anything is read.
#include <cstring>

#include <psp/pcap/link.hh>
#include <psp/pcap/record.hh>
#include <psp/wire/bytes.hh>

namespace psp::pcap {
namespace {

constexpr std::uint16_t kTypeIpv4 = 0x0800;
constexpr std::uint16_t kTypeIpv6 = 0x86dd;
constexpr std::uint16_t kTypeVlan = 0x8100;
constexpr std::uint16_t kTypeServiceVlan = 0x88a8;
constexpr int kMaxTags = 2;

std::uint8_t family_of(std::uint16_t type) {
  return type == kTypeIpv4 ? 4 : type == kTypeIpv6 ? 6 : 0;
}

std::optional<Link> ethernet(std::span<const std::uint8_t> frame) {
  std::size_t type_at = 12;
  for (int tags = 0; tags <= kMaxTags; ++tags) {
    if (frame.size() < type_at + 2) return std::nullopt;
    const auto type = wire::load_be<std::uint16_t>(frame.data() + type_at);
    if (const auto family = family_of(type)) return Link{type_at + 2, type_at, family};
    if (type != kTypeVlan && type != kTypeServiceVlan) return std::nullopt;
    type_at += 4;
  }
  return std::nullopt;
}

std::optional<Link> cooked(std::span<const std::uint8_t> frame, std::size_t type_at,
                           std::size_t header) {
  if (frame.size() < header) return std::nullopt;
  const auto family = family_of(wire::load_be<std::uint16_t>(frame.data() + type_at));
  if (family == 0) return std::nullopt;
  return Link{header, type_at, family};
}

std::optional<Link> bare(std::span<const std::uint8_t> frame, std::size_t header) {
  if (frame.size() <= header) return std::nullopt;
  const unsigned version = frame[header] >> 4;
  if (version != 4 && version != 6) return std::nullopt;
  return Link{.ip_at = header, .family = static_cast<std::uint8_t>(version)};
}

}  // namespace

bool understands(std::uint32_t link_type) {
  switch (link_type) {
    case kLinkNull:
    case kLinkEthernet:
    case kLinkRaw:
    case kLinkLoop:
    case kLinkSll:
    case kLinkIpv4:
    case kLinkIpv6:
    case kLinkSll2:
      return true;
    default:
      return false;
  }
}

std::optional<Link> find_ip(std::uint32_t link_type, std::span<const std::uint8_t> frame) {
  switch (link_type) {
    case kLinkEthernet:
      return ethernet(frame);
    case kLinkSll:
      return cooked(frame, 14, 16);
    case kLinkSll2:
      return cooked(frame, 0, 20);
    case kLinkRaw:
    case kLinkIpv4:
    case kLinkIpv6:
      return bare(frame, 0);
    case kLinkNull:
    case kLinkLoop:
      return bare(frame, 4);  // the number of the family differs between systems: the packet knows
    default:
      return std::nullopt;
  }
}

bool set_family(std::uint8_t* header, std::uint32_t link_type, const Link& link,
                std::uint8_t family) {
  if (link.family == family || link_type == kLinkRaw) return true;
  if (link.type_at == Link::kNoType) return false;
  wire::store_be(header + link.type_at, family == 4 ? kTypeIpv4 : kTypeIpv6);
  return true;
}

}  // namespace psp::pcap
