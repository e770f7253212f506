// SPDX-License-Identifier: Apache-2.0
//
// HostileClient: a daemon, and clients that want to harm it. They run as another user, in a process
// of their own, while a well-behaved client goes on asking. How long that one waits is printed,
// with the memory before and after, and not judged: what is judged is that it is answered, how much
// more memory there is, and which descriptors stay.
//
// Threading: a test's; the daemon has a thread of its own.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <functional>
#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <memory>
#include <sched.h>
#include <set>
#include <span>
#include <string>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "base/unix_address.hh"
#include "netlink/client.hh"
#include <psp/netlink/uapi.h>

#include "model_daemon.hh"

namespace psp::control {

inline constexpr uid_t kHostile = 65534;
inline constexpr std::size_t kMiB = 1 << 20;
// A sanitizer keeps what was freed, so memory says nothing.
#ifdef PSP_SANITIZED
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

inline std::size_t resident() {
  std::size_t pages = 0, shared = 0;
  FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr || std::fscanf(file, "%zu %zu", &shared, &pages) != 2) pages = 0;
  if (file != nullptr) std::fclose(file);
  return pages * 4096;
}

// descriptors are those of this process, each as "NUMBER WHAT", but for the one to look with.
inline std::set<std::string> descriptors() {
  std::set<std::string> all;
  DIR* directory = ::opendir("/proc/self/fd");
  while (const dirent* one = ::readdir(directory)) {
    std::array<char, 256> what{};
    if (one->d_name != std::to_string(::dirfd(directory)) &&
        ::readlinkat(::dirfd(directory), one->d_name, what.data(), what.size() - 1) > 0)
      all.insert(fmt::format("{} {}", one->d_name, what.data()));
  }
  ::closedir(directory);
  return all;
}

class HostileClient : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: the hostile client is another user";
    address_ = fmt::format("@softpsp-hostile-{}", ::getpid());
    daemon_ = std::make_unique<ModelDaemon>(address_, 3);
    ASSERT_EQ(daemon_->error(), "");
  }
  void TearDown() override { kill_all(); }

  void kill_all() {
    for (const pid_t pid : std::exchange(hostile_, {})) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
  }

  UniqueFd connect() const {
    const auto name = UnixAddress::parse(address_);
    UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0));
    if (::connect(fd.get(), name->get(), name->length()) != 0) return {};
    return fd;
  }
  // attack runs `work` as another user; it may say one word when it is at it.
  void attack(const std::function<void(const std::function<void()>& at_it)>& work) {
    std::array<int, 2> ready{};
    ASSERT_EQ(::pipe(ready.data()), 0);
    const pid_t pid = ::fork();
    if (pid == 0) {
      const rlimit many{16384, 16384};
      ::setrlimit(RLIMIT_NOFILE, &many);
      ::signal(SIGPIPE, SIG_IGN);
      // Under `chrt -r 20` the figures show pspd's own queues, not who else wants the processors.
      const sched_param ordinary{};
      ::sched_setscheduler(0, SCHED_OTHER, &ordinary);
      if (::setresgid(kHostile, kHostile, kHostile) != 0 ||
          ::setresuid(kHostile, kHostile, kHostile) != 0)
        ::_exit(1);
      work([&] { (void)!::write(ready[1], "x", 1); });
      (void)!::write(ready[1], "x", 1);
      for (;;) ::pause();
    }
    hostile_.push_back(pid);
    ::close(ready[1]);
    char word;
    EXPECT_EQ(::read(ready[0], &word, 1), 1) << "it could not do what it was to do";
    ::close(ready[0]);
  }
  // live asks as a well-behaved client does, on one connection and on fresh ones.
  void live(const char* what, std::size_t before, std::size_t more) {
    std::vector<double> waits;
    auto kept = Client::connect_daemon(address_);
    ASSERT_TRUE(kept) << kept.error().message;
    for (int i = 0; i < 300; i++) {
      const auto start = std::chrono::steady_clock::now();
      if (i % 10 == 0) {
        auto fresh = Client::connect_daemon(address_);
        ASSERT_TRUE(fresh) << fresh.error().message;
        ASSERT_TRUE(fresh->device(1));
      } else {
        const auto device = kept->device(1);
        ASSERT_TRUE(device) << device.error().message;
      }
      waits.push_back(
          std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
              .count());
    }
    std::ranges::sort(waits);
    const std::size_t now = resident();
    fmt::print(
        "{}: RSS {:.1f} -> {:.1f} MiB; others wait p50 {:.0f} us, p99 {:.0f} us, max {:.0f} us\n",
        what, static_cast<double>(before) / kMiB, static_cast<double>(now) / kMiB,
        waits[waits.size() / 2], waits[waits.size() * 99 / 100], waits.back());
    if (!kSanitized) {
      EXPECT_LT(now, before + more);
    }
  }
  // warm makes what every daemon has after its first requests.
  std::size_t warm() {
    auto client = Client::connect_daemon(address_);
    EXPECT_TRUE(client && client->devices());
    return resident();
  }

  // expect_closed: what was not there before is gone. Of those who are dead by now many still wait
  // to be accepted: so first somebody waits behind them.
  void expect_closed(const std::set<std::string>& before) {
    std::vector<std::string> left;
    for (int i = 0; i < 500; i++) {
      warm();
      ::usleep(10'000);
      left.clear();
      std::ranges::set_difference(descriptors(), before, std::back_inserter(left));
      if (left.empty()) return;
    }
    ADD_FAILURE() << fmt::format("{}", fmt::join(left, "\n"));
  }

  std::string address_;
  std::unique_ptr<ModelDaemon> daemon_;
  std::vector<pid_t> hostile_;
};

inline std::array<std::uint8_t, 20> request(std::uint8_t cmd, std::uint16_t flags) {
  std::array<std::uint8_t, 20> octets{};
  nlmsghdr header{.nlmsg_len = 20,
                  .nlmsg_type = SOFTPSP_ID_PSP,
                  .nlmsg_flags = flags,
                  .nlmsg_seq = 1,
                  .nlmsg_pid = 0};
  std::memcpy(octets.data(), &header, sizeof header);
  octets[16] = cmd;
  octets[17] = 1;
  return octets;
}

// send_with sends `octets` with descriptors.
inline ssize_t send_with(int to, std::span<const std::uint8_t> octets,
                         const std::vector<int>& fds) {
  const std::size_t size = fds.size() * sizeof(int);
  iovec part{const_cast<std::uint8_t*>(octets.data()), octets.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(253 * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(size);
  cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(size);
  std::memcpy(CMSG_DATA(rights), fds.data(), size);
  return ::sendmsg(to, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace psp::control
