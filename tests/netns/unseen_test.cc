// SPDX-License-Identifier: Apache-2.0
//
// Unseen: a socket with a Tx key that is in no listing of the kernel, since it was disconnected or
// has not connected yet. pspd cannot abort it, and it can connect at any time: then not in clear,
// whichever pspd secured it. Once its application closes it, nothing of it is left.
//
// Threading: the test's thread.
#include <cerrno>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <thread>

#include "connect_to.hh"
#include "lab.hh"

namespace psp::lab {
namespace {

enum class Way { kDisconnected, kBeforeConnect };
enum class End { kStopped, kKilled };

class Unseen : public testing::TestWithParam<std::tuple<Kind, Way, End>> {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace();
    start();
    lab_->start(From::kB);
  }
  void TearDown() override {
    socket_.reset();
    lab_.reset();
  }
  static bool v6() { return std::get<Kind>(GetParam()) == Kind::kIpv6; }
  static bool early() { return std::get<Way>(GetParam()) == Way::kBeforeConnect; }

  void start() {
    lab_->start(From::kA);
    for (const unsigned id : programs_of(lab_->pspd(From::kA).pid())) programs_.push_back(id);
  }
  // end ends pspd, which leaves its programs in place.
  void end() {
    if (std::get<End>(GetParam()) == End::kKilled) return lab_->kill(From::kA);
    Pspd& daemon = lab_->pspd(From::kA);
    EXPECT_EQ(daemon.stop(), 1) << daemon.log();
    EXPECT_NE(daemon.log().find("1 secured socket is open and cannot be aborted"),
              std::string::npos)
        << daemon.log();
  }
  int connect(bool to_nobody = false) const {
    return connect_to(socket_.get(), std::get<Kind>(GetParam()), to_nobody);
  }
  // make makes the socket: secured, and in no listing.
  void make();
  // expect_blocked: it connects, and nothing of that is on the wire, neither in clear nor sealed.
  void expect_blocked() {
    const std::size_t mark = lab_->cable().mark();
    EXPECT_EQ(connect(), EINPROGRESS);
    EXPECT_FALSE(lab_->cable().find(
        mark, [](const Seen& seen) { return seen.from == From::kA && (seen.psp || seen.segment); },
        1200ms))
        << "a SYN";
    EXPECT_EQ(connect(true), 0);
  }

