// SPDX-License-Identifier: Apache-2.0
//
// pspd's start with a fault at each step. A dead pspd has left a secured connection behind, and
// somebody keeps asking it for an answer. Then pspd starts, and one of its calls to the kernel
// fails, or it dies there, or it halts and another one is started. It has to refuse and leave
// nothing of its own, or to work; what it dies of the next one mends; and never does the wire see
// an octet of a secured connection in clear.
//
// A call fails, once or from then on, at each third place where a line of the code calls something
// for the first time; it dies after all of these that change something of the host. With
// PSP_FAULT_ALL=1 all calls are taken for both, which takes an hour.
//
// Threading: see fault_lab.hh.
#include <csignal>
#include <cstring>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <iostream>
#include <linux/bpf.h>
#include <memory>
#include <thread>

#include "fault_lab.hh"

namespace psp::lab {
namespace {

// running_state is what a pspd that has all it needs does to the host, without what is by chance.
std::string running_state(Netns& host) {
  return host.sh(
      "tc qdisc show dev eth0 | sed 's/ [0-9a-f]*: / /'; "
      "for side in ingress egress; do for dev in eth0 psp0; do tc filter show dev $dev $side | "
      "sed 's/:\\[.*//'; done; done; ethtool -k eth0 | grep rx-udp-gro; "
      "ip -o -d link show psp0 | grep -o 'mtu [0-9]*\\|qlen [0-9]*\\|<[^>]*>\\|addrgenmode "
      "[a-z]*'; "
      "cat /proc/sys/net/ipv6/conf/psp0/disable_ipv6");
}

// Normal is a start without a fault.
struct Normal {
  std::string log, state;
  std::size_t descriptors = 0;
  Calls calls;
};

Normal normal_start() {
  FaultLab lab;
  lab.leave_one();
  Pspd daemon = lab.start();
  Normal normal{daemon.log(), running_state(lab.host()), own_descriptors(daemon.pid()),
                lab.plan().calls(Phase::kStart)};
  lab.close_disconnected();
  EXPECT_EQ(daemon.stop(), 0) << daemon.log();
  return normal;
}

class FaultyStart : public testing::Test {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    normal_ = normal_start();
  }
  void TearDown() override { tally_.print(normal_.calls); }

  void fail_at(FaultLab& lab, const NotedCall& call, std::uint32_t number);
  void expect_refused(FaultLab& lab, Pspd& daemon, const std::string& was, bool may_die);
  void expect_started(FaultLab& lab, Pspd& daemon);
  void die_after(FaultLab& lab, const NotedCall& call);

