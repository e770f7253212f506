// SPDX-License-Identifier: Apache-2.0
//
// ICMP errors as a host's TCP takes them, in the order of tcp_v4_err and tcp_v6_err, and the path
// MTU that it learns from them.
//
// An error counts for the connection that it quotes, and only if it quotes a number that is under
// way. Then "too big" lowers the MTU of the route, for all connections to that address, never under
// what the standards allow; all else is fatal only to what is not connected yet. A route forgets
// after ten minutes.
#include <algorithm>

#include "icmp.hh"
#include "kernel.hh"

namespace psp::sim {
namespace {

constexpr Time kExpires = 600 * kSecond;                // mtu_expires
constexpr std::uint32_t kLeast4 = 552, kLeast6 = 1280;  // min_pmtu, IPV6_MIN_MTU

}  // namespace

std::size_t Kernel::mtu(const Tuple& tuple) const {
  if (paths_.empty()) return options_.mtu;
  const auto found = paths_.find(tuple.remote);
  if (found == paths_.end() || found->second.expires < schedule_.now()) return options_.mtu;
  return found->second.mtu;
}

void Kernel::take_icmp(const Skb& skb) {
  const std::span ip(skb.octets.data() + kEthernet, skb.octets.size() - kEthernet);
  const auto error = parse_icmp(ip);
  if (!error) return;
  const auto found = by_tuple_.find(error->tuple);
  if (found == by_tuple_.end()) return;
  const auto sock = found->second;
  if (const auto request = std::dynamic_pointer_cast<Request>(sock)) {
    if (error->seq == request->iss && ends_request(*error)) by_tuple_.erase(found);
    return;
  }
  const auto socket = std::dynamic_pointer_cast<Tcp>(sock);
  if (!socket || psp_before(error->seq, socket->snd_una) || psp_before(socket->snd_nxt, error->seq))
    return;
  if (!error->is_too_big()) {
    if (const int number = error->error()) socket->unreachable(number);
    return;
  }
  const bool lowered = lower(error->tuple, error->mtu);
  if (lowered && watcher != nullptr) watcher->path_shrank(*this, skb, mtu(error->tuple));
  socket->path_shrank();
}

// ends_request: of IPv4 only what says that the way is blocked, of IPv6 what is called fatal.
bool Kernel::ends_request(const IcmpError& error) {
  if (error.is_too_big()) return false;
  if (error.tuple.family == 4)
    return error.type == 11 || error.type == 12 || (error.type == 3 && error.code < 2);
  if (error.type == 1) return error.code != 0 && error.code != 2 && error.code != 3;
  return error.type == 4;
}

// lower: the route to that address has a smaller MTU than was known.
bool Kernel::lower(const Tuple& tuple, std::uint32_t told) {
  const auto before = static_cast<std::uint32_t>(mtu(tuple));
  if (told >= before) return false;
  if (tuple.family == 6 && told < kLeast6) return false;
  const std::uint32_t least = tuple.family == 4 ? kLeast4 : kLeast6;
  const std::uint32_t now = std::max(told, least);
  if (now >= before) return false;
  paths_[tuple.remote] = {now, schedule_.now() + kExpires};
  return true;
}

}  // namespace psp::sim
