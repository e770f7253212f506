// SPDX-License-Identifier: Apache-2.0
//
// The loop calls what is registered for as long as its Source lives, lowest order first, and goes
// on after a callback that ran out of memory. By real descriptors, timers of milliseconds and a
// real signal; what epoll refuses is made by a seccomp filter of one thread's own. Memory that runs
// out inside sd-event: event_loop_memory_test.cc.
#include "base/event_loop.hh"

#include <array>
#include <csignal>
#include <cstddef>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/unique_fd.hh"

namespace psp {
namespace {

using namespace std::chrono_literals;

UniqueFd readable_fd() { return UniqueFd(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)); }

TEST(EventLoop, TimePasses) {
  EventLoop loop;
  ASSERT_TRUE(loop.complete());
  const auto before = loop.now();
  std::vector<EventLoop::Clock::time_point> seen;
  const auto timer = loop.every(1ms, [&] {
    seen.push_back(loop.now());
    if (seen.size() == 3) loop.stop(7);
  });
  EXPECT_EQ(loop.run(), 7);
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_LT(before, seen[0]);
  EXPECT_LT(seen[0], seen[1]);
  EXPECT_LT(seen[1], seen[2]);
}

TEST(EventLoop, WhatIsDroppedIsNotCalled) {
  EventLoop loop;
  const UniqueFd one = readable_fd(), other = readable_fd();
  int calls = 0;
  EventLoop::Source dropped = loop.on_readable(one.get(), [&] { calls++; });
  const auto kept = loop.on_readable(other.get(), [&] { loop.stop(0); });
  dropped = {};
  EXPECT_EQ(loop.run(), 0);
  EXPECT_EQ(calls, 0);
}

TEST(EventLoop, ACallbackMayDropItsOwnSource) {
  EventLoop loop;
  const UniqueFd fd = readable_fd();
  EventLoop::Source source;
  source = loop.on_readable(fd.get(), [&, word = std::string(100, 'x')] {
    source = {};
    EXPECT_EQ(word.size(), 100u);
    loop.stop(0);
  });
  EXPECT_EQ(loop.run(), 0);
}

// Whoever shares the loop fairly relies on it (control/fair_share.hh).
TEST(EventLoop, CallsWhatIsReadyByItsOrder) {
  EventLoop loop;
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  ASSERT_EQ(::write(pipe[1], "x", 1), 1);
  std::vector<int> called;
  std::array<EventLoop::Source, 3> sources;
  std::array<int, 3> copies{};
  const std::array<std::int64_t, 3> orders = {30, 10, 20};
  for (std::size_t i = 0; i < sources.size(); i++) {
    copies[i] = ::dup(pipe[0]);
    sources[i] = loop.on_readable(copies[i], [&, i] {
      called.push_back(static_cast<int>(orders[i]));
      if (called.size() == sources.size()) return loop.stop(0);
      sources[i].set_order(orders[i] + 100);  // its next turn comes after those of the others
    });
    sources[i].set_order(orders[i]);
  }
  EXPECT_EQ(loop.run(), 0);
  EXPECT_EQ(called, (std::vector<int>{10, 20, 30}));
  sources = {};
  for (const int fd : {pipe[0], pipe[1], copies[0], copies[1], copies[2]}) ::close(fd);
}

TEST(EventLoop, CallsAgainForWhatACallbackLeavesUnread) {
  EventLoop loop;
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd reader(ends[0]), writer(ends[1]);
  for (const char octet : {'a', 'b', 'c'}) ASSERT_EQ(::send(writer.get(), &octet, 1, 0), 1);
  std::string read;
  const auto source = loop.on_readable(reader.get(), [&] {
    char octet;
    if (::recv(reader.get(), &octet, 1, 0) != 1) return loop.stop(3);  // the end is readable, too
    read += octet;
    if (read == "abc") ::shutdown(writer.get(), SHUT_WR);
  });
  EXPECT_EQ(loop.run(), 3);
  EXPECT_EQ(read, "abc");
}

TEST(EventLoop, AlwaysBeingReadyWithoutAnOrderKeepsNobodyFromATurn) {
  EventLoop loop;
  const UniqueFd one = readable_fd(), other = readable_fd();
  int before = 0;
  const auto unordered = loop.on_readable(one.get(), [&] { before++; });
  auto ordered = loop.on_readable(other.get(), [&] { loop.stop(0); });
  ordered.set_order(7);
  EXPECT_EQ(loop.run(), 0);
  EXPECT_EQ(before, 1);
}

TEST(EventLoop, CallsAThousandThatStayReadyByTheirOrderAndTimersMeanwhile) {
  EventLoop loop;
  const UniqueFd fd = readable_fd();  // which nobody reads
  std::vector<UniqueFd> copies;
  std::vector<EventLoop::Source> sources;
  std::vector<std::size_t> called;
  int ticks = 0;
  const auto timer = loop.every(1ms, [&] { ticks++; });
  for (std::size_t i = 0; i < 1000; i++) {
    copies.emplace_back(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
    sources.push_back(loop.on_readable(copies.back().get(), [&, i] {
      called.push_back(i);
      sources[i].set_order(static_cast<std::int64_t>(2000 + called.size()));
      if (called.size() >= 3000 && ticks > 0) loop.stop(0);
    }));
    sources.back().set_order(static_cast<std::int64_t>(1000 - i));
  }
  EXPECT_EQ(loop.run(), 0);
  // The first round as far as they were known when it began; then each in the order that it got.
  for (std::size_t i = 1000; i < 3000; i++) EXPECT_EQ(called[i], called[i - 1000]) << i;
  EXPECT_GT(ticks, 0);
}

TEST(EventLoop, WhatIsOffRestsUntilItIsOn) {
  EventLoop loop;
  const UniqueFd fd = readable_fd();
  bool on = false, early = false;
  EventLoop::Source source = loop.on_readable(fd.get(), [&] {
    early = !on;
    loop.stop(0);
  });
  EXPECT_TRUE(source.enable(false));
  const auto timer = loop.every(2ms, [&] { source.enable(on = true); });
  EXPECT_EQ(loop.run(), 0);
  EXPECT_FALSE(early);
}

TEST(EventLoop, ACallbackWithoutMemoryEndsAloneAndTheLoopGoesOn) {
  EventLoop loop;
  int calls = 0;
  const auto timer = loop.every(1ms, [&] {
    if (++calls == 2) return loop.stop(0);
    throw std::bad_alloc();
  });
  EXPECT_EQ(loop.run(), 0);
}

TEST(EventLoopDeathTest, WhatIsRegisteredAsNeededWhileItRunsIsAMistake) {
  const auto run = [] {
    EventLoop loop;
    const auto timer = loop.every(1ms, [&] {
      (void)loop.every(1ms, [] {});
      loop.stop(0);
    });
    loop.run();
  };
  EXPECT_DEATH(run(), "while the loop runs");
}

TEST(EventLoop, WhatCannotBeWatchedIsSaid) {
  EventLoop loop;
  const auto source = loop.try_on_readable(-1, [] {});
  ASSERT_FALSE(source);
  EXPECT_EQ(source.error(), EBADF);
  EXPECT_TRUE(loop.complete());
  (void)loop.on_readable(-1, [] {});
  EXPECT_FALSE(loop.complete());
}

TEST(EventLoop, TakesASignal) {
  EventLoop loop;
  const auto source = loop.on_signal(SIGUSR1, [&] { loop.stop(3); });
  ::kill(::getpid(), SIGUSR1);
  EXPECT_EQ(loop.run(), 3);
}

// With an own filter of the thread's system calls: nothing else makes epoll_ctl fail.
TEST(EventLoop, SaysThatTheKernelWatchesNoMoreDescriptors) {
  std::thread([] {
    EventLoop loop;
    const UniqueFd watched(::socket(AF_UNIX, SOCK_DGRAM, 0)), other(::dup(watched.get()));
    auto source = loop.on_readable(watched.get(), [] {});
    EXPECT_TRUE(source.enable(false));
    std::array<sock_filter, 4> refuse{{
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_ctl, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSPC),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    }};
    const sock_fprog program{refuse.size(), refuse.data()};
    ASSERT_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
    const auto refused = loop.try_on_readable(other.get(), [] {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error(), ENOSPC);
    EXPECT_FALSE(source.enable(true));
    EXPECT_TRUE(source.enable(false));
  }).join();
}

}  // namespace
}  // namespace psp
