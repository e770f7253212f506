// SPDX-License-Identifier: Apache-2.0
//
// Two workers, one for each end, and a program behind them that says what it hears: each allocation
// of theirs fails once, and each call by which they ask the kernel for a descriptor or to watch
// one. That costs the connection at hand, and nobody else's.
//
// Threading: the workers' own, and one of the program behind them.
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <new>
#include <poll.h>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

#include "proxy_worker.hh"
#include "socket.hh"

namespace {

// What fails next, counted down by the workers' threads; 0: nothing.
std::atomic<int> failing_allocation = 0, failing_call = 0;

bool is_workers_thread() {
  thread_local bool named = false;  // a thread has its name before it does anything
  if (!named) {
    char name[16] = "";
    ::pthread_getname_np(::pthread_self(), name, sizeof name);
    named = std::strcmp(name, "psp-proxy-work") == 0;
  }
  return named;
}

bool fails(std::atomic<int>& next) {
  return next > 0 && is_workers_thread() && next.fetch_sub(1) == 1;
}

bool call_fails(int error) {
  if (!fails(failing_call)) return false;
  errno = error;
  return true;
}

}  // namespace

// Nothing else fails one allocation, or one call, of a thread.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (fails(failing_allocation)) throw std::bad_alloc();
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

extern "C" {
int epoll_ctl(int poll, int command, int fd, epoll_event* event) noexcept {
  if (command != EPOLL_CTL_DEL && call_fails(ENOSPC)) return -1;
  return static_cast<int>(::syscall(SYS_epoll_ctl, poll, command, fd, event));
}
int accept4(int fd, sockaddr* address, socklen_t* length, int flags) {
  if (call_fails(EMFILE)) return -1;
  return static_cast<int>(::syscall(SYS_accept4, fd, address, length, flags));
}
int socket(int family, int type, int protocol) noexcept {
  if (call_fails(EMFILE)) return -1;
  return static_cast<int>(::syscall(SYS_socket, family, type, protocol));
}
}

namespace psp::proxy {
namespace {

HostPort port_of(int listener) {
  const std::string text = local_address(listener).text();
  return {.host = "127.0.0.1", .port = text.substr(text.rfind(':') + 1)};
}

UniqueFd connect_to(const HostPort& name) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<std::uint16_t>(std::stoi(name.port)));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  return fd;
}

bool readable(int fd, int patience_ms) {
  pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&ready, 1, patience_ms) == 1;
}

// Echo is a program that says what it hears, to one after the other.
class Echo {
 public:
  Echo() : listener_(std::move(listen_on({.host = "127.0.0.1", .port = "0"})->front())) {
    thread_ = std::thread([this] { run(); });
  }
  ~Echo() {
    stop_ = true;
    thread_.join();
  }
  HostPort name() const { return port_of(listener_.get()); }

 private:
  void run() {
    while (!stop_) {
      if (!readable(listener_.get(), 20)) continue;
      const UniqueFd fd(::accept(listener_.get(), nullptr, nullptr));
      char octets[16];
      for (ssize_t n = 1; n > 0 && !stop_;)
        if (readable(fd.get(), 20) && (n = ::recv(fd.get(), octets, sizeof octets, 0)) > 0)
          (void)!::send(fd.get(), octets, static_cast<std::size_t>(n), MSG_NOSIGNAL);
    }
  }
  UniqueFd listener_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

// End is one proxy, with one worker.
class End {
 public:
  End(bool serve, HostPort to) : options_(options(serve, std::move(to))) {
    EXPECT_TRUE(credentials_.reload());
    EXPECT_TRUE(target_.refresh());
    shared_.listeners = std::move(*listen_on(options_.listen));
    worker_.emplace(shared_);
    EXPECT_EQ(worker_->start(), 0);
  }
  HostPort name() const { return port_of(shared_.listeners.front().get()); }
  const Counters& counters() const { return worker_->counters(); }
  unsigned active() const { return shared_.active; }

 private:
  static Options options(bool serve, HostPort to) {
    Options out;
    out.serve = serve;
    out.listen = {.host = "127.0.0.1", .port = "0"};
    out.to = std::move(to);
    out.allow_tls = true;
    out.tls = {.server = serve, .first_use = true};
    if (!serve) out.peer_names = {"peer"};
    out.socket = "@softpsp-no-such-pspd";
    out.timeout = std::chrono::seconds(30);
    return out;
  }
  const Options options_;
  Credentials credentials_{options_.tls};
  Target target_{options_.to};
  Shared shared_{options_, credentials_, target_, {}};
  std::optional<ProxyWorker> worker_;
};

class LittleMemory : public testing::Test {
 protected:
  // As main does.
  static void SetUpTestSuite() {
    std::signal(SIGPIPE, SIG_IGN);
    spdlog::set_level(spdlog::level::off);
  }
  enum class Went { kWell, kEnded, kNowhere };
  // exchange makes a connection through both ends, says a word and waits for its echo.
  Went exchange() const {
    const UniqueFd fd = connect_to(here_.name());
    (void)!::send(fd.get(), "word", 4, MSG_NOSIGNAL);
    if (!readable(fd.get(), 20'000)) return Went::kNowhere;
    char octets[16];
    return ::recv(fd.get(), octets, sizeof octets, 0) == 4 ? Went::kWell : Went::kEnded;
  }
  // try_each lets the first fail, then the second, until a whole connection needs no more of them.
  void try_each(std::atomic<int>& failing) const {
    int ended = 0, number = 1;
    for (bool all = false; !all; number++) {
      failing = number;
      const Went went = exchange();
      ASSERT_NE(went, Went::kNowhere) << number;
      all = failing.exchange(0) > 0;
      ended += went == Went::kEnded;
      ASSERT_EQ(exchange(), Went::kWell) << "after the one in which " << number << " failed";
    }
    EXPECT_GT(number, 5);
    EXPECT_GT(ended, 0);
    // Each is over and counted so, at both ends.
    for (const End* end : {&here_, &there_}) {
      for (int i = 0; i < 1000 && end->counters().over.get() != end->counters().accepted.get(); i++)
        ::usleep(10'000);
      EXPECT_EQ(end->counters().over.get(), end->counters().accepted.get());
      EXPECT_EQ(end->active(), 0u);
    }
  }

  const Echo echo_;
  const End there_{true, echo_.name()};
  const End here_{false, there_.name()};
};

TEST_F(LittleMemory, AConnectionGoesThroughBothEnds) { EXPECT_EQ(exchange(), Went::kWell); }

TEST_F(LittleMemory, OneAllocationThatFailsCostsOneConnectionAtMost) {
  try_each(failing_allocation);
}

TEST_F(LittleMemory, OneCallThatTheKernelRefusesCostsOneConnectionAtMost) {
  try_each(failing_call);
}

}  // namespace
}  // namespace psp::proxy
