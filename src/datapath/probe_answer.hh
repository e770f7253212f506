// SPDX-License-Identifier: Apache-2.0
//
// Answers to the probes of pspctl doctor (see docs/probe.md). A stranger may send them, so: an
// answer is never longer than its request, goes where the request came from, touches no key and
// keeps nothing of who asked; and there is a limit for each asker and for all of them.
//
// Threading: one ProbeAnswerer belongs to one worker thread.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "wire/probe.hh"

#include "frame.hh"
#include "siphash.hh"

namespace psp::datapath {

// ProbeRequest is a packet from the wire whose UDP payload claims to be a probe.
struct ProbeRequest {
  const std::uint8_t* ethernet = nullptr;
  const std::uint8_t* ip_octets = nullptr;
  wire::IpHeader ip;
  std::span<const std::uint8_t> datagram;
  VersionSet enabled;     // for receive here
  std::uint32_t mtu = 0;  // of the netdev
};

class ProbeAnswerer {
 public:
  using Clock = std::uint64_t (*)();  // milliseconds
  static std::uint64_t uptime_ms();
  explicit ProbeAnswerer(Clock now_ms = uptime_ms);

  // Answers a second, and in a row, of one asker (by address; IPv6: the /64) and of all.
  static constexpr std::uint32_t kAskerRate = 16, kAskerBurst = 64;
  static constexpr std::uint32_t kRate = 128, kBurst = 512;

  struct Answer {
    Drop reason;                          // what to count
    std::span<const std::uint8_t> frame;  // to the wire, valid until the next call; empty: none
  };
  Answer answer(const ProbeRequest& request);

 private:
  // Bucket is a limit: a count of answers that can be had at once.
  struct Bucket {
    bool take(std::uint64_t now_ms, std::uint32_t rate, std::uint32_t burst);
    std::uint64_t filled_ms = 0;
    std::uint32_t left = 0;
    bool used = false;
  };
  static constexpr std::size_t kBuckets = 64;  // askers that fall together share one

  bool may_answer(const ProbeRequest& request);
  std::span<const std::uint8_t> write(const ProbeRequest& request, const wire::Probe& probe,
                                      std::size_t size);

  Clock now_ms_;
  SipKey key_;  // nobody can choose whom he shares with
  std::array<Bucket, kBuckets> askers_{};
  Bucket all_;
  PacketBuffer output_;
};

}  // namespace psp::datapath
