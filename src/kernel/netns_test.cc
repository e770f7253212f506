// SPDX-License-Identifier: Apache-2.0
//
// Namespaces, entered and left by real threads; netdevs in them by number and by name; and the
// events of sockets that go. The oracle is the inode of /proc/thread-self/ns/net. This program has
// its own setns(2), so that it can fail for want of memory, which nothing else makes it do: a
// thread must not stay in somebody's namespace for that. A netdev is renamed all the time while it
// is looked for. Needs root; skipped else. Events that a process sends: sock_diag_test.cc.
#include "netns.hh"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "netdev.hh"
#include "netns_test_support.hh"
#include "sock_diag.hh"

// How often the kernel has no memory to change a namespace with, counted down.
static int refused_setns = 0;

// This program's own setns: nothing else makes one of them fail.
extern "C" int setns(int fd, int type) noexcept {
  if (refused_setns > 0) {
    refused_setns--;
    errno = ENOMEM;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_setns, fd, type));
}

namespace psp::kernel {
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

TEST_F(NetnsTest, IsLeftThoughTheKernelHasNoMemoryForThatAtFirst) {
  {
    const InNetns inside(*inner_);
    EXPECT_EQ(here(), inner_ino_);
    refused_setns = 3;
  }
  EXPECT_EQ(refused_setns, 0);
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
  EXPECT_EQ(find_netns_by_id(17, SIZE_MAX).error(), NotFound::kNone);
  EXPECT_EQ(find_netns_by_id(-1, SIZE_MAX).error(), NotFound::kNone);
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

using FindNetdev = test::TapTest;

TEST_F(FindNetdev, ByNumberIsNotMisledByRenaming) {
  const auto tap = Tap::open("pspold", 1);
  ASSERT_TRUE(tap) << tap.error().text;
  const std::uint32_t ifindex = ::if_nametoindex("pspold");
  std::atomic<bool> done = false;
  std::thread renamer([&done] {  // in the namespace of the thread that starts it
    const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq there{}, back{};
    std::strcpy(there.ifr_name, "pspold");
    std::strcpy(there.ifr_newname, "pspnew");
    std::strcpy(back.ifr_name, "pspnew");
    std::strcpy(back.ifr_newname, "pspold");
    while (!done) {
      ::ioctl(fd.get(), SIOCSIFNAME, &there);
      ::usleep(100);
      ::ioctl(fd.get(), SIOCSIFNAME, &back);
      ::usleep(100);
    }
  });
  int lost = 0;
  for (int i = 0; i < 2000; i++) lost += !find_netdev(ifindex);
  done = true;
  renamer.join();
  EXPECT_EQ(lost, 0);
}

// Any user may hold descriptors open, and the control thread looks for a namespace among them.
TEST_F(NetnsTest, IsLookedForAMeasureOfDescriptorsAndThatIsSaid) {
  constexpr int kMany = 2000;
  std::vector<UniqueFd> many;
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit more{std::max<rlim_t>(limit.rlim_cur, kMany + 100), limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &more), 0);
  for (int i = 0; i < kMany; i++) many.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(find_netns_by_id(17, kMany).error(), NotFound::kTooMany);
  EXPECT_EQ(find_netns_by_id(17, SIZE_MAX).error(), NotFound::kNone);
  std::size_t visited = 0;
  EXPECT_FALSE(for_each_netns(
      [&](int) {
        visited++;
        return false;
      },
      1));
  EXPECT_LE(visited, 1u);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
}

// up brings the loopback netdev up.
void up() {
  const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP;
  ASSERT_EQ(::ioctl(fd.get(), SIOCSIFFLAGS, &request), 0);
}

// The control thread has other work than to hear of everybody's connections.
TEST(DestroyEvents, AreReadSomeHundredAtATime) {
  const test::PrivateNetns netns;
  if (!netns.entered()) GTEST_SKIP() << netns.why();
  ASSERT_NO_FATAL_FAILURE(up());
  auto events = DestroyEvents::open();
  ASSERT_TRUE(events) << events.error();
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::listen(listener.get(), 8), 0);
  sockaddr_in name{};
  socklen_t length = sizeof name;
  ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&name), &length), 0);
  for (int i = 0; i < 1000; i++) {
    const UniqueFd near(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::connect(near.get(), reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
    const UniqueFd far(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const linger abort{1, 0};
    ASSERT_EQ(::setsockopt(near.get(), SOL_SOCKET, SO_LINGER, &abort, sizeof abort), 0);
  }
  int gone = 0;
  const auto count = [&](const SecuredSocket&) { gone++; };
  EXPECT_EQ(events->read(count), DestroyEvents::Heard::kMore);
  EXPECT_GT(gone, 0);
  EXPECT_LT(gone, 1000);
  for (int i = 0; i < 20 && events->read(count) != DestroyEvents::Heard::kAll; i++) {
  }
  EXPECT_GE(gone, 1000) << "but all of them in the end";
}

}  // namespace
}  // namespace psp::kernel
