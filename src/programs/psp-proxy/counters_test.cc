// SPDX-License-Identifier: Apache-2.0
//
// Counters of several workers as one line, and the socket that tells it. The line is read as JSON,
// as those who collect it do; sums are of two workers that were filled in by hand.
//
// The socket is a real one, in the test's directory: a second proxy must not take it from the
// first, and one that was killed must not keep the next from starting. What makes a counter go up
// is tested with whole proxies (tests/proxy).
#include "counters.hh"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <ctime>
#include <fcntl.h>
#include <filesystem>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <thread>

#include "base/unix_address.hh"

#include "stats_socket.hh"

namespace psp::proxy {
namespace {

TEST(ProxyStats, WorkersAreSummedUp) {
  Counters one, two;
  one.accepted.add(5);
  two.accepted.add(2);
  two.over.add(3);
  one.refused[static_cast<std::size_t>(Refusal::kPeerName)].add();
  two.ended[static_cast<std::size_t>(Ending::kStopped)].add(2);
  two.octets_from_peer.add(1ULL << 40);
  const auto json = nlohmann::json::parse(to_json({&one, &two}));
  EXPECT_EQ(json["accepted"], 7);
  EXPECT_EQ(json["active"], 4);
  EXPECT_EQ(json["refused"]["peer-name"], 1);
  EXPECT_EQ(json["refused"]["protocol"], 0);
  EXPECT_EQ(json["ended"]["stopped"], 2);
  EXPECT_EQ(json["bytes-from-peer"], 1ULL << 40);
}

TEST(ProxyStats, EachErrorHasItsReason) {
  EXPECT_EQ(to_refusal(keyx::ErrorCode::kAuthentication), Refusal::kAuthentication);
  EXPECT_EQ(to_refusal(keyx::ErrorCode::kPeerRefused), Refusal::kNoPsp);
  EXPECT_EQ(to_refusal(keyx::ErrorCode::kClearData), Refusal::kProtocol);
}

std::string ask(const std::string& path, StatsSocket& socket, const std::string& line) {
  const auto address = UnixAddress::parse(path);
  const UniqueFd asker(::socket(AF_UNIX, SOCK_STREAM, 0));
  if (connect(asker.get(), address->get(), address->length()) != 0) return "?";
  socket.answer(line);
  std::string got(100, '\0');
  got.resize(static_cast<std::size_t>(recv(asker.get(), got.data(), got.size(), MSG_WAITALL)));
  return got;
}

TEST(StatsSocket, AnswersTakesOverWhatIsLeftAndLeavesNothing) {
  const std::string path = testing::TempDir() + "psp-proxy-stats-" + std::to_string(getpid());
  {
    auto socket = StatsSocket::open(path);
    ASSERT_TRUE(socket.has_value()) << socket.error();
    EXPECT_EQ(ask(path, *socket, "line\n"), "line\n");
    const auto second = StatsSocket::open(path);
    ASSERT_FALSE(second.has_value()) << "somebody answers there";
    EXPECT_NE(second.error().find("Address already in use"), std::string::npos);
    // What a proxy that was killed leaves: a file, and nobody behind it.
    std::filesystem::rename(path, path + "-left");
  }
  std::filesystem::rename(path + "-left", path);
  {
    auto socket = StatsSocket::open(path);
    ASSERT_TRUE(socket.has_value()) << socket.error();
    EXPECT_EQ(ask(path, *socket, "again\n"), "again\n");
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

// UndefinedBehaviorSanitizer asks by a pipe of its own what memory holds, and takes having none for
// a mistake of the program.
#ifndef PSP_SANITIZED
// Running is psp-proxy as a program, with a statistics socket.
class Running {
 public:
  explicit Running(const std::string& path) {
    std::array<int, 2> said{};
    EXPECT_EQ(::pipe2(said.data(), O_CLOEXEC), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(said[1], STDERR_FILENO);
      ::execl(PSP_PROXY, PSP_PROXY, "--listen", "127.0.0.1:0", "--to", "127.0.0.1:1",
              "--stats-socket", path.c_str(), "--socket", "@psp-proxy-test-nobody", nullptr);
      ::_exit(127);
    }
    ::close(said[1]);
    const UniqueFd log(said[0]);
    std::string text;
    std::array<char, 4096> part;
    for (ssize_t n;
         !text.contains("ready") && (n = ::read(log.get(), part.data(), part.size())) > 0;)
      text.append(part.data(), static_cast<std::size_t>(n));
    EXPECT_TRUE(text.contains("ready")) << text;
  }
  ~Running() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  // let_open: it can open as many descriptors as it may, or none more. The limit is on the number
  // that a new one would get, so with 0 there is none for it; those that are open stay.
  void let_open(bool any) const {
    rlimit limit{};
    ::prlimit(pid_, RLIMIT_NOFILE, nullptr, &limit);
    limit.rlim_cur = any ? limit.rlim_max : 0;
    ASSERT_EQ(::prlimit(pid_, RLIMIT_NOFILE, &limit, nullptr), 0);
  }
  std::chrono::nanoseconds processor_time() const {
    clockid_t clock;
    timespec now{};
    EXPECT_EQ(::clock_getcpuclockid(pid_, &clock), 0);
    EXPECT_EQ(::clock_gettime(clock, &now), 0);
    return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
  }

 private:
  pid_t pid_ = -1;
};

TEST(StatsSocket, RestsWhileThereIsNoDescriptorToAnswerWith) {
  using namespace std::chrono_literals;
  const std::string path = testing::TempDir() + "psp-proxy-rests-" + std::to_string(::getpid());
  {
    const Running proxy(path);
    const auto address = UnixAddress::parse(path);
    const UniqueFd asker(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    proxy.let_open(false);
    ASSERT_EQ(::connect(asker.get(), address->get(), address->length()), 0);
    const auto before = proxy.processor_time();
    pollfd answer{.fd = asker.get(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&answer, 1, 2000), 0);
    EXPECT_LT(proxy.processor_time() - before, 200ms);
    proxy.let_open(true);
    EXPECT_EQ(::poll(&answer, 1, 5000), 1) << "and then it answers";
  }
  std::filesystem::remove(path);
}
#endif

}  // namespace
}  // namespace psp::proxy
