// SPDX-License-Identifier: Apache-2.0
//
// A pspd that goes and comes back, under one process number as in a container: both of them run in
// this process (ModelDaemon), each with the instance number that the test gives it.
//
// A provider must tell two cases apart: pspd has ended, and its device keys with it, or only the
// connection has. In the first all connections under its keys are dead; in the second some news is
// missed, nothing more. What the proxy then does with its connections is tested in tests/proxy.
#include "local_psp.hh"

#include <gtest/gtest.h>
#include <poll.h>

#include "control/model_daemon.hh"

namespace psp::proxy {
namespace {

class OneRun final : public netlink::Inspector {
 public:
  explicit OneRun(std::uint64_t instance) : instance_(instance) {}
  std::unique_ptr<netlink::Associations> associations(Visible) override {
    return std::make_unique<netlink::ListedAssociations>(std::vector<AssocInfo>());
  }
  DaemonInfo daemon_info() override {
    DaemonInfo info;
    info.pid = 1;
    info.instance = instance_;
    return info;
  }

 private:
  std::uint64_t instance_;
};

class LocalPspTest : public testing::Test {
 protected:
  void start(std::uint64_t instance) {
    daemon_.reset();
    run_ = std::make_unique<OneRun>(instance);
    daemon_ = std::make_unique<control::ModelDaemon>(address_, 1, run_.get());
    ASSERT_EQ(daemon_->error(), "");
  }
  // news is what the provider says when its connection has ended.
  static LocalPsp::News news(LocalPsp& provider) {
    pollfd p{provider.fd(), POLLIN, 0};
    EXPECT_EQ(poll(&p, 1, 10'000), 1);
    return provider.process();
  }

  std::string address_ = "@softpsp-provider-test-" + std::to_string(::getpid());
  std::unique_ptr<OneRun> run_;
  std::unique_ptr<control::ModelDaemon> daemon_;
};

TEST_F(LocalPspTest, AnotherRunOfPspdIsAnotherOneWhateverItsPid) {
  start(4711);
  LocalPsp provider(address_);
  ASSERT_NE(provider.ops(), nullptr);
  ASSERT_GE(provider.fd(), 0);
  EXPECT_EQ(provider.process(), LocalPsp::News::kNone);
  start(4712);
  EXPECT_EQ(news(provider), LocalPsp::News::kGone);
  ASSERT_NE(provider.ops(), nullptr);
  start(0);  // one that is too old to say
  EXPECT_EQ(news(provider), LocalPsp::News::kGone);
  ASSERT_NE(provider.ops(), nullptr);
  start(0);
  EXPECT_EQ(news(provider), LocalPsp::News::kGone);
  ASSERT_NE(provider.ops(), nullptr);
  daemon_.reset();
  EXPECT_EQ(news(provider), LocalPsp::News::kGone);
}

TEST_F(LocalPspTest, AConnectionThatEndsWhilePspdRunsOnIsLostNewsOnly) {
  start(4711);
  LocalPsp provider(address_);
  ASSERT_NE(provider.ops(), nullptr);
  start(4711);  // to a client the same: it is the number that counts
  EXPECT_EQ(news(provider), LocalPsp::News::kLost);
}

}  // namespace
}  // namespace psp::proxy
