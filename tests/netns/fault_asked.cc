// SPDX-License-Identifier: Apache-2.0
//
// One pspd serves for all cases in which a call fails: what a case leaves that it should not, the
// next ones and the stop would see as well, but each looks for itself. Of one that dies the next
// one serves for the next case.
//
// Threading: see fault_asked.hh.
#include "fault_asked.hh"

#include <cstring>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <thread>

namespace psp::lab {

Asked::~Asked() {
  if (!daemon_) return;
  EXPECT_EQ(daemon_->stop(), 0) << daemon_->log();
  EXPECT_TRUE(is_over(open_->a.get()));
  EXPECT_TRUE(eventually([&] { return lab_.state() == lab_.before(); })) << lab_.state();
}

void Asked::start() {
  daemon_.emplace(lab_.start());
  warm();
  open_.emplace(lab_.secured());
}

// calls are those of a request without a fault.
Calls Asked::calls() {
  start();
  prepare();
  lab_.plan().arm(Phase::kAsked);
  EXPECT_EQ(ask(), std::nullopt) << daemon_->log();
  const Calls all = lab_.plan().calls(Phase::kAsked);
  EXPECT_FALSE(all.empty());
  expect_done();
  return all;
}

void Asked::fail_at(const NotedCall& call, std::uint32_t number, Tally& tally) {
  const bool fresh = !daemon_;
  if (fresh) start();
  prepare();
  // What was loaded since the case before; a fresh one's are of all devices.
  if (const auto loaded = lab_.plan().programs(); !fresh && !loaded.empty()) prepared_ = loaded;
  const int error = error_for(number);
  SCOPED_TRACE(fmt::format("asked, {} fails: {}{}", text(call), ::strerrorname_np(error),
                           fault_for(number) == FaultKind::kFailOn ? ", again and again" : ""));
  const std::string was = lab_.state();
  const std::size_t said = daemon_->log().size();
  lab_.plan().arm(Phase::kAsked, fault_for(number), call, error);
  const auto refused = ask();
  auto programs = lab_.plan().programs();
  // A thread that cannot come back from a namespace ends the process.
  const bool may_die = is(call, "setns");
  if (ended(*daemon_, may_die && refused ? 200ms : 0ms)) {
    EXPECT_TRUE(may_die) << daemon_->log();
    tally.count("died");
    programs.insert(programs.end(), prepared_.begin(), prepared_.end());
    start_next();
    return expect_next_mends(programs);
  }
  tally.count(!lab_.plan()->met ? "not met" : refused ? "refused" : "done");
  lab_.plan().arm(Phase::kAsked);
  lab_.expect_works(*open_);
  if (!refused) {
    if (takes_away()) {
      EXPECT_TRUE(gone(prepared_)) << daemon_->log().substr(said);
    }
    prepared_.clear();
    return expect_done();
  }
  EXPECT_FALSE(refused->empty()) << "no word why";
  EXPECT_TRUE(gone(programs)) << still(programs) << " programs are left\n"
                              << daemon_->log().substr(said);
  if (takes_away()) {
    EXPECT_EQ(still(prepared_), prepared_.size()) << daemon_->log().substr(said);
  }
  expect_untouched(was, said);
  expect_refused();
}

void Asked::expect_untouched(const std::string& was, std::size_t said) {
  EXPECT_TRUE(eventually([&] { return lab_.state() == was; }))
      << lab_.state() << "before\n"
      << was << daemon_->log().substr(said);
  const auto now = [&] { return own_descriptors(daemon_->pid()); };
  // It may not have seen yet that a client has gone.
  EXPECT_TRUE(!descriptors_ || eventually([&] { return now() == *descriptors_; }))
      << now() << " descriptors, before " << *descriptors_ << daemon_->log().substr(said);
  descriptors_ = now();
}

void Asked::die_after(const NotedCall& call, Tally& tally) {
  if (!daemon_) start();
  prepare();
  SCOPED_TRACE(fmt::format("asked, it dies after {}", text(call)));
  auto programs = lab_.plan().programs();
  died_after_ = call;
  lab_.plan().arm(Phase::kAsked, FaultKind::kHaltAfter, call);
  {
    Prober prober(lab_.lab(), *open_);
    std::thread asking([this] { (void)ask(); });
    EXPECT_TRUE(halted(*daemon_)) << daemon_->log();
    for (const unsigned program : lab_.plan().programs()) programs.push_back(program);
    daemon_->kill();
    asking.join();
    tally.count("died");
    start_next();
  }
  expect_next_mends(programs);
}

void Asked::start_next() {
  descriptors_.reset();
  before_next();
  daemon_.reset();
  daemon_.emplace(lab_.start());
  warm();
  lab_.plan().arm(Phase::kAsked);  // what it has loaded so far is of nothing prepared
}

void Asked::expect_next_mends(const std::vector<unsigned>& programs) {
  prepared_.clear();
  EXPECT_TRUE(is_over(open_->a.get()));
  EXPECT_TRUE(gone(programs)) << still(programs) << " programs are left\n" << daemon_->log();
  expect_mended();
  open_.emplace(lab_.secured());
}

}  // namespace psp::lab
