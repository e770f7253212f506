// SPDX-License-Identifier: Apache-2.0
//
// The helpers do what the kernel's do, and abort on what they do not know. The oracle is
// bpf-helpers(7) and the kernel's source, as read by us: the kernel itself is not asked.
//
// A helper that is kinder than the kernel's would hide faults of the programs from every run; so
// the ends of packets, null pointers and unknown flags are looked at here.
#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>

#include "wire/checksum.hh"

#include "programs.hh"

namespace psp::sim {
namespace {

class Nowhere final : public Surroundings {
 public:
  Sock* find_socket(const Tuple&) override { return nullptr; }
  std::uint64_t boot_ns() const override { return 7; }
  bool has_tcx() const override { return true; }
  bool is_local(const Address&) const override { return false; }
};

TEST(Helpers, LoadsEndWhereThePacketDoes) {
  std::uint8_t octets[4] = {1, 2, 3, 4}, to[4] = {9, 9, 9, 9};
  shim_skb skb{};
  skb.kernel.octets = octets;
  skb.kernel.size = sizeof octets;
  EXPECT_EQ(shim_skb_load_bytes(&skb, 1, to, 3), 0);
  EXPECT_EQ(to[2], 4);
  EXPECT_EQ(shim_skb_load_bytes(&skb, 1, to, 4), -EFAULT);
  EXPECT_EQ(to[0], 0);
  EXPECT_EQ(shim_skb_load_bytes(&skb, UINT32_MAX, to, 2), -EFAULT);
  EXPECT_EQ(shim_skb_store_bytes(&skb, 3, to, 2, 0), -EFAULT);
}

TEST(Helpers, APointerThatIsNullReadsAsZero) {
  std::uint64_t value = 5;
  EXPECT_EQ(shim_probe_read_kernel(&value, sizeof value, nullptr), -EFAULT);
  EXPECT_EQ(value, 0u);
}

TEST(Helpers, AChecksumIsCorrectedByADifference) {
  std::uint8_t octets[8] = {0, 0, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc};
  const auto sum = [&octets] {
    return wire::checksum_fold(wire::checksum_add(0, std::span<const std::uint8_t>(octets)));
  };
  const std::uint16_t check = static_cast<std::uint16_t>(~sum());
  octets[0] = static_cast<std::uint8_t>(check >> 8);
  octets[1] = static_cast<std::uint8_t>(check);
  std::uint32_t before, after = 0xdeadbeef;
  std::memcpy(&before, octets + 4, 4);
  std::memcpy(octets + 4, &after, 4);
  shim_skb skb{};
  skb.kernel.octets = octets;
  skb.kernel.size = sizeof octets;
  const std::int64_t difference = shim_csum_diff(&before, 4, &after, 4, 0);
  EXPECT_EQ(shim_l4_csum_replace(&skb, 0, 0, static_cast<std::uint64_t>(difference), 0), 0);
  EXPECT_EQ(sum(), 0xffff);
}

TEST(Helpers, ARedirectIsWhatTheCallIsLeftWith) {
  Nowhere kernel;
  Object object;
  Running call(kernel, object);
  EXPECT_EQ(shim_redirect(12, 1), 7);
  ASSERT_TRUE(call.redirect);
  EXPECT_EQ(call.redirect->ifindex, 12u);
  EXPECT_TRUE(call.redirect->ingress);
}

TEST(HelpersDeathTest, WhatIsNotKnownAborts) {
  Nowhere kernel;
  Object object;
  Running call(kernel, object);
  std::uint8_t octets[8] = {};
  shim_skb skb{};
  skb.kernel.octets = octets;
  skb.kernel.size = sizeof octets;
  EXPECT_DEATH((void)shim_redirect(12, 2), "");
  EXPECT_DEATH((void)shim_skb_store_bytes(&skb, 0, octets, 1, 1), "");
  EXPECT_DEATH((void)shim_has_field("sk->sk_new"), "");
  EXPECT_DEATH((void)shim_map_lookup_elem(&object, octets), "");
  EXPECT_DEATH((void)shim_skb_vlan_pop(&skb), "");
}

TEST(HelpersDeathTest, NothingIsAskedWhileNoProgramRuns) {
  EXPECT_DEATH((void)shim_ktime_get_boot_ns(), "");
}

}  // namespace
}  // namespace psp::sim
