// SPDX-License-Identifier: Apache-2.0
//
// An answer is the request with addresses turned and some fields filled in. Whom it goes to is
// judged before anything is counted for him: an address that a stranger writes must not use up the
// room of the one that has it.
//
// Threading: see probe_answer.hh.
#include "probe_answer.hh"

#include <algorithm>
#include <time.h>

#include "base/v4_mapped.hh"
#include "crypto/aead.hh"
#include "wire/checksum.hh"

namespace psp::datapath {
namespace {

constexpr std::uint8_t kHopLimit = 64;

std::span<const std::uint8_t> source_of(const ProbeRequest& request) {
  return request.ip.family == 4 ? std::span(request.ip_octets + 12, 4)
                                : std::span(request.ip_octets + 8, 16);
}

std::span<const std::uint8_t> destination_of(const ProbeRequest& request) {
  return request.ip.family == 4 ? std::span(request.ip_octets + 16, 4)
                                : std::span(request.ip_octets + 24, 16);
}

// is_host: an address that one host has, and another than this one.
bool is_host(std::span<const std::uint8_t> address) {
  if (address.size() == 4) return address[0] != 0 && address[0] != 127 && address[0] < 224;
  const bool zeros = std::all_of(address.begin(), address.end() - 1, [](auto o) { return o == 0; });
  return address[0] != 0xff && !zeros;
}

// is_plain: from one host to one host, without IP options.
bool is_plain(const ProbeRequest& request) {
  const std::size_t header = request.ip.family == 4 ? kIpv4Header : kIpv6Header;
  constexpr std::uint8_t kGroup = 1;
  return request.ip.header_length == header && (request.ethernet[0] & kGroup) == 0 &&
         (request.ethernet[6] & kGroup) == 0 && is_host(source_of(request)) &&
         is_host(destination_of(request)) &&
         !std::ranges::equal(source_of(request), destination_of(request));
}

}  // namespace

std::uint64_t ProbeAnswerer::uptime_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1000 +
         static_cast<std::uint64_t>(now.tv_nsec) / 1'000'000;
}

ProbeAnswerer::ProbeAnswerer(Clock now_ms)
    : now_ms_(now_ms), output_(kIpAt + kIpv6Header + kMaxIpLength) {
  std::array<std::uint8_t, sizeof(SipKey)> random;
  crypto::random_bytes(random);
  std::memcpy(key_.data(), random.data(), sizeof key_);
}

bool ProbeAnswerer::Bucket::take(std::uint64_t now_ms, std::uint32_t rate, std::uint32_t burst) {
  if (!used) {
    used = true;
    left = burst;
    filled_ms = now_ms;
  }
  const std::uint64_t more = std::min<std::uint64_t>((now_ms - filled_ms) * rate / 1000, burst);
  if (more != 0) {
    left = static_cast<std::uint32_t>(std::min<std::uint64_t>(left + more, burst));
    filled_ms = now_ms;
  }
  if (left == 0) return false;
  --left;
  return true;
}

bool ProbeAnswerer::may_answer(const ProbeRequest& request) {
  const auto asker = source_of(request).first(request.ip.family == 4 ? 4 : 8);
  const std::uint64_t now = now_ms_();
  return askers_[siphash(key_, asker) % kBuckets].take(now, kAskerRate, kAskerBurst) &&
         all_.take(now, kRate, kBurst);
}

ProbeAnswerer::Answer ProbeAnswerer::answer(const ProbeRequest& request) {
  const auto probe = wire::parse_probe(request.datagram);
  if (!probe || !is_plain(request)) return {Drop::PROBE_REFUSED, {}};
  if (probe->answer) return {Drop::PROBE, {}};  // to a request of this host: never answered
  const std::size_t headers = request.ip.header_length + kUdpHeader;
  const std::size_t room = std::min<std::size_t>(request.mtu, kMaxIpLength);
  if (room < headers + wire::kProbeSize || !may_answer(request)) return {Drop::PROBE_REFUSED, {}};
  const std::size_t longest = std::min(request.datagram.size(), room - headers);
  return {Drop::PROBE, write(request, *probe,
                             std::clamp<std::size_t>(probe->wanted, wire::kProbeSize, longest))};
}

// write makes the frame: the request's addresses exchanged, its ports as they are, for all PSP
// goes to port 1000.
std::span<const std::uint8_t> ProbeAnswerer::write(const ProbeRequest& request,
                                                   const wire::Probe& probe, std::size_t size) {
  std::uint8_t* frame = output_.data();
  const std::size_t header = request.ip.header_length;
  std::memset(frame, 0, kIpAt + header + kUdpHeader);
  std::memcpy(frame + kEthAt, request.ethernet + 6, 6);
  std::memcpy(frame + kEthertypeAt, request.ethernet + 12, 2);
  store_tag(frame, {PSP_FRAME_TO_WIRE_SEALED, 0, 0});

  std::uint8_t* ip = frame + kIpAt;
  std::uint8_t* udp = ip + header;
  const auto source = source_of(request), destination = destination_of(request);
  if (request.ip.family == 4) {
    ip[0] = 0x45;
    ip[6] = 0x40;  // DF
    ip[8] = kHopLimit;
    std::ranges::copy(destination, ip + 12);
    std::ranges::copy(source, ip + 16);
  } else {
    ip[0] = 0x60;
    ip[7] = kHopLimit;
    std::ranges::copy(destination, ip + 8);
    std::ranges::copy(source, ip + 24);
  }
  const std::size_t length = kUdpHeader + size;
  wire::set_ip_payload({ip, header}, request.ip, length, wire::kProtocolUdp);
  std::memcpy(udp, request.ip_octets + header, 4);
  wire::store_be(udp + 4, static_cast<std::uint16_t>(length));
  wire::write_probe({udp + kUdpHeader, size},
                    {.answer = true,
                     .wanted = probe.wanted,
                     .nonce = probe.nonce,
                     .received = static_cast<std::uint16_t>(request.datagram.size()),
                     .source = to_address16(source),
                     .destination = to_address16(destination),
                     .enabled = request.enabled,
                     .mtu = request.mtu});
  std::uint64_t sum = wire::pseudo_header_sum({ip, header}, request.ip.family, wire::kProtocolUdp,
                                              static_cast<std::uint32_t>(length));
  sum = wire::checksum_add(sum, {udp, length});
  const auto checksum = static_cast<std::uint16_t>(~wire::checksum_fold(sum));
  wire::store_be(udp + kUdpChecksumAt, checksum != 0 ? checksum : std::uint16_t{0xffff});
  store_vnet(frame, {});
  return {frame, kIpAt + header + length};
}

}  // namespace psp::datapath
