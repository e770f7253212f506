// SPDX-License-Identifier: Apache-2.0
#include "netns.hh"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "netns_test_support.hh"

namespace psp::datapath {
namespace {

ino_t here() {
  struct stat status {};
  ::stat("/proc/thread-self/ns/net", &status);
  return status.st_ino;
}

class NetnsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!outer_.entered()) GTEST_SKIP() << outer_.why();
    outer_ino_ = here();
    {
      const test::PrivateNetns inner;
      inner_ino_ = here();
      auto netns = Netns::current();
      ASSERT_TRUE(netns) << netns.error();
      inner_.emplace(std::move(*netns));
    }
    ASSERT_EQ(here(), outer_ino_);
  }
  test::PrivateNetns outer_;
  ino_t outer_ino_ = 0, inner_ino_ = 0;
  std::optional<Netns> inner_;
};

TEST_F(NetnsTest, IsEnteredAndLeft) {
  {
    const InNetns inside(*inner_);
    EXPECT_TRUE(inside.entered());
    EXPECT_EQ(here(), inner_ino_);
    {
      const InNetns again(*inner_);
      EXPECT_EQ(here(), inner_ino_);
    }
    EXPECT_EQ(here(), inner_ino_);
  }
  EXPECT_EQ(here(), outer_ino_);
}

TEST_F(NetnsTest, StaysWhereItIsIfItCannotBeEntered) {
  const UniqueFd no_namespace(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const InNetns inside(no_namespace.get());
  EXPECT_FALSE(inside.entered());
  EXPECT_EQ(here(), outer_ino_);
}

TEST_F(NetnsTest, IsFoundByItsCookieWhileSomebodyHoldsIt) {
  EXPECT_FALSE(find_netns(inner_->cookie())) << "a socket is not seen from outside";
  const UniqueFd held = inner_->descriptor();
  const auto found = find_netns(inner_->cookie());
  ASSERT_TRUE(found);
  EXPECT_EQ(found->cookie(), inner_->cookie());
  EXPECT_FALSE(find_netns(~0ull));
}

TEST_F(NetnsTest, IsFoundByTheNumberThatTheNamespaceHasForIt) {
  const UniqueFd held = inner_->descriptor();
  EXPECT_EQ(nsid_of(held.get()), -1);
  EXPECT_FALSE(find_netns_by_id(17));
  EXPECT_FALSE(find_netns_by_id(-1));
}

TEST_F(NetnsTest, ATableKnowsHomeAndWhatWasAdded) {
  auto table = NetnsTable::open();
  ASSERT_TRUE(table);
  const std::uint64_t inner = inner_->cookie();
  EXPECT_NE(table->home().cookie(), inner);
  EXPECT_FALSE(table->contains(inner));
  EXPECT_EQ(table->add(std::move(*inner_)).cookie(), inner);
  EXPECT_TRUE(table->contains(inner));
  int count = 0;
  table->for_each([&](const Netns&) { count++; });
  EXPECT_EQ(count, 2);
  table->remove(inner);
  EXPECT_FALSE(table->contains(inner));
}

}  // namespace
}  // namespace psp::datapath
