// SPDX-License-Identifier: Apache-2.0
//
// Associations end with their sockets: pspd holds no descriptor of an application, delays no FIN,
// and what has no full socket any more still speaks PSP.
//
// The oracle for the latter is the cable, cut and spoken to by the test: a FIN that is repeated
// must be answered by TIME_WAIT with a sealed ACK, a clear one by nobody. The same ports must then
// work for other connections, in clear too: what is kept of the old one must not seal them.
// Descriptors of pspd are counted over 500 connections.
#include <algorithm>
#include <gtest/gtest.h>
#include <random>

#include "puppet.hh"

namespace psp::lab {
namespace {

class SocketEnd : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace();
    lab_->start(From::kA);
    lab_->start(From::kB);
  }
  bool no_associations() {
    return eventually([&] {
      return lab_->client(From::kA).associations().value().empty() &&
             lab_->client(From::kB).associations().value().empty();
    });
  }
  std::optional<Lab> lab_;
};

TEST_P(SocketEnd, FiveHundredConnectionsLeaveNothing) {
  constexpr std::size_t kConnections = 500;
  const std::size_t a_before = descriptors_of(lab_->pspd(From::kA).pid());
  const std::size_t b_before = descriptors_of(lab_->pspd(From::kB).pid());
  std::vector<Connection> connections;
  for (std::size_t i = 0; i < kConnections; i++) {
    connections.push_back(lab_->connect(GetParam()));
    if (i % 10 == 0)  // some never get further than this
      ASSERT_TRUE(lab_->client(From::kA).rx_assoc(connections.back().a.get(), kVersion));
    else
      secure(*lab_, connections.back());
  }
  EXPECT_EQ(lab_->client(From::kA).associations().value().size(), kConnections);
  EXPECT_TRUE(eventually([&] {  // control connections of the test are closing
    return descriptors_of(lab_->pspd(From::kA).pid()) == a_before &&
           descriptors_of(lab_->pspd(From::kB).pid()) == b_before;
  }));
  std::shuffle(connections.begin(), connections.end(), std::mt19937(500));
  for (std::size_t i = 0; i < kConnections; i++) {
    UniqueFd& first = i % 2 ? connections[i].a : connections[i].b;
    UniqueFd& second = i % 2 ? connections[i].b : connections[i].a;
    first.reset();
    EXPECT_TRUE(at_end(second.get())) << "no FIN";
    second.reset();
  }
  EXPECT_TRUE(no_associations());
}

TEST_P(SocketEnd, TimeWaitAnswersARepeatedFinWithASealedAck) {
  auto connection = lab_->connect(GetParam());
  const Secured keys = secure(*lab_, connection);
  const std::size_t mark = lab_->cable().mark();
  connection.a.reset();
  EXPECT_TRUE(at_end(connection.b.get()));
  connection.b.reset();
  const auto fin = lab_->cable().find(mark, [&](const Seen& seen) {
    const auto inside = open(seen, kVersion, keys.a_rx);
    return seen.from == From::kB && inside && inside->flags & kFin;
  });
  ASSERT_TRUE(fin);
  const std::uint32_t after_fin = open(*fin, kVersion, keys.a_rx)->seq + 1;
  const auto is_ack = [&](const Seen& seen) {
    const auto inside = open(seen, kVersion, keys.b_rx);
    return seen.from == From::kA && inside && inside->payload.empty() && inside->ack == after_fin;
  };
  ASSERT_TRUE(lab_->cable().find(mark, is_ack));  // the first: A is in TIME_WAIT
  lab_->cable().carry(false);
  const std::size_t again = lab_->cable().mark();
  lab_->cable().send(From::kB, fin->octets);
  EXPECT_TRUE(lab_->cable().find(again, is_ack));
  // A clear one is nobody's.
  const auto inside = *open(*fin, kVersion, keys.a_rx);
  lab_->cable().send(From::kB, clear_packet(connection.flow, From::kB, inside));
  lab_->cable().send(From::kB, fin->octets);
  for (const Seen& seen : lab_->cable().since(mark)) EXPECT_FALSE(of_flow(seen, connection.flow));
}

TEST_P(SocketEnd, TheSamePortsWorkInClearAndSealedAgainAfterwards) {
  const Lab::Endpoints ports = {.a_port = 40001, .b_port = 40002};
  for (const bool sealed : {true, false, true, false}) {
    auto connection = lab_->connect(GetParam(), ports);
    if (sealed) secure(*lab_, connection);
    const std::size_t mark = lab_->cable().mark();
    const Octets data = random_octets(2000);
    send_all(connection.a.get(), data);
    EXPECT_EQ(receive(connection.b.get(), 2000), data);
    send_all(connection.b.get(), data);
    EXPECT_EQ(receive(connection.a.get(), 2000), data);
    // B closes first and keeps the TIME_WAIT, which the next SYN may take over.
    connection.b.reset();
    EXPECT_TRUE(at_end(connection.a.get()));
    connection.a.reset();
    EXPECT_TRUE(lab_->cable().find(mark, [&](const Seen& seen) {  // A's FIN
      if (seen.from != From::kA) return false;
      return sealed ? seen.psp : of_flow(seen, connection.flow) && (seen.segment->flags & kFin);
    }));
    for (const Seen& seen : lab_->cable().since(mark)) {
      if (sealed)
        EXPECT_FALSE(of_flow(seen, connection.flow));
      else
        EXPECT_FALSE(seen.psp) << "a connection without keys was sealed";
    }
    EXPECT_TRUE(no_associations());
  }
}

INSTANTIATE_TEST_SUITE_P(Families, SocketEnd, testing::Values(Kind::kIpv4, Kind::kIpv6),
                         kind_param);

}  // namespace
}  // namespace psp::lab
