// SPDX-License-Identifier: Apache-2.0
//
// A connection whose far end is a puppet: B's kernel opens it, then the cable is cut and the test
// speaks for B, with segments and PSP packets of its making. Only A has a pspd.
//
// Threading: the test's thread.
#pragma once

#include <gtest/gtest.h>
#include <stdexcept>

#include "device/state_table.h"

#include "lab.hh"

namespace psp::lab {

inline constexpr Version kVersion = Version::kAesGcm128;

class Puppet {
 public:
  // The connection is in `state` and the cable cut.
  Puppet(Lab& lab, Kind kind, psp_state state) : lab_(lab) {
    lab_.cable().carry(true);
    connection_ = lab_.connect(kind);
    lab_.cable().carry(false);
    if (state >= PSP_STATE_RX) rx_assoc();
    if (state >= PSP_STATE_TX) must(tx_assoc());
    if (state == PSP_STATE_FULL) send_sealed({.seq = seq(), .ack = ack()});
    if (state != PSP_STATE_NONE && !eventually([&] { return this->state() == state; }))
      throw std::runtime_error("the state is not reached");
  }

  int fd() const { return connection_.a.get(); }
  const Flow& flow() const { return connection_.flow; }
  const KeyInfo& rx() const { return rx_; }
  const KeyInfo& tx() const { return tx_; }
  void close() { connection_.a.reset(); }

  void rx_assoc() {
    auto rx = lab_.client(From::kA).rx_assoc(fd(), kVersion);
    if (!rx) throw std::runtime_error(rx.error().message);
    rx_ = std::move(rx->rx);
  }
  ClientResult<void> tx_assoc() { return lab_.client(From::kA).tx_assoc(fd(), kVersion, tx_); }
  unsigned state() const {
    const auto info = lab_.association(From::kA, fd());
    return info ? info->state : unsigned{PSP_STATE_NONE};
  }

  // seq is where B's next octet stands, ack what B acknowledges, both counted from the SYNs.
  std::uint32_t seq(std::uint32_t offset = 0) const { return flow().b_isn + 1 + offset; }
  std::uint32_t ack(std::uint32_t offset = 0) const { return flow().a_isn + 1 + offset; }

  void send_packet(const Octets& packet) { lab_.cable().send(From::kB, packet); }
  void send_clear(const Segment& segment) { send_packet(clear_packet(flow(), From::kB, segment)); }
  void send_sealed(const Segment& segment) { send_sealed(segment, with(kVersion, rx_)); }
  void send_sealed(const Segment& segment, const SealAs& as) {
    send_packet(seal(clear_packet(flow(), From::kB, segment), as));
  }

  // sealed_by_a waits for a PSP packet of A under its Tx key for whose inside `wanted` holds.
  std::optional<Segment> sealed_by_a(std::size_t mark,
                                     const std::function<bool(const Segment&)>& wanted) const {
    std::optional<Segment> inside;
    lab_.cable().find(mark, [&](const Seen& seen) {
      inside = seen.from == From::kA ? open(seen, kVersion, tx_) : std::nullopt;
      return inside && wanted(*inside);
    });
    return inside;
  }
  // clear_by_a are A's clear segments of this connection.
  std::vector<Segment> clear_by_a(std::size_t mark) const {
    std::vector<Segment> all;
    for (const Seen& seen : lab_.cable().since(mark))
      if (seen.from == From::kA && of_flow(seen, flow())) all.push_back(*seen.segment);
    return all;
  }

 private:
  static void must(const ClientResult<void>& result) {
    if (!result) throw std::runtime_error(result.error().message);
  }

  Lab& lab_;
  Connection connection_;
  KeyInfo rx_, tx_ = random_key(kVersion);
};

// PuppetTest shares one lab with a pspd at A among the tests of a suite.
class PuppetTest : public testing::TestWithParam<Kind> {
 protected:
  static void SetUpTestSuite() {
    if (missing()) return;
    lab_ = std::make_unique<Lab>();
    lab_->start(From::kA);
  }
  static void TearDownTestSuite() { lab_.reset(); }
  void SetUp() override { PSP_NEEDS_LAB(); }
  Cable& cable() { return lab_->cable(); }

  static inline std::unique_ptr<Lab> lab_;
};

inline std::string kind_param(const testing::TestParamInfo<Kind>& info) {
  return kind_name(info.param);
}

}  // namespace psp::lab