  std::optional<Lab> lab_;
  UniqueFd socket_;
  std::vector<unsigned> programs_;  // of all pspds that there were
};

void Unseen::make() {
  Client client = lab_->client(From::kA);
  if (!early()) {
    auto connection = lab_->connect(std::get<Kind>(GetParam()));
    secure(*lab_, connection);
    socket_ = std::move(connection.a);
    ASSERT_EQ(connect(true), 0);
    return;
  }
  const InNetns inside(lab_->ns(From::kA));
  socket_.reset(::socket(v6() ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto id = client.devices().value().at(0).id;
  ASSERT_TRUE(client.rx_assoc(socket_.get(), Version::kAesGcm128, id));
  const auto done =
      client.tx_assoc(socket_.get(), Version::kAesGcm128, random_key(Version::kAesGcm128), id);
  ASSERT_TRUE(done) << done.error().message;
}

TEST_P(Unseen, SocketsStayBlockedForAllDaemonsToComeAndLeaveNothingWhenTheyAreClosed) {
  make();
  if (HasFatalFailure()) return;
  end();
  expect_blocked();
  for (const int next : {2, 3}) {
    start();
    expect_blocked();
    const auto id = lab_->client(From::kA).devices().value().at(0).id;
    const auto again = lab_->client(From::kA).rx_assoc(socket_.get(), Version::kAesGcm128, id);
    ASSERT_FALSE(again) << next;
    EXPECT_EQ(again.error().sys_errno, EBUSY) << again.error().message;
    if (next == 2) end();
  }
  EXPECT_TRUE(any_exists(programs_));
  socket_.reset();
  EXPECT_EQ(lab_->stop(From::kA), 0);
  EXPECT_TRUE(eventually([&] { return !any_exists(programs_); }));
}

INSTANTIATE_TEST_SUITE_P(Ways, Unseen,
                         testing::Combine(testing::Values(Kind::kIpv4, Kind::kIpv6),
                                          testing::Values(Way::kDisconnected, Way::kBeforeConnect),
                                          testing::Values(End::kStopped, End::kKilled)),
                         [](const auto& one) {
                           const bool early = std::get<Way>(one.param) == Way::kBeforeConnect;
                           const bool killed = std::get<End>(one.param) == End::kKilled;
                           return kind_name(std::get<Kind>(one.param)) +
                                  (early ? "BeforeConnect" : "Disconnected") +
                                  (killed ? "Killed" : "Stopped");
                         });

class Reset : public testing::TestWithParam<Kind> {};

TEST_P(Reset, ByThePeerButNotClosedDoesNotKeepAStopFromBeingClean) {
  PSP_NEEDS_LAB();
  Lab lab;
  const auto programs = programs_of(lab.start(From::kA).pid());
  lab.start(From::kB);
  auto connection = lab.connect(GetParam());
  secure(lab, connection);
  send_all(connection.a.get(), octets_of("x"));
  ASSERT_EQ(receive(connection.b.get(), 1), octets_of("x"));
  const linger now{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(connection.b.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  connection.b.reset();
  EXPECT_EQ(socket_error(connection.a.get()), ECONNRESET);
  EXPECT_EQ(lab.stop(From::kA), 0);
  EXPECT_TRUE(eventually([&] { return !any_exists(programs); }));
}

TEST_P(Reset, OrFinsOfBothButNotClosedDoNotKeepAStopFromBeingClean) {
  PSP_NEEDS_LAB();
  Lab lab;
  const auto programs = programs_of(lab.start(From::kA).pid());
  lab.start(From::kB);
  auto connection = lab.connect(GetParam());
  secure(lab, connection);
  for (const UniqueFd* end : {&connection.a, &connection.b}) {
    ASSERT_EQ(::shutdown(end->get(), SHUT_WR), 0);
    std::this_thread::sleep_for(100ms);
  }
  EXPECT_EQ(receive(connection.a.get(), 1, 300ms), Octets());
  EXPECT_EQ(lab.stop(From::kA), 0);
  EXPECT_EQ(lab.stop(From::kB), 0);
  EXPECT_TRUE(eventually([&] { return !any_exists(programs); }));
}

// What is over is so for the connection, not for the socket: it is alive again with the next one.
TEST_P(Reset, AndThenAnotherConnectionOfTheSameSocketStaysBlockedAfterAStop) {
  PSP_NEEDS_LAB();
  Lab lab;
  lab.start(From::kA);
  lab.start(From::kB);
  auto connection = lab.connect(GetParam());
  secure(lab, connection);
  const linger now{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(connection.b.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  connection.b.reset();
  EXPECT_EQ(socket_error(connection.a.get()), ECONNRESET);
  // Another one begins, sealed, and nobody answers; then it is given up.
  ASSERT_EQ(connect_to(connection.a.get(), GetParam(), true), 0);
  EXPECT_EQ(connect_to(connection.a.get(), GetParam(), false), EINPROGRESS);
  std::this_thread::sleep_for(100ms);
  ASSERT_EQ(connect_to(connection.a.get(), GetParam(), true), 0);
  EXPECT_EQ(lab.pspd(From::kA).stop(), 1) << "it can connect again";
  connection.a.reset();
  lab.start(From::kA);  // finds that it has been closed, and ends cleanly
}

// pspd has looked whether anything could go on, and lets what it has aborted say so to its peers.
TEST_P(Reset, AndThenAnotherConnectionThatBeginsDuringAStopIsAbortedAndNotInClear) {
  PSP_NEEDS_LAB();
  Lab lab;
  lab.start(From::kA);
  lab.start(From::kB);
  auto over = lab.connect(GetParam()), open = lab.connect(GetParam());
  secure(lab, over);
  secure(lab, open);
  const linger now{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(over.b.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  over.b.reset();
  ASSERT_EQ(socket_error(over.a.get()), ECONNRESET);
  const std::size_t mark = lab.cable().mark();
  Pspd& daemon = lab.pspd(From::kA);
  ::kill(daemon.pid(), SIGTERM);
  ASSERT_EQ(socket_error(open.a.get()), ECONNABORTED);
  ASSERT_EQ(connect_to(over.a.get(), GetParam(), true), 0);
  ASSERT_EQ(connect_to(over.a.get(), GetParam(), false), EINPROGRESS);
  EXPECT_EQ(daemon.wait(), 0) << daemon.log();
  EXPECT_EQ(socket_error(over.a.get()), ECONNABORTED);
  // A SYN is said again after a second.
  EXPECT_FALSE(lab.cable().find(
      mark, [](const Seen& seen) { return seen.from == From::kA && !seen.psp && seen.segment; },
      1500ms));
  lab.start(From::kA);
}

INSTANTIATE_TEST_SUITE_P(Families, Reset, testing::Values(Kind::kIpv4, Kind::kIpv6),
                         [](const auto& one) { return kind_name(one.param); });

}  // namespace
}  // namespace psp::lab
