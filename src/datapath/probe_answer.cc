// SPDX-License-Identifier: Apache-2.0
#include "probe_answer.hh"

#include <algorithm>
#include <time.h>

#include <psp/crypto/aead.hh>
#include <psp/wire/checksum.hh>

namespace psp::datapath {
namespace {

constexpr std::uint8_t kHopLimit = 64;

std::span<const std::uint8_t> source_of(const ProbeQuestion& question) {
  return question.ip.family == 4 ? std::span(question.ip_octets + 12, 4)
                                 : std::span(question.ip_octets + 8, 16);
}

std::span<const std::uint8_t> destination_of(const ProbeQuestion& question) {
  return question.ip.family == 4 ? std::span(question.ip_octets + 16, 4)
                                 : std::span(question.ip_octets + 24, 16);
}

wire::ProbeAddress widened(std::span<const std::uint8_t> address) {
  wire::ProbeAddress wide{};
  if (address.size() == 4) wide[10] = wide[11] = 0xff;
  std::ranges::copy(address, wide.end() - static_cast<std::ptrdiff_t>(address.size()));
  return wide;
}

// is_host: an address that one host has, and another than this one.
bool is_host(std::span<const std::uint8_t> address) {
  if (address.size() == 4) return address[0] != 0 && address[0] != 127 && address[0] < 224;
  const bool zeros = std::all_of(address.begin(), address.end() - 1, [](auto o) { return o == 0; });
  return address[0] != 0xff && !zeros;
}

// is_plain: from one host to one host, without IP options.
bool is_plain(const ProbeQuestion& question) {
  const std::size_t header = question.ip.family == 4 ? kIpv4Header : kIpv6Header;
  constexpr std::uint8_t kGroup = 1;
  return question.ip.header_length == header && (question.ethernet[0] & kGroup) == 0 &&
         (question.ethernet[6] & kGroup) == 0 && is_host(source_of(question)) &&
         is_host(destination_of(question)) &&
         !std::ranges::equal(source_of(question), destination_of(question));
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

bool ProbeAnswerer::may_answer(const ProbeQuestion& question) {
  const auto asker = source_of(question).first(question.ip.family == 4 ? 4 : 8);
  const std::uint64_t now = now_ms_();
  return askers_[siphash(key_, asker) % kBuckets].take(now, kAskerRate, kAskerBurst) &&
         all_.take(now, kRate, kBurst);
}

ProbeAnswerer::Answer ProbeAnswerer::answer(const ProbeQuestion& question) {
  const auto probe = wire::parse_probe(question.datagram);
  if (!probe || !is_plain(question)) return {Drop::PROBE_REFUSED, {}};
  if (probe->answer) return {Drop::PROBE, {}};  // to a question of this host: never answered
  const std::size_t headers = question.ip.header_length + kUdpHeader;
  const std::size_t room = std::min<std::size_t>(question.mtu, kMaxIpLength);
  if (room < headers + wire::kProbeSize || !may_answer(question)) return {Drop::PROBE_REFUSED, {}};
  const std::size_t longest = std::min(question.datagram.size(), room - headers);
  return {Drop::PROBE, write(question, *probe,
                             std::clamp<std::size_t>(probe->wanted, wire::kProbeSize, longest))};
}

// write makes the frame: the question's addresses exchanged, its ports as they are, for all PSP
// goes to port 1000.
std::span<const std::uint8_t> ProbeAnswerer::write(const ProbeQuestion& question,
                                                   const wire::Probe& probe, std::size_t size) {
  std::uint8_t* frame = output_.data();
  const std::size_t header = question.ip.header_length;
  std::memset(frame, 0, kIpAt + header + kUdpHeader);
  std::memcpy(frame + kEthAt, question.ethernet + 6, 6);
  std::memcpy(frame + kEthertypeAt, question.ethernet + 12, 2);
  store_tag(frame, {PSP_FRAME_TO_WIRE_SEALED, 0, 0});

  std::uint8_t* ip = frame + kIpAt;
  std::uint8_t* udp = ip + header;
  const auto source = source_of(question), destination = destination_of(question);
  if (question.ip.family == 4) {
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
  wire::set_ip_payload({ip, header}, question.ip, length, wire::kProtocolUdp);
  std::memcpy(udp, question.ip_octets + header, 4);
  wire::store_be(udp + 4, static_cast<std::uint16_t>(length));
  wire::write_probe({udp + kUdpHeader, size},
                    {.answer = true,
                     .wanted = probe.wanted,
                     .nonce = probe.nonce,
                     .received = static_cast<std::uint16_t>(question.datagram.size()),
                     .source = widened(source),
                     .destination = widened(destination),
                     .enabled = question.enabled,
                     .mtu = question.mtu});
  std::uint64_t sum = wire::pseudo_header_sum({ip, header}, question.ip.family, wire::kProtocolUdp,
                                              static_cast<std::uint32_t>(length));
  sum = wire::checksum_add(sum, {udp, length});
  const auto checksum = static_cast<std::uint16_t>(~wire::checksum_fold(sum));
  wire::store_be(udp + kUdpChecksumAt, checksum != 0 ? checksum : std::uint16_t{0xffff});
  store_vnet(frame, {});
  return {frame, kIpAt + header + length};
}

}  // namespace psp::datapath
