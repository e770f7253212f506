// SPDX-License-Identifier: Apache-2.0
//
// What the proxy counts: how connections were accepted, refused, secured and ended. Each refusal
// and each ending has one reason, the same word here, in the log and in the JSON, so that operators
// can set an alarm on it. The words are promised by psp-proxy(1).
//
// Threading: Counters belong to one worker, which alone writes them; anybody reads. So add() is a
// load and a store, without a locked operation.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "keyx/upgrade.hh"

namespace psp::proxy {

// Refusal is why an accepted connection did not get as far as to carry data.
enum class Refusal {
  kLimit,           // --max-connections
  kHalfOpen,        // --half-open, --half-open-source
  kGone,            // the program went away before there was a connection for it
  kUnreachable,     // --to cannot be connected to
  kTimeout,         // --timeout
  kAuthentication,  // certificate, pre-shared key, changed octets
  kPeerName,        // a client that --peer-name does not name
  kNoPsp,           // one of the hosts has no PSP for it
  kPeerClosed,      // the peer went away, or its --to cannot be connected to
  kProtocol,        // the peer speaks something else, or something broke
};
inline constexpr std::size_t kRefusals = 10;
const char* name(Refusal reason);
Refusal to_refusal(keyx::ErrorCode code);

// Ending is how a connection that carried data came to its end.
enum class Ending {
  kComplete,  // both sides ended their directions
  kReset,     // one side reset it, or the network did; the other was reset too
  kRetired,   // idle after a rotation: ended in order
  kStale,     // its device key is gone: reset
  kStopped,   // the proxy stopped: reset
};
inline constexpr std::size_t kEndings = 5;
const char* name(Ending ending);

class Counter {
 public:
  void add(std::uint64_t n = 1) { value_.store(get() + n, std::memory_order_relaxed); }
  std::uint64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

struct Counters {
  Counter accepted, upgraded, tls, over;
  Counter octets_to_peer, octets_from_peer;
  std::array<Counter, kRefusals> refused;
  std::array<Counter, kEndings> ended;
};

// to_json sums up and is one line.
std::string to_json(const std::vector<const Counters*>& all);

}  // namespace psp::proxy
