// SPDX-License-Identifier: Apache-2.0
//
// For tests of the cgroup programs as tables, a row a case: what a socket carries, what comes, goes
// or is asked for, and what becomes of it. Each row has a connection of its own over the loopback
// device, whose client is the socket; the programs are attached as pspd attaches them, the segments
// TCP's own.
#pragma once

#include <fcntl.h>
#include <functional>
#include <optional>

#include "hooks.hh"
#include "programs_fixture.hh"

namespace psp::kernel {

using Change = std::function<void(psp_sock&)>;

inline Change in_state(psp_state state, const Change& more = {}) {
  return [=](psp_sock& sock) {
    sock.state = state;
    if (more) more(sock);
  };
}
inline void earlier(psp_sock& sock) { sock.epoch++; }
inline void switching(psp_sock& sock) { sock.pending_tx = 1; }
inline void restored(psp_sock& sock) { sock.repaired = PSP_RESTORED; }

// Guard is what psp_guard says of the loopback device.
enum class Guard { kNothing, kOurs, kAnotherDevices, kAnotherProgram };

class SocketTableTest : public ConnectedTest {
 protected:
  void SetUp() override {
    ConnectedTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    lo_ = {here_, ::if_nametoindex("lo")};
    const int passing = programs_->program("psp_ingress");  // lets all of this pass
    out_ = {lo_.ifindex, Side::kEgress, passing, program_info(passing).value().id, "psp_ingress"};
    ASSERT_TRUE(make_clsact(lo_.ifindex, "lo"));
    ASSERT_TRUE(put(out_, "lo"));
    const auto attached = shared_->attach({});
    ASSERT_TRUE(attached) << attached.error();
  }
  void TearDown() override {
    if (shared_) (void)shared_->detach();
  }

  // begin makes another connection, whose client carries that. Of the one before nothing comes any
  // more that could be counted: it is reset, its client first.
  void begin(const Change& sock, Guard guard = Guard::kNothing) {
    const linger at_once{.l_onoff = 1, .l_linger = 0};
    for (UniqueFd* end : {&socket_, &peer_}) {
      ::setsockopt(end->get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
      end->reset();
    }
    connect();
    peer_ = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK));
    ASSERT_TRUE(peer_);
    ::fcntl(socket_.get(), F_SETFL, O_NONBLOCK);
    shared_->unguard(lo_);
    if (guard != Guard::kNothing) {
      ASSERT_TRUE(shared_->guard(lo_, guard == Guard::kAnotherDevices ? kDevId + 1 : kDevId,
                                 guard == Guard::kAnotherProgram
                                     ? FirstPrograms{out_.id + 1, in_.id + 1}
                                     : FirstPrograms{out_.id, in_.id}));
    }
    if (sock) associate(sock);
  }
  // carried is what the client carries now.
  std::optional<psp_sock> carried() const {
    psp_sock sock{};
    const int fd = socket_.get();
    return bpf_map_lookup_elem(shared_->maps().assoc, &fd, &sock) == 0 ? std::optional(sock)
                                                                       : std::nullopt;
  }
  std::uint64_t dropped(Drop reason) const {
    return shared_->drops()[static_cast<std::size_t>(reason)];
  }
  // expect_outcome waits for one of both, and wants it to be the right one.
  static void expect_outcome(bool passes, const std::function<bool()>& arrived,
                             const std::function<bool()>& refused) {
    bool in = false, out = false;
    for (int i = 0; i < 2000 && !in && !out; i++) {
      in = arrived();
      out = refused();
      if (!in && !out) ::usleep(1000);
    }
    EXPECT_EQ(in, passes);
    EXPECT_EQ(out, !passes);
  }

  device::NetdevKey lo_{};
  Door out_, in_;  // in_: what has opened a packet, if a test has that
  UniqueFd peer_;
};

inline constexpr auto kFamilyName = [](const auto& family) {
  return fmt::format("IPv{}", family.param);
};

}  // namespace psp::kernel
