// SPDX-License-Identifier: Apache-2.0
//
// Netdevs that come, go, get other names, or cannot have what they are to have. The netdevs are a
// set of names, the time is a number that moves an hour at each look, past every pause; a device is
// given by counting.
//
// That a real netdev gets a working device when it comes is tested with pspd
// (tests/netns/hotplug_test.cc).
#include "wanted_netdevs.hh"

#include <gtest/gtest.h>
#include <map>

namespace psp::host {
namespace {

using namespace std::chrono_literals;

class WantedNetdevsTest : public testing::Test {
 protected:
  // find looks for netdevs, and returns what there is to say.
  std::vector<std::string> find() {
    now_ += 1h;  // past every pause
    return wanted_.find(
        now_, [this](const std::string& name) { return there_.contains(name); },
        [this](const std::string& name) -> std::expected<std::uint16_t, std::string> {
          tries_++;
          if (!trouble_.empty()) return std::unexpected(trouble_);
          given_[name] = ++last_;
          return last_;
        });
  }

  std::chrono::steady_clock::time_point now_{};
  WantedNetdevs wanted_;
  std::set<std::string> there_;
  std::map<std::string, std::uint16_t> given_;
  std::uint16_t last_ = 0;
  std::string trouble_;
  int tries_ = 0;
};

TEST_F(WantedNetdevsTest, GetADeviceWhenTheyCome) {
  wanted_.add("eth0");
  EXPECT_TRUE(find().empty());
  EXPECT_EQ(tries_, 0);
  EXPECT_EQ(wanted_.without_device(), std::vector<std::string>{"eth0"});
  there_ = {"eth0", "eth1"};
  EXPECT_TRUE(find().empty());
  EXPECT_EQ(given_, (std::map<std::string, std::uint16_t>{{"eth0", 1}}));
  (void)find();
  EXPECT_EQ(tries_, 1) << "it has one";
  EXPECT_TRUE(wanted_.without_device().empty());
}

TEST_F(WantedNetdevsTest, GetAnotherDeviceWhenTheyComeBack) {
  there_ = {"eth0"};
  wanted_.add("eth0", 7);
  (void)find();
  EXPECT_EQ(tries_, 0);
  wanted_.device_gone(6);
  (void)find();
  EXPECT_EQ(tries_, 0);
  wanted_.device_gone(7);
  (void)find();
  EXPECT_EQ(given_["eth0"], 1);
}

TEST_F(WantedNetdevsTest, AreTriedAgainAndTroubleIsSaidOnce) {
  there_ = {"eth0"};
  wanted_.add("eth0");
  trouble_ = "eth0 already has a pspd";
  EXPECT_EQ(find().size(), 1u);
  EXPECT_TRUE(find().empty());
  EXPECT_EQ(tries_, 2);
  trouble_.clear();
  (void)find();
  EXPECT_EQ(given_["eth0"], 1);
}

TEST_F(WantedNetdevsTest, RestAfterATryThatFailed) {
  there_ = {"eth0"};
  wanted_.add("eth0");
  trouble_ = "no";
  (void)find();
  now_ -= 1h;
  (void)find();
  EXPECT_EQ(tries_, 1);
}

TEST_F(WantedNetdevsTest, ThatAreNotNamedAnyMoreLoseTheirDevices) {
  wanted_.add("eth0", 1);
  wanted_.add("eth1", 2);
  wanted_.add("eth2");
  EXPECT_EQ(wanted_.unwanted({"eth1"}), std::vector<std::uint16_t>{1});
  wanted_.forget({"eth1"});
  EXPECT_TRUE(wanted_.contains("eth0")) << "it has a device still";
  EXPECT_FALSE(wanted_.contains("eth2"));
  wanted_.device_gone(1);
  wanted_.forget({"eth1"});
  EXPECT_FALSE(wanted_.contains("eth0"));
}

TEST_F(WantedNetdevsTest, WithAnotherNameAreStillTheSame) {
  wanted_.add("eth0", 1);
  wanted_.add("eth1", 2);
  const auto name_of = [](std::uint16_t device) { return device == 1 ? "lan" : "wan"; };
  wanted_.rename({"lan", "eth1"}, name_of);
  EXPECT_TRUE(wanted_.contains("lan"));
  EXPECT_TRUE(wanted_.contains("eth1")) << "the list has the old name";
  EXPECT_TRUE(wanted_.unwanted({"lan", "eth1"}).empty());
}

}  // namespace
}  // namespace psp::host