  Normal normal_;
  Tally tally_;
};

void FaultyStart::fail_at(FaultLab& lab, const NotedCall& call, std::uint32_t number) {
  lab.leave_one();
  lab.close_disconnected();
  const int error = error_for(number);
  SCOPED_TRACE(fmt::format("start, {} fails: {}{}", text(call), ::strerrorname_np(error),
                           fault_for(number) == FaultKind::kFailOn ? ", again and again" : ""));
  const std::string was = lab.state();
  Prober prober(lab.lab(), *lab.old());
  lab.plan().set(Phase::kStart, fault_for(number), call, error);
  auto lock = lab.alone();
  Pspd daemon = lab.launch();
  const bool ready = daemon.wait_ready();
  lock.unlock();
  // A thread that cannot come back from a namespace ends the process: see the next test for that.
  if (!ready) return expect_refused(lab, daemon, was, is(call, "setns"));
  if (!lab.plan()->met) tally_.count("not met");
  expect_started(lab, daemon);
}

void FaultyStart::expect_refused(FaultLab& lab, Pspd& daemon, const std::string& was,
                                 bool may_die) {
  const auto programs = lab.plan().programs();
  const int status = daemon.wait();
  const bool died = may_die && status == -1;
  EXPECT_TRUE(status == 1 || died) << status << daemon.log();
  tally_.count(died ? "died" : "refused");
  if (died) return;
  EXPECT_NE(daemon.log().find("pspd: "), std::string::npos) << "it does not say why";
  EXPECT_TRUE(gone(programs)) << still(programs) << " programs are left\n" << daemon.log();
  if (!is_over(lab.old()->a.get())) {
    EXPECT_TRUE(any_exists(lab.left())) << "nothing would block it";
  }
  const std::string now = lab.state();
  EXPECT_TRUE(now == was || (now == lab.before() && gone(lab.left()))) << now << daemon.log();
}

void FaultyStart::expect_started(FaultLab& lab, Pspd& daemon) {
  const auto programs = lab.plan().programs();
  const std::string state = running_state(lab.host());
  const std::size_t descriptors = own_descriptors(daemon.pid());
  const bool same = state == normal_.state && descriptors == normal_.descriptors;
  EXPECT_TRUE(same || daemon.log() != normal_.log)
      << "ready without a word, and is not as ever:\n"
      << state << "\nnormally\n"
      << normal_.state << descriptors << " descriptors, normally " << normal_.descriptors;
  if (!same) std::cout << text(lab.plan()->call) << ": " << daemon.log();
  tally_.count(same ? "healed" : "said so");
  EXPECT_TRUE(is_over(lab.old()->a.get()));
  lab.works_and_stops(daemon);
  EXPECT_TRUE(gone(programs)) << daemon.log();
  EXPECT_TRUE(gone(lab.left())) << still(lab.left()) << " programs of the dead pspd are left\n"
                                << daemon.log();
}

void FaultyStart::die_after(FaultLab& lab, const NotedCall& call) {
  lab.leave_one();
  SCOPED_TRACE(fmt::format("start, it dies after {}", text(call)));
  auto programs = lab.left();
  Prober prober(lab.lab(), *lab.old());
  lab.plan().set(Phase::kStart, FaultKind::kHaltAfter, call);
  {
    const auto lock = lab.alone();
    Pspd daemon = lab.launch();
    ASSERT_TRUE(halted(daemon)) << daemon.log();
    for (const unsigned program : lab.plan().programs()) programs.push_back(program);
    daemon.kill();
  }
  tally_.count("died");
  std::this_thread::sleep_for(5ms);  // what the prober asks now only the dead can answer
  Pspd next = lab.start();
  prober.stop();
  for (const unsigned program : lab.plan().programs()) programs.push_back(program);
  lab.works_and_stops(next);
  EXPECT_TRUE(gone(programs)) << still(programs) << " programs are left\n" << next.log();
  EXPECT_TRUE(is_over(lab.old()->a.get()));
}

std::unique_ptr<FaultLab> make_lab() { return std::make_unique<FaultLab>(); }

TEST_F(FaultyStart, InWhichACallFailsIsRefusedOrWorks) {
  side_by_side(chosen_calls(normal_.calls), make_lab,
               [this](FaultLab& lab, const NotedCall& call, std::uint32_t number) {
                 fail_at(lab, call, number);
               });
}

TEST_F(FaultyStart, ThatDiesAnywhereIsMendedByTheNext) {
  side_by_side(
      chosen_calls(normal_.calls, changes), make_lab,
      [this](FaultLab& lab, const NotedCall& call, std::uint32_t) { die_after(lab, call); });
}

// A lock is a map that is made and then looked for: from when it is made, others are refused. Two
// at once are so, too: the older map is the lock. They are tried before each change.
TEST_F(FaultyStart, KeepsASecondDaemonOutAtEachOfItsSteps) {
  FaultLab lab;
  lab.leave_one();
  Prober prober(lab.lab(), *lab.old());
  lab.plan().set(Phase::kStart, FaultKind::kHaltBeforeEach);
  Pspd daemon = lab.launch();
  unsigned locks = 0;
  for (; halted(daemon) && lab.plan()->now == Phase::kStart; daemon.send(SIGCONT)) {
    const NotedCall call = lab.plan().calls(Phase::kStart).back();
    if (locks == 2 && changes(call)) {
      SCOPED_TRACE(text(call));
      Pspd second = lab.launch_other();
      EXPECT_EQ(second.wait(), 1);
      EXPECT_NE(second.log().find("eth0 already has a pspd: stop that one first"),
                std::string::npos)
          << second.log();
      tally_.count("refused");
    }
    // Those of the epoch and of the netdev come first.
    if (is(call, "bpf") && call.detail == BPF_MAP_CREATE && locks < 2) locks++;
  }
  daemon.send(SIGCONT);
  EXPECT_TRUE(daemon.wait_ready()) << daemon.log();
  prober.stop();
  lab.works_and_stops(daemon);
}

}  // namespace
}  // namespace psp::lab
