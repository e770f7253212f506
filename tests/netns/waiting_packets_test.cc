// SPDX-License-Identifier: Apache-2.0
//
// Packets that wait for a neighbour's address: they have passed psp_sock_out, and psp_egress stands
// behind the queue in which they wait. Nobody can tell when the neighbour answers: a stop and a
// cleanup take the programs off, and what was written to a secured socket must not come out then.
//
// Threading: the test's thread.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "lab.hh"

namespace psp::lab {
namespace {

enum class End { kStop, kKillAndCleanup };

class WaitingPackets : public testing::TestWithParam<std::tuple<Kind, End>> {
 protected:
  void SetUp() override { PSP_NEEDS_LAB(); }
  static Kind kind() { return std::get<Kind>(GetParam()); }
  static End end() { return std::get<End>(GetParam()); }
  static std::string neighbour() { return Lab::address(From::kB, kind()); }
};

TEST_P(WaitingPackets, AreDroppedBeforeTheProgramsGo) {
  Lab lab;
  lab.start(From::kA);
  lab.start(From::kB);
  auto connection = lab.connect(kind());
  secure(lab, connection);
  const std::size_t mark = lab.cable().mark();
  // The neighbour is asked for again and does not answer.
  lab.cable().carry(false);
  lab.ns(From::kA).sh(fmt::format("ip neigh del {} dev eth0", neighbour()));
  const Octets content = random_octets(1000);
  send_all(connection.a.get(), content);
  ASSERT_TRUE(eventually([&] {
    return lab.ns(From::kA).sh("ip neigh show dev eth0").find("INCOMPLETE") != std::string::npos;
  }));

  if (end() == End::kStop) {
    EXPECT_EQ(lab.stop(From::kA), 0);
  } else {
    lab.kill(From::kA);
    lab.clean_up(From::kA);
  }
  // Now it answers.
  lab.cable().carry(true);
  lab.ns(From::kA).sh(fmt::format(
      "ip neigh replace {} lladdr 02:00:00:00:00:02 dev eth0 nud permanent", neighbour()));
  auto later = lab.connect(kind());
  send_all(later.a.get(), octets_of("in clear"));
  EXPECT_EQ(receive(later.b.get(), 8), octets_of("in clear"));
  expect_nothing_in_clear(lab, connection.flow, mark, content);
}

INSTANTIATE_TEST_SUITE_P(Ends, WaitingPackets,
                         testing::Combine(testing::Values(Kind::kIpv4, Kind::kIpv6),
                                          testing::Values(End::kStop, End::kKillAndCleanup)),
                         [](const auto& one) {
                           return kind_name(std::get<0>(one.param)) +
                                  (std::get<1>(one.param) == End::kStop ? "Stop" : "Cleanup");
                         });

}  // namespace
}  // namespace psp::lab
