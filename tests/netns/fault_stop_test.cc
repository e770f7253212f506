// SPDX-License-Identifier: Apache-2.0
//
// pspd's stop with a fault at each step: a call to the kernel fails, or pspd dies there, or it
// halts there, and a second one is started, or a socket begins another connection. It has secured
// connections of the host and of a container, and somebody keeps asking both for an answer. The
// stop is clean or says what it could not do, and then the next pspd does that; never does the wire
// see an octet of a secured connection in clear.
//
// A call fails, once or from then on, at each third place where a line of the code calls something
// for the first time; it dies after all of these that change something of the host. With
// PSP_FAULT_ALL=1 all calls are taken for both, which takes an hour.
//
// Threading: see fault_lab.hh.
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <memory>
#include <sys/socket.h>
#include <thread>

#include "connect_to.hh"
#include "fault_lab.hh"

namespace psp::lab {
namespace {

std::unique_ptr<FaultLab> make_lab() {
  return std::make_unique<FaultLab>(FaultLab::With::kContainer);
}

// Serving is a pspd with a container's netdev and secured connections, which is to stop.
struct Serving {
  Serving(FaultLab& in, FaultKind fault, const NotedCall& call = {}, int error = 0)
      : lab(in), daemon(lab.start(Phase::kStop, fault, call, error)) {
    if (const auto done = lab.container().associate(); !done)
      throw std::runtime_error(done.error().message);
    open = lab.secured();
    inside = lab.secured_inside();
    programs = lab.plan().programs();
  }
  void expect_over() const {
    EXPECT_TRUE(is_over(open.a.get()));
    EXPECT_TRUE(is_over(inside.a.get()));
  }

  FaultLab& lab;
  Pspd daemon;
  Connection open, inside;
  std::vector<unsigned> programs;
};

class FaultyStop : public testing::Test {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    const auto lab = make_lab();
    Serving serving(*lab, FaultKind::kNone);
    EXPECT_EQ(serving.daemon.stop(), 0) << serving.daemon.log();
    calls_ = lab->plan().calls(Phase::kStop);
  }
  void TearDown() override { tally_.print(calls_); }

  void fail_at(FaultLab& lab, const NotedCall& call, std::uint32_t number);
  void die_after(FaultLab& lab, const NotedCall& call);
  void expect_next_mends(const Serving& serving);
  bool try_second(Serving& serving, std::optional<Pspd>* keep);
  void halt_and_start_seconds(bool one_stays);

