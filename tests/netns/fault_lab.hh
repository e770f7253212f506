// SPDX-License-Identifier: Apache-2.0
//
// FaultLab: a lab in which pspd of host A meets a fault, once at each place of the code (see
// fail_call.hh), and what has to be so afterwards. Labs stand side by side: most of a case is
// waiting. What they share of the host is the root of the cgroup tree, where each pspd has its
// programs, and the lock of who takes over what a dead pspd left: so pspds start one after another.
//
// Threading: a lab belongs to one thread; Prober has one of its own.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <gtest/gtest.h>
#include <initializer_list>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "container.hh"
#include "fault_plan.hh"
#include "lab.hh"

namespace psp::lab {

// secret is what secured connections say; no piece of it is ever in clear on the wire.
const Octets& secret();

std::string text(const NotedCall& call);
bool is(const NotedCall& call, const char* name);
// changes: a call that may have changed something outside of pspd. What it only asks or makes for
// itself goes with it.
bool changes(const NotedCall& call);
// Of a test's cases each has another errno, and of those the fault comes once or stays.
int error_for(std::uint32_t number);
FaultKind fault_for(std::uint32_t number);

// chosen_calls are those for which `wanted` holds, if there are few in all. Of many, those in which
// a line of the code, however it was called, calls something for the first time; of all there are,
// each third of these, for a case takes half a second, and those whose results were once ignored.
// With PSP_FAULT_ALL=1: all.
using Calls = std::vector<NotedCall>;
Calls chosen_calls(const Calls& calls, bool (*wanted)(const NotedCall&) = nullptr);

// said_besides is what a log says from a place on, without the lines that hold one of these.
std::string said_besides(std::string_view log, std::size_t from,
                         std::initializer_list<std::string_view> usual);

// is_over: was the connection aborted? (Its error goes to whoever sends next.)
bool is_over(int fd);
// own_descriptors counts those of a process but for BTF, which libbpf does without.
std::size_t own_descriptors(pid_t pid);
std::size_t still(const std::vector<unsigned>& programs);
// gone: programs go with an RCU grace period.
bool gone(const std::vector<unsigned>& programs);
// halted waits until it halts: false if it ended, or goes on for 20 s.
bool halted(const Pspd& daemon);
// ended: it is no more, or will not be before the time is up.
bool ended(const Pspd& daemon, std::chrono::milliseconds patience = {});

// Prober asks a secured socket of A for answers, all the time: by segments in clear from its peer's
// side and by what its application sends.
class Prober {
 public:
  Prober(Lab& lab, const Connection& connection, unsigned link = 0);
  ~Prober() { stop(); }
  Prober(const Prober&) = delete;
  Prober& operator=(const Prober&) = delete;

  // stop checks what was on the wire.
  void stop();

 private:
  std::uint32_t ack() const { return connection_.flow.a_isn + 1; }
  void run();

  Cable& cable_;
  const Connection& connection_;
  std::size_t mark_;
  std::atomic<bool> over_{false};
  std::thread thread_;
};

class FaultLab {
 public:
  enum class With { kNothing, kContainer };
  explicit FaultLab(With with = With::kNothing, unsigned links = 1);
  ~FaultLab();  // what a dead pspd left goes
  FaultLab(const FaultLab&) = delete;
  FaultLab& operator=(const FaultLab&) = delete;

  Lab& lab() { return lab_; }
  Plan& plan() { return plan_; }
  Netns& host() { return lab_.ns(From::kA); }
  Container& container() { return *container_; }

  // state is what pspd changes of A's namespaces; before is as it was without one.
  std::string state();
  const std::string& before() const { return before_; }

  // launch starts a pspd under the plan; while somebody holds alone(), no other is started.
  Pspd launch();
  static std::unique_lock<std::mutex> alone();
  // start starts one that gets ready, launch_other one that knows no plan.
  Pspd start(Phase phase = Phase::kStart, FaultKind fault = FaultKind::kNone,
             const NotedCall& call = {}, int error = 0);
  Pspd launch_other() { return Pspd(host(), arguments_); }
  void set_arguments(std::vector<std::string> arguments) { arguments_ = std::move(arguments); }

  // secured is a connection that works, of A or of its container.
  Connection secured(unsigned link = 0);
  Connection secured_inside();
  void expect_works(const Connection& connection, unsigned link = 0);
  // works_and_stops: it serves, and its stop puts the host back.
  void works_and_stops(Pspd& daemon);

  // old is the secured connection of a dead pspd, which leave_one makes if there is none, and left
  // are its programs. Another socket of its is in no listing of the kernel until the next pspd is
  // seen to work.
  void leave_one();
  void close_disconnected() { disconnected_.reset(); }
  std::optional<Connection>& old() { return old_; }
  const std::vector<unsigned>& left() const { return left_; }

 private:
  Lab lab_;
  std::optional<Container> container_;
  Plan plan_;
  // Room for few connections takes the kernel less time to make.
  std::vector<std::string> arguments_ = {"--dev", "eth0", "--enable", "all", "--max-connections",
                                         "1024"};
  std::string before_;
  std::optional<Connection> old_, disconnected_;
  std::vector<unsigned> left_;
};

// Tally is what became of the cases of a test.
class Tally {
 public:
  void count(const std::string& outcome);
  // print says it, of how many calls these were. A fault that was never met shows nothing: most
  // are.
  void print(const Calls& all) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, unsigned> outcomes_;
  unsigned tried_ = 0;
};

// side_by_side does the cases in labs that `make` makes, each case in one of them:
// `one(lab, case, its number)`.
template <typename Make, typename One>
void side_by_side(const Calls& cases, Make make, One one) {
  constexpr std::size_t kLabs = 3;
  std::atomic<std::uint32_t> next{0};
  const auto work = [&] {
    try {
      const auto lab = make();
      for (std::uint32_t number; (number = next++) < cases.size();)
        one(*lab, cases[number], number);
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
    }
  };
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < std::min(kLabs, cases.size()); i++) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace psp::lab
