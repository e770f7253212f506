// SPDX-License-Identifier: Apache-2.0
//
// Descriptors that are closed for others. Whoever shares one does the worst at the worst moment:
// getsockopt is this program's own, so that a socket gets its linger time, and its owner's copy
// goes, just after it was found to have none. And unshare is, so that it fails for as long as a
// kernel without memory would let it.
#include "closer.hh"

#include <array>
#include <atomic>
#include <chrono>
#include <fcntl.h>
#include <functional>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include "base/socket_options.hh"

static std::function<void()> after_linger_was_read;
static std::atomic<int> unshares_that_fail = 0;

extern "C" {
int getsockopt(int fd, int level, int name, void* value, socklen_t* length) noexcept {
  const auto result = ::syscall(SYS_getsockopt, fd, level, name, value, length);
  if (level == SOL_SOCKET && name == SO_LINGER)
    if (const auto hook = std::exchange(after_linger_was_read, {})) hook();
  return static_cast<int>(result);
}
int unshare(int flags) noexcept {
  if (unshares_that_fail > 0) {
    unshares_that_fail--;
    errno = ENOMEM;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_unshare, flags));
}
}

namespace psp::control {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// Ends are the two of a TCP connection.
struct Ends {
  UniqueFd own, peer;
};

Ends connection() {
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof name;
  auto* address = reinterpret_cast<sockaddr*>(&name);
  ::bind(listener.get(), address, length);
  ::listen(listener.get(), 1);
  ::getsockname(listener.get(), address, &length);
  Ends ends{UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), {}};
  EXPECT_EQ(::connect(ends.own.get(), address, length), 0);
  ends.peer.reset(::accept(listener.get(), nullptr, nullptr));
  return ends;
}

void fill(int socket) {
  static const std::array<char, 65536> octets{};
  while (::send(socket, octets.data(), octets.size(), MSG_DONTWAIT) > 0) {
  }
}

// has_ended: who reads hears the end of what was written within this time.
bool has_ended(const UniqueFd& reader, std::chrono::milliseconds patience) {
  pollfd ready{.fd = reader.get(), .events = POLLIN, .revents = 0};
  char octet;
  return ::poll(&ready, 1, static_cast<int>(patience.count())) == 1 &&
         ::read(reader.get(), &octet, 1) == 0;
}

struct Pipe {
  UniqueFd reader, writer;
  Pipe() {
    std::array<int, 2> ends{};
    EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    reader.reset(ends[0]);
    writer.reset(ends[1]);
  }
};

class CloserTest : public testing::Test {
 protected:
  void TearDown() override { unshares_that_fail = 0; }
  std::shared_ptr<LastCopies> last_copies_ = std::make_shared<LastCopies>();
  Closer closer_{last_copies_};
};

TEST_F(CloserTest, DoesNotWaitForALingerTimeThatIsSetAtTheLastMoment) {
  Ends ends = connection();
  fill(ends.own.get());
  UniqueFd copy(::dup(ends.own.get()));
  after_linger_was_read = [&] {
    (void)set_option(ends.own.get(), SOL_SOCKET, SO_LINGER, linger{1, 4});
    ends.own.reset();
  };
  const auto start = Clock::now();
  closer_.take(std::move(copy));
  EXPECT_LT(Clock::now() - start, 2s);
  EXPECT_FALSE(ends.own) << "the race was won";
}

TEST_F(CloserTest, ClosesASocketBeforeItReturns) {
  Ends ends = connection();
  UniqueFd copy(::dup(ends.own.get()));
  ends.own.reset();
  closer_.take(std::move(copy));
  EXPECT_TRUE(has_ended(ends.peer, 0ms)) << "its FIN is there";
}

TEST_F(CloserTest, ClosesWhatIsNoSocketAllTheSameWhereMemoryLacksForAMoment) {
  Pipe pipe;
  unshares_that_fail = 3;
  closer_.take(std::move(pipe.writer));
  EXPECT_TRUE(has_ended(pipe.reader, 5s));
  EXPECT_EQ(unshares_that_fail, 0);
}

TEST_F(CloserTest, IsNotHeldUpForGoodWhereMemoryLacks) {
  constexpr int kForGood = 1'000'000;
  unshares_that_fail = kForGood;
  std::vector<Pipe> pipes(400);
  std::atomic<std::size_t> taken = 0;
  std::atomic<bool> enough = false;
  std::thread sender([&] {
    for (auto pipe = pipes.begin(); pipe != pipes.end() && !enough; ++pipe, ++taken)
      last_copies_->close({&pipe->writer, 1});
  });
  // Hundreds are on their way when there is no room for more.
  std::size_t before = 0;
  do {
    before = taken;
    std::this_thread::sleep_for(500ms);
  } while (taken != before);
  std::this_thread::sleep_for(2s);
  EXPECT_GT(taken, before) << "the next one has waited long enough";
  enough = true;
  unshares_that_fail = 0;
  sender.join();
  for (std::size_t i = 0; i < taken; i++) EXPECT_TRUE(has_ended(pipes[i].reader, 5s)) << i;
}

}  // namespace
}  // namespace psp::control
