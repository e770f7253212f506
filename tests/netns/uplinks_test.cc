// SPDX-License-Identifier: Apache-2.0
//
// A host with two uplinks, and a connection in use that moves from one to the other and back: by a
// route that is replaced, and by a link that goes down. Both hosts let eth1 use the device of eth0.
// The stream goes on, sealed, whatever was on its way. How long it stood still is printed, beside a
// connection in clear that moves with it.
//
// Threading: each stream has a thread of its own.
#include <algorithm>
#include <array>
#include <atomic>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <iostream>
#include <sys/socket.h>
#include <thread>

#include "lab.hh"

namespace psp::lab {
namespace {

using Clock = std::chrono::steady_clock;

// Stream sends a little from A to B, all the time, and reads it there.
class Stream {
 public:
  explicit Stream(const Connection& connection)
      : content_(random_octets(1 << 16)), from_(connection.a.get()), to_(connection.b.get()) {
    for (const int fd : {from_, to_}) ::fcntl(fd, F_SETFL, O_NONBLOCK);
    thread_ = std::thread([this] { run(); });
  }
  ~Stream() {
    stop_ = true;
    thread_.join();
    EXPECT_FALSE(spoilt_) << "octets came that were not sent, or not in order";
  }
  const Octets& content() const { return content_; }
  // goes_on waits until all that is on its way now has come, and more.
  bool goes_on() {
    const std::uint64_t target = sent_ + content_.size();
    return eventually([&] { return received_ >= target; }, 20s);
  }
  // pause is the longest time without an octet since it was asked for.
  std::chrono::milliseconds pause() { return std::chrono::milliseconds(pause_ms_.exchange(0)); }

 private:
  static constexpr std::size_t kChunk = 2048;

  void run() {
    auto last = Clock::now();
    Octets room(1 << 16);
    while (!stop_) {
      const std::size_t at = sent_ % content_.size();
      const ssize_t sent =
          ::send(from_, content_.data() + at, std::min(kChunk, content_.size() - at), MSG_NOSIGNAL);
      if (sent > 0) sent_ += static_cast<std::uint64_t>(sent);
      const ssize_t got = ::recv(to_, room.data(), room.size(), 0);
      if (got > 0) {
        take({room.data(), static_cast<std::size_t>(got)});
        last = Clock::now();
      }
      const auto pause =
          std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - last).count();
      if (pause > pause_ms_) pause_ms_ = pause;
      std::this_thread::sleep_for(1ms);
    }
  }
  void take(std::span<const std::uint8_t> octets) {
    for (const std::uint8_t octet : octets)
      spoilt_ = spoilt_ || octet != content_[received_++ % content_.size()];
  }

  const Octets content_;
  const int from_, to_;
  std::atomic<bool> stop_{false}, spoilt_{false};
  std::atomic<std::uint64_t> sent_{0}, received_{0};
  std::atomic<std::int64_t> pause_ms_{0};
  std::thread thread_;
};

class Uplinks : public testing::TestWithParam<Kind> {
 protected:
  static constexpr std::array kSides = {From::kA, From::kB};

  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace(Lab::Options{.links = 2});
    for (const From side : kSides) {
      lab_->start(side);
      lab_->ns(side).sh(PSPCTL_PATH " dev assoc eth0 netdev eth1");
      // The addresses are the hosts' and not an uplink's.
      on(side, fmt::format("addr add {}/{} dev lo", own(side), v6() ? 128 : 32));
      on(side, "route replace " + by_eth1(side, 200));
      to_eth0(side);
    }
  }

  bool v6() const { return GetParam() == Kind::kIpv6; }
  std::string own(From side) const { return Lab::address(side, GetParam()); }
  static From other(From side) { return side == From::kA ? From::kB : From::kA; }
  void on(From side, const std::string& command) {
    lab_->ns(side).sh(fmt::format("ip {} {}", v6() ? "-6" : "-4", command));
  }
  std::string by_eth1(From side, unsigned metric) const {
    return fmt::format("{} via {} dev eth1 src {} metric {}", own(other(side)),
                       Lab::address(other(side), GetParam(), 1), own(side), metric);
  }
  void to_eth0(From side) {
    on(side,
       fmt::format("route replace {} dev eth0 src {} metric 100", own(other(side)), own(side)));
  }
  // back_up is what a host has to do after a link was down, which forgets all that is with it.
  void back_up(From side) {
    on(side, "link set eth0 up");
    if (v6()) on(side, fmt::format("addr replace {}/64 dev eth0 nodad", own(side)));
    on(side, fmt::format("neigh replace {} lladdr 02:00:00:00:00:0{} dev eth0", own(other(side)),
                         side == From::kA ? 2 : 1));
    to_eth0(side);
  }

  void moves(const std::string& how, const std::function<void(From)>& away,
             const std::function<void(From)>& back);

  std::optional<Lab> lab_;
};

void Uplinks::moves(const std::string& how, const std::function<void(From)>& away,
                    const std::function<void(From)>& back) {
  constexpr int kMoves = 4;
  auto secured = lab_->connect(GetParam()), clear = lab_->connect(GetParam());
  secure(*lab_, secured);
  const std::array<std::size_t, 2> start = {lab_->cable(0).mark(), lab_->cable(1).mark()};
  Stream stream(secured), beside(clear);
  ASSERT_TRUE(stream.goes_on());
  std::chrono::milliseconds longest{0}, longest_beside{0};
  for (int move = 0; move < kMoves; move++) {
    const std::size_t link = move % 2 == 0 ? 1 : 0, mark = lab_->cable(link).mark();
    stream.pause();
    beside.pause();
    for (const From side : kSides) (link == 1 ? away : back)(side);
    ASSERT_TRUE(stream.goes_on()) << how << ", to eth" << link;
    for (const From side : kSides)
      EXPECT_TRUE(lab_->cable(link).find(
          mark, [&](const Seen& seen) { return seen.psp && seen.from == side; }))
          << how << ": it does not go by eth" << link;
    ASSERT_TRUE(beside.goes_on());
    longest = std::max(longest, stream.pause());
    longest_beside = std::max(longest_beside, beside.pause());
  }
  for (const std::size_t link : {0u, 1u})
    expect_nothing_in_clear(*lab_, secured.flow, start[link], stream.content(), link);
  std::cout << fmt::format("{}: the longest pause was {} ms, in clear {} ms\n", how,
                           longest.count(), longest_beside.count());
}

TEST_P(Uplinks, AConnectionInUseMovesWithItsRoute) {
  moves(
      "route replaced", [this](From side) { on(side, "route replace " + by_eth1(side, 50)); },
      [this](From side) { on(side, "route del " + by_eth1(side, 50)); });
}

TEST_P(Uplinks, AConnectionInUseMovesWhenItsLinkGoesDown) {
  moves(
      "link down", [this](From side) { on(side, "link set eth0 down"); },
      [this](From side) { back_up(side); });
}

INSTANTIATE_TEST_SUITE_P(Families, Uplinks, testing::Values(Kind::kIpv4, Kind::kIpv6),
                         [](const auto& of) { return kind_name(of.param); });

}  // namespace
}  // namespace psp::lab
