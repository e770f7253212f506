// SPDX-License-Identifier: Apache-2.0
//
// The octets of a probe, by offsets. What is not in it is zero, and what is behind it is not looked
// at, so that a later form can say more; another number of the form is no probe to us. A stranger
// may have written what is parsed: all of it lies within kProbeSize, which is checked first, and
// whether to answer is for datapath/probe_answer.cc.
#include "wire/probe.hh"

#include <algorithm>
#include <string_view>

#include "wire/bytes.hh"
#include "wire/header.hh"

namespace psp::wire {
namespace {

constexpr std::string_view kMark = "pspprobe";
constexpr std::uint8_t kForm = 1;
constexpr std::uint8_t kNoNextHeader = 59;

// Offsets in the UDP payload. The last 16 octets of it are where an ICV would be.
constexpr std::size_t kMarkAt = kPspBaseHeader, kFormAt = 24, kKindAt = 25, kWantedAt = 26,
                      kNonceAt = 28, kReceivedAt = 44, kEnabledAt = 48, kMtuAt = 52, kSourceAt = 56,
                      kDestinationAt = 72, kEnd = 88;
static_assert(kEnd + kIcv <= kProbeSize);

enum Kind : std::uint8_t { kRequest = 1, kAnswer = 2 };

}  // namespace

std::optional<Probe> parse_probe(std::span<const std::uint8_t> datagram) {
  if (datagram.size() < kProbeSize || !is_probe(datagram) || datagram[1] != 1) return std::nullopt;
  const std::uint8_t* p = datagram.data();
  if (!std::equal(kMark.begin(), kMark.end(), p + kMarkAt) || p[kFormAt] != kForm ||
      (p[kKindAt] != kRequest && p[kKindAt] != kAnswer))
    return std::nullopt;
  Probe probe;
  probe.answer = p[kKindAt] == kAnswer;
  probe.wanted = load_be<std::uint16_t>(p + kWantedAt);
  std::copy_n(p + kNonceAt, probe.nonce.size(), probe.nonce.begin());
  probe.received = load_be<std::uint16_t>(p + kReceivedAt);
  probe.enabled = {load_be<std::uint32_t>(p + kEnabledAt)};
  probe.mtu = load_be<std::uint32_t>(p + kMtuAt);
  std::copy_n(p + kSourceAt, probe.source.size(), probe.source.begin());
  std::copy_n(p + kDestinationAt, probe.destination.size(), probe.destination.begin());
  return probe;
}

void write_probe(std::span<std::uint8_t> out, const Probe& probe) {
  std::ranges::fill(out, std::uint8_t{0});
  PspHeader header;
  header.next_header = kNoNextHeader;
  header.version_number = kProbeVersion;
  write_header(out, header);
  std::uint8_t* p = out.data();
  std::ranges::copy(kMark, p + kMarkAt);
  p[kFormAt] = kForm;
  p[kKindAt] = probe.answer ? kAnswer : kRequest;
  store_be(p + kWantedAt, probe.wanted);
  std::ranges::copy(probe.nonce, p + kNonceAt);
  if (!probe.answer) return;
  store_be(p + kReceivedAt, probe.received);
  store_be(p + kEnabledAt, probe.enabled.bits);
  store_be(p + kMtuAt, probe.mtu);
  std::ranges::copy(probe.source, p + kSourceAt);
  std::ranges::copy(probe.destination, p + kDestinationAt);
}

}  // namespace psp::wire