  Calls calls_;
  Tally tally_;
};

// The next one knows nothing of the container, but for what the first left there.
void FaultyStop::expect_next_mends(const Serving& serving) {
  Pspd next = serving.lab.start();
  const auto own = serving.lab.plan().programs();
  serving.expect_over();
  serving.lab.works_and_stops(next);
  EXPECT_TRUE(gone(own)) << next.log();
  EXPECT_TRUE(gone(serving.programs)) << still(serving.programs) << " programs are left\n"
                                      << next.log();
}

void FaultyStop::fail_at(FaultLab& lab, const NotedCall& call, std::uint32_t number) {
  const int error = error_for(number);
  SCOPED_TRACE(fmt::format("stop, {} fails: {}{}", text(call), ::strerrorname_np(error),
                           fault_for(number) == FaultKind::kFailOn ? ", again and again" : ""));
  Serving serving(lab, fault_for(number), call, error);
  Pspd& daemon = serving.daemon;
  Prober prober(lab.lab(), serving.open), inside(lab.lab(), serving.inside);
  const std::string said = daemon.log();
  const int status = daemon.stop();
  tally_.count(!lab.plan()->met ? "not met"
               : status == 0    ? "clean"
               : status == 1    ? "said so"
                                : "died");
  if (status == 0) {
    serving.expect_over();
    EXPECT_TRUE(gone(serving.programs)) << still(serving.programs) << " programs are left\n"
                                        << daemon.log();
    EXPECT_EQ(lab.state(), lab.before()) << daemon.log();
  } else {
    EXPECT_TRUE(status == 1 || status == -1) << status << daemon.log();
    EXPECT_NE(said_besides(daemon.log(), said.size(), {"caught SIGTERM", "stopping"}), "")
        << "no word why";
    expect_next_mends(serving);
  }
}

void FaultyStop::die_after(FaultLab& lab, const NotedCall& call) {
  SCOPED_TRACE(fmt::format("stop, it dies after {}", text(call)));
  Serving serving(lab, FaultKind::kHaltAfter, call);
  Prober prober(lab.lab(), serving.open), inside(lab.lab(), serving.inside);
  serving.daemon.send(SIGTERM);
  ASSERT_TRUE(halted(serving.daemon)) << serving.daemon.log();
  serving.daemon.kill();
  tally_.count("died");
  std::this_thread::sleep_for(5ms);  // what the probers ask now only the dead can answer
  expect_next_mends(serving);
}

TEST_F(FaultyStop, ThatDiesAnywhereIsMendedByTheNext) {
  side_by_side(
      chosen_calls(calls_, changes), make_lab,
      [this](FaultLab& lab, const NotedCall& call, std::uint32_t) { die_after(lab, call); });
}

TEST_F(FaultyStop, InWhichACallFailsIsCleanOrSaysSoAndTheNextDoesTheRest) {
  side_by_side(chosen_calls(calls_), make_lab,
               [this](FaultLab& lab, const NotedCall& call, std::uint32_t number) {
                 fail_at(lab, call, number);
               });
}

// reset lets a connection be over by its peer: its socket may connect again.
void reset(Connection& connection) {
  const linger now{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(connection.b.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  connection.b.reset();
  ASSERT_EQ(socket_error(connection.a.get()), ECONNRESET);
}

// Such a socket is alive with the next connection: pspd has to see it at any step, as long as
// psp_sock_out, the last program to go, is there.
TEST_F(FaultyStop, AbortsAConnectionThatBeginsAnywhereInIt) {
  const auto last = std::ranges::find_if(calls_.rbegin(), calls_.rend(), [](const auto& call) {
    return is(call, "bpf") && call.detail == BPF_PROG_DETACH;
  });
  ASSERT_NE(last, calls_.rend());
  const std::uint64_t end = last->place;
  const auto lab = make_lab();
  Serving serving(*lab, FaultKind::kHaltBeforeEach);
  std::vector<Connection> begun;
  for (const NotedCall& call : calls_) {
    if (call.occurrence != 1 || !changes(call)) continue;
    begun.push_back(lab->secured());
    reset(begun.back());
    if (call.place == end) break;
  }
  serving.daemon.send(SIGTERM);
  const std::size_t mark = lab->lab().cable().mark();
  std::size_t step = 0;
  for (; halted(serving.daemon); serving.daemon.send(SIGCONT)) {
    if (step == begun.size() || !changes(lab->plan().calls(Phase::kStop).back())) continue;
    const int fd = begun[step++].a.get();
    EXPECT_EQ(connect_to(fd, Kind::kIpv4, true), 0);
    EXPECT_EQ(connect_to(fd, Kind::kIpv4, false), EINPROGRESS);
    tally_.count("aborted");
  }
  EXPECT_EQ(step, begun.size());
  EXPECT_EQ(serving.daemon.wait(), 0) << serving.daemon.log();
  for (const Connection& one : begun) EXPECT_EQ(socket_error(one.a.get()), ECONNABORTED);
  for (const Seen& seen : lab->lab().cable().since(mark))
    EXPECT_FALSE(seen.from == From::kA && !seen.psp && seen.segment) << "in clear";
  EXPECT_EQ(lab->state(), lab->before());
}

// try_second starts another one while the first halts. Returns whether it works.
bool FaultyStop::try_second(Serving& serving, std::optional<Pspd>* keep) {
  Pspd second = serving.lab.launch_other();
  if (!second.wait_ready()) {
    EXPECT_EQ(second.wait(), 1);
    EXPECT_NE(second.log().find("eth0 already has a pspd: stop that one first"), std::string::npos)
        << second.log();
    tally_.count("refused");
    return false;
  }
  tally_.count("works");
  const Connection connection = serving.lab.secured();
  if (keep != nullptr)
    keep->emplace(std::move(second));
  else
    serving.lab.works_and_stops(second);
  return true;
}

// From when the first has let go of the netdev, a second one has it: with or without the first's
// last programs, which it leaves alone.
void FaultyStop::halt_and_start_seconds(bool one_stays) {
  const auto lab = make_lab();
  Serving serving(*lab, FaultKind::kHaltBeforeEach);
  Prober prober(lab->lab(), serving.open), inside(lab->lab(), serving.inside);
  serving.daemon.send(SIGTERM);
  bool free = false;
  std::optional<Pspd> second;
  std::optional<Connection> of_second;
  for (; halted(serving.daemon); serving.daemon.send(SIGCONT)) {
    const NotedCall call = lab->plan().calls(Phase::kStop).back();
    SCOPED_TRACE(text(call));
    if (!changes(call)) continue;
    if (second) {
      lab->expect_works(*of_second);
    } else {
      const bool works = try_second(serving, one_stays ? &second : nullptr);
      EXPECT_TRUE(works || !free);
      free = works;
      if (second) of_second = lab->secured();
    }
  }
  EXPECT_EQ(serving.daemon.wait(), 0) << serving.daemon.log();
  EXPECT_TRUE(free);
  serving.expect_over();
  EXPECT_TRUE(gone(serving.programs)) << still(serving.programs) << " programs are left";
  if (!second) return;
  lab->expect_works(*of_second);
  lab->works_and_stops(*second);
}

TEST_F(FaultyStop, KeepsASecondDaemonOutUntilTheNetdevIsFree) { halt_and_start_seconds(false); }

TEST_F(FaultyStop, LeavesASecondDaemonWorkingThatHasBegunInTheMiddle) {
  halt_and_start_seconds(true);
}

}  // namespace
}  // namespace psp::lab
