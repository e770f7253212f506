// SPDX-License-Identifier: Apache-2.0
//
// Two hosts whose pspd can be ended and started again, and whose clocks can be put forward
// (skip_time.cc): what pspd keeps of an ended connection for 125 s goes before a test does.
//
// A veth connects them, without a cable that is looked at: these tests are about what stays behind
// in maps and memory, with more connections than a cable could carry. Clocks go forward only, for
// both hosts at once. Used by lifetime_test.cc and limits_test.cc.
#pragma once

#include <arpa/inet.h>
#include <atomic>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <memory>
#include <netinet/in.h>
#include <optional>
#include <stdexcept>
#include <string>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include "lab.hh"

namespace psp::lab {

constexpr int kAfterTimeWait = 126;

// Shared is one object in memory that outlives fork(2).
template <typename T>
class Shared {
 public:
  Shared() : fd_(::memfd_create("shared", MFD_CLOEXEC)) {
    if (::ftruncate(fd_.get(), sizeof(T)) != 0) throw std::runtime_error("ftruncate");
    void* memory = ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    if (memory == MAP_FAILED) throw std::runtime_error("mmap");
    value_ = std::construct_at(static_cast<T*>(memory));
  }
  ~Shared() { ::munmap(value_, sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T* operator->() const { return value_; }
  T& operator*() const { return *value_; }
  std::string path() const { return fmt::format("/proc/{}/fd/{}", ::getpid(), fd_.get()); }

 private:
  UniqueFd fd_;
  T* value_;
};

struct Address {
  sockaddr_storage name{};
  socklen_t length = sizeof(sockaddr_storage);
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&name); }
  std::uint16_t port() const { return reinterpret_cast<const sockaddr_in&>(name).sin_port; }
};

inline Address address_of(From side, int family) {
  Address address;
  address.name.ss_family = static_cast<sa_family_t>(family);
  const bool v4 = family == AF_INET;
  const int own = side == From::kA ? 1 : 2;
  if (v4)
    ::inet_pton(AF_INET, fmt::format("10.88.0.{}", own).c_str(),
                &reinterpret_cast<sockaddr_in&>(address.name).sin_addr);
  else
    ::inet_pton(AF_INET6, fmt::format("fd88::{}", own).c_str(),
                &reinterpret_cast<sockaddr_in6&>(address.name).sin6_addr);
  address.length = v4 ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  return address;
}

// Hosts are two namespaces with a veth between them and a pspd in each.
class Hosts {
 public:
  explicit Hosts(std::vector<std::string> more = {}) : more_(std::move(more)) {
    a_.sh(fmt::format("ip link add eth0 type veth peer name eth0 netns /proc/{}/fd/{}", ::getpid(),
                      b_.fd()));
    for (const From side : {From::kA, From::kB}) {
      const int own = side == From::kA ? 1 : 2;
      ns(side).sh(
          fmt::format("ip link set eth0 up && ip addr add 10.88.0.{0}/24 dev eth0 && "
                      "ip addr add fd88::{0}/64 dev eth0 nodad",
                      own));
      write_sysctl(ns(side), "net/ipv4/ip_local_port_range", "2000 65000");
      // A peer whose pspd was killed does not answer a FIN any more.
      write_sysctl(ns(side), "net/ipv4/tcp_orphan_retries", "2");
      start(side);
    }
  }

  Netns& ns(From side) { return side == From::kA ? a_ : b_; }
  Pspd& pspd(From side) { return *daemon(side); }
  Client client(From side) {
    const InNetns inside(ns(side));
    auto client = Client::connect_daemon("@softpsp");
    if (!client) throw std::runtime_error(client.error().message);
    return std::move(*client);
  }

  void start(From side) {
    ::setenv("LD_PRELOAD", PSP_SKIP_TIME_PATH, 1);
    ::setenv("PSP_TEST_CLOCK", ahead_.path().c_str(), 1);
    std::vector<std::string> arguments = {"--dev", "eth0", "--enable", "all"};
    arguments.insert(arguments.end(), more_.begin(), more_.end());
    daemon(side).emplace(ns(side), arguments);
    ::unsetenv("LD_PRELOAD");
    ::unsetenv("PSP_TEST_CLOCK");
    ASSERT_TRUE(daemon(side)->wait_ready()) << daemon(side)->log();
  }
  void end(From side, bool kill) {
    if (kill)
      daemon(side)->kill();
    else
      EXPECT_EQ(daemon(side)->stop(), 0) << daemon(side)->log();
    daemon(side).reset();
  }
  void skip(int seconds) { *ahead_ += seconds; }

 private:
  std::optional<Pspd>& daemon(From side) { return side == From::kA ? a_pspd_ : b_pspd_; }
  const std::vector<std::string> more_;
  Shared<std::atomic<int>> ahead_;
  Netns a_, b_;
  std::optional<Pspd> a_pspd_, b_pspd_;
};

}  // namespace psp::lab
