// SPDX-License-Identifier: Apache-2.0
//
// The names of refusals and endings, and all counters as one line of JSON: for the log, for the
// stats socket, for stdout. Workers go on counting while the sums are made, so the order of reading
// is chosen such that no difference can come out negative.
#include "counters.hh"

#include <nlohmann/json.hpp>

namespace psp::proxy {
namespace {

constexpr const char* kRefusalNames[kRefusals] = {
    "limit",          "half-open", "gone",   "unreachable", "timeout",
    "authentication", "peer-name", "no-psp", "peer-closed", "protocol"};
constexpr const char* kEndingNames[kEndings] = {"complete", "reset", "retired", "stale", "stopped"};

template <typename Pick>
std::uint64_t sum(const std::vector<const Counters*>& all, Pick&& pick) {
  std::uint64_t total = 0;
  for (const Counters* counters : all) total += pick(*counters).get();
  return total;
}

}  // namespace

const char* name(Refusal reason) { return kRefusalNames[static_cast<std::size_t>(reason)]; }
const char* name(Ending ending) { return kEndingNames[static_cast<std::size_t>(ending)]; }

Refusal to_refusal(keyx::ErrorCode code) {
  switch (code) {
    case keyx::ErrorCode::kAuthentication:
      return Refusal::kAuthentication;
    case keyx::ErrorCode::kNoPsp:
    case keyx::ErrorCode::kRxAssoc:
    case keyx::ErrorCode::kTxAssoc:
    case keyx::ErrorCode::kPeerRefused:
      return Refusal::kNoPsp;
    case keyx::ErrorCode::kPeerClosed:
      return Refusal::kPeerClosed;
    case keyx::ErrorCode::kTimeout:
      return Refusal::kTimeout;
    case keyx::ErrorCode::kIo:
    case keyx::ErrorCode::kProtocol:
    case keyx::ErrorCode::kClearData:
    case keyx::ErrorCode::kUsage:
      return Refusal::kProtocol;
  }
  return Refusal::kProtocol;
}

std::string to_json(const std::vector<const Counters*>& all) {
  // `over` first: read later, `accepted` could only be larger, and active never below zero.
  const std::uint64_t over = sum(
      all, [](auto& c) -> auto& { return c.over; });
  const std::uint64_t accepted = sum(
      all, [](auto& c) -> auto& { return c.accepted; });
  nlohmann::ordered_json refused, ended;
  for (std::size_t i = 0; i < kRefusals; ++i)
    refused[kRefusalNames[i]] = sum(
        all, [i](auto& c) -> auto& { return c.refused[i]; });
  for (std::size_t i = 0; i < kEndings; ++i)
    ended[kEndingNames[i]] = sum(
        all, [i](auto& c) -> auto& { return c.ended[i]; });
  return nlohmann::ordered_json{
      {"active", accepted - over},
      {"accepted", accepted},
      {"upgraded", sum(
                       all, [](auto& c) -> auto& { return c.upgraded; })},
      {"tls", sum(
                  all, [](auto& c) -> auto& { return c.tls; })},
      {"bytes-to-peer", sum(
                            all, [](auto& c) -> auto& { return c.octets_to_peer; })},
      {"bytes-from-peer", sum(
                              all, [](auto& c) -> auto& { return c.octets_from_peer; })},
      {"refused", refused},
      {"ended", ended}}
      .dump();
}

}  // namespace psp::proxy
