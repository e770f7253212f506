// SPDX-License-Identifier: Apache-2.0
//
// For tests of the core's rules: a core with one device and one socket that is routed to it, and
// the way in which refusals are tested: by repairing one fault after the other. A request that is
// wrong in every way must be refused in the kernel's order.
#pragma once

#include <cerrno>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <vector>

#include "device/core.hh"

#include "core_fakes.hh"

namespace psp::device {

inline bool operator==(const Error& a, const Error& b) {
  return a.sys_errno == b.sys_errno && std::string_view(a.text) == b.text && a.field == b.field &&
         a.missing == b.missing;
}
inline void PrintTo(const Error& e, std::ostream* os) {
  *os << "errno " << e.sys_errno << " \"" << e.text << "\" field " << static_cast<int>(e.field)
      << (e.missing ? " missing" : "");
}

inline constexpr int kFd = 3;
inline constexpr std::uint32_t kIfindex = 7;
inline constexpr std::uint64_t kCookie = 1000;

inline Error error(int sys_errno, const char* text = "", Field field = Field::kNone) {
  return {sys_errno, text, field, false};
}
inline Error missing(Field field) { return {EINVAL, "", field, true}; }

class CoreTest : public testing::Test {
 protected:
  // The rules are those of the newest kernel; `options` say the rest.
  explicit CoreTest(CoreOptions options = {})
      : core(sockets, &netdevs,
             {.limits = options.limits, .compat = Compat::kNetNext, .first_id = options.first_id}) {
    core.set_notifier(&log);
    dev = core.add_device({0, kIfindex}, "eth0", VersionSet{0b0011}, driver).value();
    add_socket(kFd, kCookie);
    log.take();
  }

  void add_socket(int fd, std::uint64_t cookie, std::uint32_t ifindex = kIfindex) {
    sockets.sockets[fd] = {
        .info = {.cookie = cookie, .route_ifindex = ifindex, .established = true}};
  }
  AssocRequest request(int fd = kFd) const {
    AssocRequest r;
    r.fd = fd;
    r.version = Version::kAesGcm128;
    return r;
  }
  AssocRequest tx_request(int fd = kFd) const {
    AssocRequest r = request(fd);
    r.tx_key = AssocRequest::Keys{.spi = 0x8000'0005, .key = std::span(key).first(16)};
    return r;
  }
  const Association* assoc(std::uint64_t cookie = kCookie) const {
    return core.associations().find(cookie);
  }

  std::array<std::uint8_t, 32> key{};
  FakeDriver driver;
  ModelSockets sockets;
  LogNotifier log;
  FakeNetdevs netdevs;
  Core core;
  std::uint16_t dev = 0;
};

// A fault that stands until it is repaired, and the refusal that it causes.
struct Fault {
  const char* name;
  Error refusal;
  std::function<void()> repair;
};

template <typename Operation>
void repair_one_by_one(const std::vector<Fault>& faults, Operation operation) {
  for (const Fault& fault : faults) {
    const auto result = operation();
    ASSERT_FALSE(result) << fault.name;
    EXPECT_EQ(result.error(), fault.refusal) << fault.name;
    fault.repair();
  }
  EXPECT_TRUE(operation()) << "all repaired";
}

}  // namespace psp::device
