// SPDX-License-Identifier: Apache-2.0
//
// A whole Host, in this process and in a network namespace of its own: real netdevs, BPF programs,
// TAPs and clients, and a loop that the test turns. So the time between two rotations takes none,
// and what a host does each second is done when the test says so.
//
// Needs root. That nothing of a secured connection leaves in clear meanwhile is shown with pspd as
// a process of its own and with traffic (tests/netns).
#include "host.hh"

#include <array>
#include <cstdio>
#include <fcntl.h>
#include <fmt/format.h>
#include <future>
#include <gtest/gtest.h>
#include <net/if.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/manual_loop.hh"
#include "kernel/netns_test_support.hh"
#include "netlink/client.hh"

#include "log_lines.hh"

namespace psp::host {
namespace {

using namespace std::chrono_literals;

// sh is what a command prints.
std::string sh(const std::string& command) {
  std::string text;
  FILE* const out = ::popen((command + " 2>&1").c_str(), "r");
  std::array<char, 4096> part;
  while (std::size_t n = std::fread(part.data(), 1, part.size(), out)) text.append(part.data(), n);
  EXPECT_EQ(::pclose(out), 0) << command << ": " << text;
  return text;
}

// state is what a pspd changes of the namespace's netdevs.
std::string state() {
  return sh("ip -o link | cut -d: -f2") +
         sh("tc qdisc show dev eth0; for side in ingress egress; do tc filter show dev eth0 $side; "
            "done; ethtool -k eth0 | grep rx-udp-gro");
}

class HostTest : public kernel::test::TapTest {
 protected:
  void SetUp() override {
    TapTest::SetUp();
    if (IsSkipped()) return;
    sh("ip link add eth0 type veth peer name eth1 && ip link set eth0 up && ip link set eth1 up");
    before_ = state();
    settings_.devices = {"eth0"};
    settings_.socket = fmt::format("@softpsp-host-{}", ::getpid());
    settings_.enable = VersionSet::all();
    settings_.max_connections = 64;
  }

  std::expected<std::unique_ptr<Host>, std::string> begin() {
    return Host::start(loop_, log_.log(), settings_, "test");
  }
  // start also asks that it works.
  void start() {
    auto host = begin();
    ASSERT_TRUE(host) << host.error();
    host_ = std::move(*host);
  }
  // ask is what a client hears of `request`, while the loop turns.
  template <typename Request>
  auto ask(const Request& request) {
    auto answer = std::async(std::launch::async, [&] {
      auto client = Client::connect_daemon(settings_.socket);
      EXPECT_TRUE(client) << client.error().message;
      return request(*client);
    });
    while (answer.wait_for(1ms) != std::future_status::ready) loop_.settle();
    return answer.get();
  }
  std::vector<DeviceInfo> devices() {
    return ask([](Client& client) { return client.devices().value(); });
  }
  std::uint64_t rotations() {
    return ask([](Client& client) { return client.stats().value().at(0).key_rotations; });
  }
  void expect_clean_stop() {
    EXPECT_EQ(host_->stop(), 0);
    host_.reset();
    EXPECT_EQ(state(), before_);
  }

  std::string before_;
  Settings settings_;
  test::LogLines log_;
  ManualLoop loop_;
  std::unique_ptr<Host> host_;
};

TEST_F(HostTest, HasADeviceAndLeavesNothing) {
  start();
  const auto all = devices();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].versions_ena, VersionSet::all());
  EXPECT_NE(state(), before_);
  expect_clean_stop();
}

TEST_F(HostTest, RotatesWhenItIsTime) {
  settings_.rotate_interval = 1min;
  start();
  loop_.advance(59s);
  EXPECT_EQ(rotations(), 0u);
  loop_.advance(1s);
  EXPECT_EQ(rotations(), 1u);
  loop_.advance(5min);
  EXPECT_EQ(rotations(), 6u);
  expect_clean_stop();
}

TEST_F(HostTest, RotatesByTheIntervalThatItIsGivenLater) {
  start();
  loop_.advance(5min);
  EXPECT_EQ(rotations(), 0u);
  settings_.rotate_interval = 2min;
  host_->apply(settings_);
  loop_.advance(4min);
  EXPECT_EQ(rotations(), 2u);
  expect_clean_stop();
}

TEST_F(HostTest, SaysWhatOnlyARestartChanges) {
  start();
  Settings next = settings_;
  next.workers = 2;
  next.socket = "@elsewhere";
  host_->apply(next);
  EXPECT_TRUE(log_.has("only a restart changes this, so it stays as it is: socket, workers"));
  EXPECT_EQ(devices().size(), 1u);
  expect_clean_stop();
}

TEST_F(HostTest, WaitsForANetdevThatIsStillToCome) {
  settings_.devices = {"eth0", "late"};
  start();
  EXPECT_TRUE(log_.has("late: there is no such netdev yet"));
  EXPECT_EQ(devices().size(), 1u);
  sh("ip link add late type veth peer name other");
  loop_.advance(2s);
  EXPECT_EQ(devices().size(), 2u);
  sh("ip link del late");
  loop_.advance(2s);
  EXPECT_EQ(devices().size(), 1u);
  expect_clean_stop();
}

