// SPDX-License-Identifier: Apache-2.0
//
// The transmit half of the state table: what leaves a real socket in clear and what sealed. Data,
// ACKs, FINs, RSTs, probes and retransmissions, each before and after tx-assoc.
//
// The far end is a puppet that can refuse to acknowledge, so the kernel sends again what was
// written before tx-assoc, and joins it with what came after. The boundary between both is the rule
// here: what was written before stays in clear, as with the kernel's own PSP, and no octet that was
// written after is ever in it. The oracle is the cable.
#include <algorithm>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "puppet.hh"

namespace psp::lab {
namespace {

class Transmit : public PuppetTest {
 protected:
  // none_in_clear: A has sent nothing in clear since `mark`, but for segments of before tx-assoc.
  void expect_none_in_clear(const Puppet& puppet, std::size_t mark, std::uint32_t boundary) {
    for (const Segment& segment : puppet.clear_by_a(mark)) {
      const auto end = segment.seq + static_cast<std::uint32_t>(segment.payload.size());
      EXPECT_FALSE(segment.payload.empty()) << "a control segment in clear";
      EXPECT_EQ(segment.flags & (kFin | kRst), 0);
      EXPECT_LE(static_cast<std::int32_t>(end - boundary), 0);
    }
  }
};

TEST_P(Transmit, IsClearWithoutTxKey) {
  for (const psp_state state : {PSP_STATE_NONE, PSP_STATE_RX}) {
    Puppet puppet(*lab_, GetParam(), state);
    const std::size_t mark = cable().mark();
    const Octets data = random_octets(40);
    send_all(puppet.fd(), data);
    EXPECT_TRUE(cable().find(mark, [&](const Seen& seen) {
      return of_flow(seen, puppet.flow()) && seen.segment->payload == data;
    }));
    // No packet of it is PSP: not the data, nor the ACK, nor the FIN.
    puppet.send_clear({.seq = puppet.seq(), .ack = puppet.ack(40), .payload = {'x'}});
    ::shutdown(puppet.fd(), SHUT_WR);
    EXPECT_TRUE(cable().find(mark, [&](const Seen& seen) {
      return of_flow(seen, puppet.flow()) && seen.segment->flags & kFin;
    }));
    EXPECT_FALSE(cable().find(
        mark, [](const Seen& seen) { return seen.psp; }, 0ms));
  }
}

TEST_P(Transmit, IsSealedFromTheFirstSegmentAfterTxAssoc) {
  for (const psp_state state : {PSP_STATE_TX, PSP_STATE_FULL}) {
    Puppet puppet(*lab_, GetParam(), state);
    const std::size_t mark = cable().mark();
    const Octets data = random_octets(4000);
    send_all(puppet.fd(), data);
    Octets sent;
    EXPECT_TRUE(puppet.sealed_by_a(mark, [&](const Segment& segment) {
      if (segment.seq == puppet.ack(static_cast<std::uint32_t>(sent.size())))
        sent.insert(sent.end(), segment.payload.begin(), segment.payload.end());
      return sent.size() >= data.size();
    }));
    EXPECT_EQ(sent, data);
    expect_none_in_clear(puppet, mark, puppet.ack());
    for (const Seen& seen : cable().since(mark)) EXPECT_FALSE(holds_part(seen.octets, data));
  }
}

TEST_P(Transmit, SealsAcksAndFinsAndRsts) {
  Puppet puppet(*lab_, GetParam(), PSP_STATE_TX);
  const std::size_t mark = cable().mark();
  puppet.send_sealed({.seq = puppet.seq(), .ack = puppet.ack(), .payload = random_octets(100)});
  EXPECT_TRUE(puppet.sealed_by_a(mark, [&](const Segment& segment) {
    return segment.payload.empty() && segment.ack == puppet.seq(100);
  }));
  ::shutdown(puppet.fd(), SHUT_WR);
  EXPECT_TRUE(
      puppet.sealed_by_a(mark, [](const Segment& segment) { return segment.flags & kFin; }));
  puppet.close();  // with octets unread: RST
  EXPECT_TRUE(
      puppet.sealed_by_a(mark, [](const Segment& segment) { return segment.flags & kRst; }));
  expect_none_in_clear(puppet, mark, puppet.ack());
}

TEST_P(Transmit, SealsKeepaliveAndZeroWindowProbes) {
  Puppet puppet(*lab_, GetParam(), PSP_STATE_FULL);
  const std::size_t mark = cable().mark();
  const int on = 1, second = 1;
  ::setsockopt(puppet.fd(), IPPROTO_TCP, TCP_KEEPIDLE, &second, sizeof second);
  ::setsockopt(puppet.fd(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  EXPECT_TRUE(puppet.sealed_by_a(mark, [&](const Segment& segment) {
    return segment.payload.empty() && segment.seq == puppet.ack() - 1;
  }));
  expect_none_in_clear(puppet, mark, puppet.ack());

  Puppet closed(*lab_, GetParam(), PSP_STATE_FULL);
  const std::size_t closed_mark = cable().mark();
  send_all(closed.fd(), {'x'});
  closed.send_sealed({.seq = closed.seq(), .ack = closed.ack(1), .window = 0});
  EXPECT_TRUE(eventually([&] { return send_window(closed.fd()) == 0; }));
  send_all(closed.fd(), random_octets(100));
  EXPECT_TRUE(closed.sealed_by_a(closed_mark, [&](const Segment& segment) {
    return segment.payload.empty() && segment.seq == closed.ack();
  }));
  expect_none_in_clear(closed, closed_mark, closed.ack());
}

// Retransmit: two pieces are written before tx-assoc and two after, and nobody acknowledges.
class Retransmit : public Transmit {
 protected:
  void retransmit(std::size_t piece);
};

void Retransmit::retransmit(std::size_t piece) {
  const auto size = static_cast<std::uint32_t>(2 * piece);
  Puppet puppet(*lab_, GetParam(), PSP_STATE_RX);
  const std::size_t mark = cable().mark();
  const Octets before = random_octets(size), after = random_octets(size);
  const auto write = [&](const Octets& octets) {
    const auto half = octets.begin() + static_cast<std::ptrdiff_t>(piece);
    send_all(puppet.fd(), {octets.begin(), half});
    send_all(puppet.fd(), {half, octets.end()});
  };
  write(before);
  ASSERT_TRUE(puppet.tx_assoc());
  write(after);
  const std::uint32_t boundary = puppet.ack(size);
  const auto times_in_clear = [&] {
    const auto clear = puppet.clear_by_a(mark);
    return std::ranges::count_if(clear, [&](const Segment& s) { return s.seq == puppet.ack(); });
  };
  EXPECT_TRUE(eventually([&] { return times_in_clear() >= 3; }));

  // Meanwhile what is no data is sealed.
  puppet.send_sealed({.seq = puppet.seq(), .ack = puppet.ack(), .payload = {'x'}});
  EXPECT_TRUE(puppet.sealed_by_a(mark, [&](const Segment& segment) {
    return segment.payload.empty() && segment.ack == puppet.seq(1);
  }));
  ::shutdown(puppet.fd(), SHUT_WR);
  expect_none_in_clear(puppet, mark, boundary);

  // B has the clear octets: from now on there is nothing to say in clear.
  const std::size_t acknowledged = cable().mark();
  puppet.send_sealed({.seq = puppet.seq(1), .ack = boundary});
  EXPECT_TRUE(puppet.sealed_by_a(acknowledged, [&](const Segment& segment) {
    return segment.seq == boundary && !segment.payload.empty();
  }));
  expect_none_in_clear(puppet, mark, boundary);
  for (const Seen& seen : cable().since(mark)) {
    EXPECT_FALSE(holds_part(seen.octets, after));
    if (const auto inside = open(seen, kVersion, puppet.tx())) {
      EXPECT_GE(static_cast<std::int32_t>(inside->seq - boundary), 0) << "clear octets were sealed";
    }
  }
}

TEST_P(Retransmit, KeepsWhatWasQueuedBeforeTxAssocInClearAndNothingElse) { retransmit(1200); }

// The kernel joins small segments when it sends them again, also across the boundary.
TEST_P(Retransmit, NeverMixesBothInASegmentThatTheKernelJoined) { retransmit(32); }

INSTANTIATE_TEST_SUITE_P(Families, Retransmit,
                         testing::Values(Kind::kIpv4, Kind::kIpv6, Kind::kIpv4Mapped), kind_param);
INSTANTIATE_TEST_SUITE_P(Families, Transmit,
                         testing::Values(Kind::kIpv4, Kind::kIpv6, Kind::kIpv4Mapped), kind_param);

}  // namespace
}  // namespace psp::lab
