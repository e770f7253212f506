// SPDX-License-Identifier: Apache-2.0
//
// Where pspd can be called, over the models of the core: by connect(2), which needs nobody to
// accept. That another pspd is at the same address is an error that says so.
//
// A namespace of the test's own needs root; the rest does not. It is made on a thread, which ends
// with it, so that the other tests stay where they were. What is said on such a connection is
// tested in src/control.
#include "listeners.hh"

#include <gtest/gtest.h>
#include <sched.h>
#include <thread>
#include <unistd.h>

#include "base/manual_loop.hh"
#include "base/unix_address.hh"
#include "device/core_fakes.hh"

#include "log_lines.hh"

namespace psp::host {
namespace {

bool can_connect(const std::string& name) {
  const auto address = UnixAddress::parse(name);
  const UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  return ::connect(fd.get(), address->get(), address->length()) == 0;
}

class ListenersTest : public testing::Test {
 protected:
  std::string name_ = "@softpsp-listeners-" + std::to_string(::getpid());
  device::ModelSockets sockets_;
  device::Core core_{sockets_};
  netlink::Server server_{core_, nullptr};
  ManualLoop loop_;
  control::Clients clients_{loop_, server_};
  test::LogLines log_;
};

TEST_F(ListenersTest, AreCalledAtHome) {
  EXPECT_FALSE(can_connect(name_));
  {
    Listeners listeners(clients_, name_, log_.log());
    ASSERT_TRUE(listeners.listen_at_home());
    EXPECT_TRUE(can_connect(name_));
  }
  EXPECT_FALSE(can_connect(name_));
}

TEST_F(ListenersTest, SayThatAnotherOneIsThere) {
  Listeners one(clients_, name_, log_.log()), other(clients_, name_, log_.log());
  ASSERT_TRUE(one.listen_at_home());
  const auto second = other.listen_at_home();
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().find("another pspd listens at"), std::string::npos);
}

TEST_F(ListenersTest, AreCalledInOtherNamespacesByAbstractNames) {
  std::thread([&] {  // in a namespace of its own
    if (::unshare(CLONE_NEWNET) != 0) return;
    auto there = kernel::Netns::current();
    ASSERT_TRUE(there);
    Listeners listeners(clients_, name_, log_.log());
    listeners.listen_in(*there);
    EXPECT_TRUE(can_connect(name_));
    EXPECT_EQ(listeners.references(there->cookie()), 1u);
    listeners.listen_in(*there);
    EXPECT_EQ(listeners.references(there->cookie()), 1u) << "once is enough";
    listeners.leave(there->cookie());
    EXPECT_FALSE(can_connect(name_));
    EXPECT_EQ(listeners.references(there->cookie()), 0u);
    Listeners by_path(clients_, testing::TempDir() + "listeners", log_.log());
    by_path.listen_in(*there);
    EXPECT_EQ(by_path.references(there->cookie()), 0u) << "a path is the same everywhere";
    EXPECT_TRUE(log_.lines().empty());
  })
      .join();
}

}  // namespace
}  // namespace psp::host