TEST_F(HostTest, RequiresANetdevIfItIsTold) {
  settings_.devices = {"late"};
  settings_.require = true;
  const auto host = begin();
  ASSERT_FALSE(host);
  EXPECT_NE(host.error().find("late"), std::string::npos);
  EXPECT_EQ(state(), before_);
}

TEST_F(HostTest, TakesADeviceAwayThatItsSettingsNameNoLonger) {
  sh("ip link add second type veth peer name other");
  before_ = state();
  settings_.devices = {"eth0", "second"};
  start();
  EXPECT_EQ(devices().size(), 2u);
  settings_.devices = {"second"};
  host_->apply(settings_);
  EXPECT_EQ(devices().size(), 1u);
  expect_clean_stop();
}

TEST_F(HostTest, PutsBackWhatOthersTakeOff) {
  start();
  const std::string working = state();
  sh("tc filter del dev eth0 egress; tc filter del dev eth0 ingress; ip link set psp0 down");
  loop_.advance(2s);
  EXPECT_EQ(state(), working);
  EXPECT_NE(sh("ip -o link show psp0").find("UP"), std::string::npos);
  expect_clean_stop();
}

// More than one turn looks at.
TEST_F(HostTest, LooksAtAllThatAreAssociatedByAndBy) {
  constexpr int kNetdevs = 10;
  start();
  const auto associated = [this] { return devices().at(0).associated.size(); };
  for (int i = 0; i < kNetdevs; i++) {
    sh(fmt::format("ip link add more{0} type veth peer name peer{0}", i));
    const std::uint32_t ifindex = ::if_nametoindex(fmt::format("more{}", i).c_str());
    EXPECT_TRUE(ask([&](Client& client) { return client.dev_assoc(1, ifindex).has_value(); }));
  }
  EXPECT_EQ(associated(), kNetdevs);
  for (const char* name : {"more0", "more9"}) sh(fmt::format("tc qdisc del dev {} clsact", name));
  loop_.advance(2s);
  for (const char* name : {"more0", "more9"})
    EXPECT_NE(sh(fmt::format("tc filter show dev {} egress", name)).find("psp_egress"),
              std::string::npos)
        << name;
  for (int i = 0; i < kNetdevs; i++) sh(fmt::format("ip link del more{}", i));
  loop_.advance(2s);
  EXPECT_EQ(associated(), 0u);
  expect_clean_stop();
}

TEST_F(HostTest, MakesADeviceAnewWhoseTapIsGone) {
  start();
  sh("ip link del psp0");
  loop_.advance(2s);
  EXPECT_EQ(devices().size(), 1u);
  EXPECT_NE(sh("ip -o link").find("psp0"), std::string::npos);
  expect_clean_stop();
}

// Without descriptors it can neither end the device nor make one, for a while.
TEST_F(HostTest, GoesOnWithOthersWhereADeviceCannotBeEndedAndTriesAgain) {
  sh("ip link add second type veth peer name other");
  before_ = state();
  settings_.devices = {"eth0", "second"};
  start();
  EXPECT_EQ(devices().size(), 2u);
  sh("ip link del psp0");
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const UniqueFd next(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const rlimit none{static_cast<rlim_t>(next.get()), limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  loop_.advance(5s);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_TRUE(log_.has("connections through eth0 are blocked"));
  EXPECT_FALSE(loop_.stopped()) << "the other device is as it was";
  loop_.advance(1min);
  EXPECT_EQ(devices().size(), 2u);
  EXPECT_NE(sh("ip -o link").find("psp0"), std::string::npos);
  expect_clean_stop();
}

TEST_F(HostTest, IsAloneOnItsNetdev) {
  start();
  Settings other = settings_;
  other.socket += "-other";
  const auto second = Host::start(loop_, log_.log(), other, "test");
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().find("eth0 already has a pspd: stop that one first"), std::string::npos)
      << second.error();
  EXPECT_EQ(devices().size(), 1u) << "the first one is as it was";
  expect_clean_stop();
}

TEST_F(HostTest, TakesOverWhatADeadOneHasLeft) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(begin() ? 0 : 1);  // as if it were killed
  int status = -1;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  ASSERT_EQ(status, 0);
  EXPECT_NE(state(), before_) << "its programs block what it secured";
  start();
  EXPECT_EQ(devices().size(), 1u);
  expect_clean_stop();
}

TEST_F(HostTest, EndsWhatADeadOneHasLeftWhenItIsAskedTo) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(begin() ? 0 : 1);
  int status = -1;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  ASSERT_EQ(status, 0);
  EXPECT_EQ(clean_up(std::array<std::string, 1>{"eth0"}, log_.log()), 0);
  EXPECT_EQ(state(), before_);
}

}  // namespace
}  // namespace psp::host
