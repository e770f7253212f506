// SPDX-License-Identifier: Apache-2.0
//
// Two namespaces of one host: what is one's own in each, and the way of a container's packets by
// the netdev that it lies on.
//
// Programs that only say where they ran stand in the place of pspd's. How TCP goes on from there is
// in tcp_test.cc, and what pspd does with containers in world_test.cc.
#include "kernel.hh"

#include <gtest/gtest.h>

namespace psp::sim {
namespace {

std::vector<std::uint32_t> ran_others;  // pkt_type, as each program saw it

int see(shim_skb* skb) {
  ran_others.push_back(skb->pkt_type);
  return -1;
}

KernelOptions options_of(unsigned place, std::uint8_t last) {
  KernelOptions options;
  options.place = place;
  options.netns = 100 + place;
  options.address4.octets = {10, 0, 0, last};
  options.boxed4 = Address{{10, 0, 0, 12}};
  options.boxed6 = Address{};
  return options;
}

class KernelTest : public testing::Test {
 protected:
  KernelTest() {
    home.above = &box;
    home.carrier = Kernel::kNetdev;
    box.below = &home;
    ran_others.clear();
  }
  static Segment segment_to(std::uint8_t last, std::uint8_t from) {
    Segment segment;
    segment.tuple.local.octets = {10, 0, 0, from};
    segment.tuple.remote.octets = {10, 0, 0, last};
    segment.tuple.local_port = 5000;
    segment.tuple.remote_port = 4242;
    segment.syn = true;
    return segment;
  }
  void watch(Netdev::Hook& hook) {
    hook.tcx.push_back({common->next_program(), std::make_shared<Object>(), "see", see});
  }
  void arrive(Segment segment, bool boxed) {
    Octets packet = cut(build(segment)).front();
    packet[kBoxedAt] = boxed;
    home.receive(std::move(packet), Kernel::kNetdev, false);
    schedule.step();
  }

  Schedule schedule{0};
  Random random{1};
  std::shared_ptr<Common> common = std::make_shared<Common>();
  std::vector<std::pair<Octets, unsigned>> sent;  // with the namespace
  Kernel::Wire wire = [this](Octets packet, const Skb& skb) {
    sent.emplace_back(std::move(packet), skb.place);
  };
  Kernel home{schedule, random.fork(), options_of(0, 1), common, wire};
  Kernel box{schedule, random.fork(), options_of(2, 11), common, wire};
};

TEST_F(KernelTest, PacketsOfAContainerGoByTheNetdevThatItLiesOn) {
  watch(box.netdev(Kernel::kNetdev).out);
  watch(home.netdev(Kernel::kNetdev).out);
  box.send_raw(segment_to(2, 11), Kernel::kNetdev, {});
  EXPECT_EQ(ran_others.size(), 2u);
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].second, 2u);
  home.netdev(Kernel::kNetdev).present = false;
  box.send_raw(segment_to(2, 11), Kernel::kNetdev, {});
  EXPECT_EQ(sent.size(), 1u);
}

TEST_F(KernelTest, PacketsForAContainerAreAnotherHostsToTheNetdevThatItLiesOn) {
  watch(home.netdev(Kernel::kNetdev).in);
  watch(box.netdev(Kernel::kNetdev).in);
  arrive(segment_to(11, 2), true);
  EXPECT_EQ(ran_others, (std::vector<std::uint32_t>{3, 0}));
  EXPECT_EQ(sent.size(), 1u) << "the RST of a port where nobody listens";
  arrive(segment_to(1, 2), false);
  EXPECT_EQ(ran_others, (std::vector<std::uint32_t>{3, 0, 0}));
}

TEST_F(KernelTest, TheSameAddressesAreTwoConnectionsInTwoNamespaces) {
  Tuple tuple = segment_to(2, 11).tuple;
  const auto here = home.open(), there = box.open();
  home.connect(*here, tuple);
  box.connect(*there, tuple);
  EXPECT_EQ(here->tuple, there->tuple);
  EXPECT_NE(here->id, there->id);
  EXPECT_EQ(home.listed(), std::vector{here});
  EXPECT_EQ(box.listed(), std::vector{there});
}

TEST_F(KernelTest, ANamespaceThatBeginsAnewHasNothingOfTheOneBefore) {
  watch(box.netdev(Kernel::kNetdev).in);
  const std::uint64_t before = box.options().netns;
  box.renew(before + 1);
  EXPECT_EQ(box.options().netns, before + 1);
  EXPECT_TRUE(box.netdev(Kernel::kNetdev).in.tcx.empty());
  EXPECT_EQ(box.open()->netns, before + 1);
  EXPECT_EQ(box.netdev(Kernel::kNetdev).numbers.netns, before + 1);
}

}  // namespace
}  // namespace psp::sim
