// SPDX-License-Identifier: Apache-2.0
//
// The link's MTU, which changes now and then, the routers who tell of it, and the ICMP errors that
// the enemy makes.
//
// A router quotes what he likes: of IPv4 often the header and eight octets, by which nobody can
// tell what a PSP packet was of; some say nothing at all. In the calm they are honest, and in half
// of the runs the MTU stays as small as it was: what is sent must arrive all the same.
#include <algorithm>
#include <array>

#include "icmp.hh"
#include "link.hh"

namespace psp::sim {
namespace {

constexpr std::uint32_t kWhole = 1500, kLeast6 = 1280;
constexpr std::size_t kQuote4 = 576, kQuote6 = 1280;  // most of an ICMP message

}  // namespace

// change_path gives one direction another MTU, and a router of other habits.
void Link::change_path() {
  static constexpr std::array<std::uint32_t, 6> kSizes = {kWhole, kWhole, 1400, kLeast6, 900, 576};
  Path& path = paths_[random_.below(2)];
  path.mtu = kSizes[random_.below(kSizes.size())];
  path.silent = random_.chance(150'000);
  path.quotes_little = random_.chance(200'000);
}

void Link::calm() {
  calm_ = true;
  for (Path& path : paths_) {
    if (random_.chance(500'000)) path.mtu = kWhole;
    path.silent = path.quotes_little = false;
  }
}

// is_too_big: the packet does not fit, and a router says so.
bool Link::is_too_big(unsigned from, const Octets& packet) {
  const Path& path = paths_[from];
  const std::span ip(packet.data() + kEthernet, packet.size() - kEthernet);
  const bool four = ip[0] >> 4 == 4;
  const std::uint32_t mtu = four ? path.mtu : std::max(path.mtu, kLeast6);
  if (ip.size() <= mtu) return false;
  ++too_big;
  const bool tells = !four || (ip[6] & 0x40) != 0;
  if (path.silent || !tells) return true;
  const std::size_t header = four ? std::size_t{ip[0] & 15u} * 4 : 40;
  std::size_t quote = four ? kQuote4 - 28 : kQuote6 - 48;
  if (four && path.quotes_little)
    quote = header + 8;
  else if (random_.chance(500'000))
    quote = header + (four ? 28 : 40);
  Octets error = build_icmp(too_big_for(four ? 4 : 6, mtu), ip, quote);
  error[kBoxedAt] = packet[kFromBoxAt];
  deliver(from, std::move(error), false, 20 * kMicrosecond + random_.below(kMillisecond));
  return true;
}

// notice is what a forged error says: mostly that something is too big.
Notice Link::notice(unsigned family) {
  static constexpr std::array<std::uint32_t, 9> kSizes = {0,    68,   500,  552, 600,
                                                          1000, 1280, 1400, 9000};
  static constexpr std::array<std::uint8_t, 5> kTypes4 = {3, 4, 5, 11, 12};
  const std::uint32_t size = kSizes[random_.below(kSizes.size())];
  if (random_.chance(600'000)) return too_big_for(family, size);
  const auto code = static_cast<std::uint8_t>(random_.below(18));
  if (family == 4) return {kTypes4[random_.below(kTypes4.size())], code, size};
  return {static_cast<std::uint8_t>(random_.between(1, 4)), static_cast<std::uint8_t>(code % 9),
          size};
}

// forge_icmp makes an error about a packet that was seen, maybe changed, or that was never sent.
void Link::forge_icmp() {
  const Kept& kept = kept_[random_.below(kept_.size())];
  if (kept.packet.size() < kEthernet + 60) return;
  unsigned to = 1 - kept.to;
  bool boxed = kept.packet[kFromBoxAt] != 0;
  Octets about(kept.packet.begin() + kEthernet, kept.packet.end());
  if (random_.chance(300'000)) {
    const std::size_t first = about[0] >> 4 == 4 ? 20 : 40;
    about[first + random_.below(24)] ^= static_cast<std::uint8_t>(random_.between(1, 255));
  }
  const auto targets = calls_.targets();
  if (!targets.empty() && random_.chance(300'000)) {
    const Target& target = targets[random_.below(targets.size())];
    Segment segment{.tuple = target.tuple.turned(), .seq = target.ack_seq};
    segment.ack = true;
    if (random_.chance(500'000)) segment.seq -= static_cast<std::uint32_t>(random_.below(3000));
    const Octets made = cut(build(segment)).front();
    about.assign(made.begin() + kEthernet, made.end());
    to = target.host;
    boxed = target.boxed;
  }
  const unsigned family = about[0] >> 4;
  if (family != 4 && family != 6) return;
  ++forged;
  Octets error = build_icmp(notice(family), about, random_.between(28, 600));
  error[kBoxedAt] = boxed;
  deliver(to, std::move(error), true, random_.below(kMillisecond));
}

}  // namespace psp::sim
