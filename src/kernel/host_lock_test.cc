// SPDX-License-Identifier: Apache-2.0
//
// Locks between processes, which the tests fork: that two cannot have one, that it goes with its
// holder however that ends, and that who is not root of the host cannot imitate one. On the real
// kernel, with names that no pspd would take. Who tries and is refused is seen by the exit code of
// a child of another user or user namespace. Needs root; skipped else. Other network and mount
// namespaces are not entered: maps have none.
#include "host_lock.hh"

#include <array>
#include <atomic>
#include <bpf/bpf.h>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace psp::kernel {
namespace {

// A namespace that no kernel has counted up to.
constexpr device::NetdevKey kNetdev = {0xfffffff0, 7};
constexpr std::uint64_t kEpoch = 0x123456789abcdefull;

class HostLockTest : public testing::Test {
 protected:
  void SetUp() override {
    const UniqueFd map(bpf_map_create(BPF_MAP_TYPE_QUEUE, "psp_probe", 0, 1, 1, nullptr));
    if (!map) GTEST_SKIP() << "needs root: bpf(BPF_MAP_CREATE): " << std::strerror(errno);
  }
};

// in_a_child is the exit code of a child that does `action`.
int in_a_child(const std::function<int()>& action) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(action());
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(HostLockTest, OfANetdevIsForOneProcess) {
  auto first = lock_netdev(kNetdev, "eth0");
  ASSERT_TRUE(first) << first.error();
  EXPECT_EQ(in_a_child([] { return lock_netdev(kNetdev, "eth0") ? 1 : 0; }), 0);
  const auto second = lock_netdev(kNetdev, "eth0");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error(), "eth0 already has a pspd: stop that one first");
  EXPECT_TRUE(lock_netdev({kNetdev.netns, kNetdev.ifindex + 1}, "eth1"));
  EXPECT_TRUE(lock_netdev({kNetdev.netns + 1, kNetdev.ifindex}, "eth0"));
  first->reset();
  EXPECT_TRUE(lock_netdev(kNetdev, "eth0"));
}

TEST_F(HostLockTest, OfAnEpochGoesWithItsProcessHoweverThatEnds) {
  std::array<int, 2> ready{};
  ASSERT_EQ(::pipe2(ready.data(), O_CLOEXEC), 0);
  const UniqueFd from(ready[0]), to(ready[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto lock = lock_epoch(kEpoch);
    const char done = lock ? 'y' : 'n';
    (void)::write(to.get(), &done, 1);
    ::pause();
    ::_exit(0);
  }
  char done = 0;
  ASSERT_EQ(::read(from.get(), &done, 1), 1);
  EXPECT_EQ(done, 'y');
  EXPECT_EQ(lives(kEpoch), true);
  EXPECT_EQ(lives(kEpoch + 1), false);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(lives(kEpoch), false);
}

TEST_F(HostLockTest, OfManyWhoTryAtOnceNoTwoHaveIt) {
  std::atomic<int> holders = 0, held = 0, twice = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; i++)
    threads.emplace_back([&] {
      for (int round = 0; round < 20; round++) {
        const auto lock = lock_netdev(kNetdev, "eth0");
        if (!lock) continue;
        held++;
        if (++holders > 1) twice++;
        std::this_thread::yield();
        holders--;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(twice, 0);
  EXPECT_GT(held, 0);
}

// Who could make such a map could say that a dead pspd lives, or keep one from starting.
TEST_F(HostLockTest, CannotBeImitatedByAUserNorByRootOfAUserNamespace) {
  const auto imitate = [] {
    const UniqueFd map(bpf_map_create(BPF_MAP_TYPE_QUEUE, "psp_probe", 0, 1, 1, nullptr));
    return map ? 0 : errno;
  };
  EXPECT_EQ(
      in_a_child([&] { return ::setgid(65534) == 0 && ::setuid(65534) == 0 ? imitate() : EBADF; }),
      EPERM);
  EXPECT_EQ(in_a_child([&] {
              // One that may not make a user namespace is a nobody, see above.
              if (::setgid(65534) != 0 || ::setuid(65534) != 0) return EBADF;
              return ::unshare(CLONE_NEWUSER) == 0 ? imitate() : EPERM;
            }),
            EPERM);
}

}  // namespace
}  // namespace psp::kernel
