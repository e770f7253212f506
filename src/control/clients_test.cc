// SPDX-License-Identifier: Apache-2.0
//
// Clients over time: who does not read is tried ever more seldom and loses nothing, and what the
// kernel lacks for a moment is asked for again, not all the time. The test turns the loop, over
// real sockets: no thread, and no time but the test's.
#include "clients.hh"

#include <array>
#include <cerrno>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/manual_loop.hh"
#include "base/socket_options.hh"
#include "base/unix_address.hh"
#include "device/core_fakes.hh"

#include "control_socket.hh"

namespace psp::control {
namespace {

using namespace std::chrono_literals;

class ClientsTest : public testing::Test {
 protected:
  void SetUp() override {
    core_.set_notifier(&server_);
    const UniqueFd probe(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    netns_ = netns_cookie(probe.get());
    add_devices(1);
    auto control = ControlSocket::listen(clients_, address_);
    ASSERT_TRUE(control) << control.error();
    control_ = std::move(*control);
  }

  void add_devices(std::uint32_t count) {
    for (std::uint32_t i = 0; i < count; i++)
      ASSERT_TRUE(core_.add_device({netns_, ++ifindex_}, "eth", VersionSet::all(), driver_));
  }
  UniqueFd connect() const {
    const auto name = UnixAddress::parse(address_);
    UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(fd.get(), name->get(), name->length()), 0) << errno;
    return fd;
  }
  // ask sends dev-get as a dump; read takes what has come, in octets; -1: the connection has ended.
  static void ask(const UniqueFd& fd) {
    constexpr std::array<std::uint8_t, 20> kDump = {20, 0, 0, 0, 0x53, 0x50, 1, 3, 1, 0,
                                                    0,  0, 0, 0, 0,    0,    1, 1, 0, 0};
    ASSERT_EQ(::send(fd.get(), kDump.data(), kDump.size(), MSG_NOSIGNAL), 20);
  }
  static ssize_t read(const UniqueFd& fd) {
    std::array<char, 64 * 1024> part;
    ssize_t all = 0;
    for (;;) {
      const ssize_t n = ::recv(fd.get(), part.data(), part.size(), 0);
      if (n < 0) return all;
      if (n == 0) return all != 0 ? all : -1;
      all += n;
    }
  }
  static constexpr ssize_t kDevice = 52, kDone = 20;  // octets of an answer

  const std::string address_ = fmt::format("@softpsp-clients-{}", ::getpid());
  std::uint64_t netns_ = 0;
  std::uint32_t ifindex_ = 6;
  device::FakeDriver driver_;
  device::ModelSockets sockets_;
  device::Core core_{sockets_};
  netlink::Server server_{core_, nullptr};
  ManualLoop loop_;
  Clients clients_{loop_, server_};
  std::unique_ptr<ControlSocket> control_;
};

TEST_F(ClientsTest, AnAnswerTakesNoTimeAndLeavesNoTimer) {
  const UniqueFd client = connect();
  ask(client);
  loop_.settle();
  EXPECT_EQ(read(client), kDevice + kDone);
  EXPECT_EQ(loop_.timers(), 0u);
}

TEST_F(ClientsTest, WhoReadsSlowlyGetsAllOfIt) {
  add_devices(19'999);
  const UniqueFd client = connect();
  ask(client);
  ssize_t all = 0;
  int rounds = 0;
  for (; all < 20'000 * kDevice + kDone && rounds < 10'000; rounds++) {
    loop_.advance(5ms);
    all += read(client);
  }
  EXPECT_EQ(all, 20'000 * kDevice + kDone);
  EXPECT_GT(rounds, 10) << "it was never kept waiting";
  EXPECT_EQ(loop_.timers(), 0u);
}

TEST_F(ClientsTest, WhoDoesNotReadIsTriedEverMoreSeldomAndThenSoonAgain) {
  add_devices(19'999);
  const UniqueFd client = connect();
  ask(client);
  loop_.advance(10s);
  EXPECT_EQ(loop_.timers(), 1u);
  EXPECT_GT(read(client), 0);
  auto slept = 0ms;
  for (; read(client) == 0 && slept < 10s; slept += 5ms) loop_.advance(5ms);
  EXPECT_GT(slept, 10ms);
  EXPECT_LE(slept, 330ms);
  loop_.advance(10ms);
  EXPECT_GT(read(client), 0) << "it reads again, and is served as others";
}

TEST_F(ClientsTest, WhomTheKernelCannotWatchGoesAndOthersStay) {
  const UniqueFd client = connect();
  loop_.settle();
  loop_.refuse(ENOMEM);
  const UniqueFd late = connect();
  loop_.settle();
  ask(client);
  loop_.settle();
  EXPECT_EQ(read(client), kDevice + kDone);
  for (int i = 0; i < 1000 && read(late) == 0; i++) ::usleep(1000);  // closed by another thread
  EXPECT_EQ(read(late), -1);
}

TEST_F(ClientsTest, ADescriptorThatIsLackingIsWaitedFor) {
  const UniqueFd client = connect();
  ask(client);
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const UniqueFd next(::dup(client.get()));  // the lowest that is free is behind it
  const rlimit none{static_cast<rlim_t>(next.get()), limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  EXPECT_LT(loop_.settle(), 3u) << "it asks all the time";
  EXPECT_EQ(loop_.timers(), 1u);
  EXPECT_EQ(read(client), 0);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  loop_.advance(10ms);
  EXPECT_EQ(read(client), kDevice + kDone);
  EXPECT_EQ(loop_.timers(), 0u);
}

}  // namespace
}  // namespace psp::control
