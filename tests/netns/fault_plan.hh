// SPDX-License-Identifier: Apache-2.0
//
// Plan: the FaultPlan of a test (see fail_call.hh), in memory that pspd can map, and the
// environment that makes a pspd keep to it.
//
// Threading: the test's thread.
#pragma once

#include <cstdlib>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <memory>
#include <stdexcept>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "base/unique_fd.hh"

#include "fail_call.hh"

namespace psp::lab {

// Plan is the FaultPlan in memory that pspd can map.
class Plan {
 public:
  Plan() : fd_(::memfd_create("plan", MFD_CLOEXEC)) {
    if (::ftruncate(fd_.get(), sizeof(FaultPlan)) != 0) throw std::runtime_error("ftruncate");
    void* memory =
        ::mmap(nullptr, sizeof(FaultPlan), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    if (memory == MAP_FAILED) throw std::runtime_error("mmap");
    plan_ = std::construct_at(static_cast<FaultPlan*>(memory));
  }
  ~Plan() { ::munmap(plan_, sizeof(FaultPlan)); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  FaultPlan& operator*() const { return *plan_; }
  FaultPlan* operator->() const { return plan_; }
  // set is for a pspd that is started next, arm for one that serves.
  void set(Phase phase = Phase::kStart, FaultKind fault = FaultKind::kNone,
           const NotedCall& call = {}, int error = 0) {
    std::destroy_at(plan_);
    std::construct_at(plan_);
    arm(phase, fault, call, error);
  }
  void arm(Phase phase, FaultKind fault = FaultKind::kNone, const NotedCall& call = {},
           int error = 0) {
    plan_->fault = FaultKind::kNone;
    plan_->program_count = plan_->at_place = 0;
    plan_->count[static_cast<std::size_t>(phase)] = 0;
    plan_->met = false;
    plan_->phase = phase;
    plan_->call = call;
    plan_->error = error;
    plan_->fault = fault;
  }
  std::vector<std::string> environment() const {
    return {"LD_PRELOAD=" PSP_FAIL_CALL_PATH, "PSP_TEST_FAULT=" + path()};
  }
  std::string path() const { return fmt::format("/proc/{}/fd/{}", ::getpid(), fd_.get()); }
  std::vector<unsigned> programs() const {
    return {plan_->programs.begin(), plan_->programs.begin() + plan_->program_count};
  }
  std::vector<NotedCall> calls(Phase phase) const {
    const auto at = static_cast<std::size_t>(phase);
    EXPECT_LE(plan_->count[at], FaultPlan::kMostCalls);
    return {plan_->calls[at].begin(), plan_->calls[at].begin() + plan_->count[at]};
  }

 private:
  UniqueFd fd_;
  FaultPlan* plan_;
};

// UnderPlan: what is started while it lives keeps to the plan.
class UnderPlan {
 public:
  explicit UnderPlan(const Plan& plan) {
    ::setenv("LD_PRELOAD", PSP_FAIL_CALL_PATH, 1);
    ::setenv("PSP_TEST_FAULT", plan.path().c_str(), 1);
  }
  ~UnderPlan() {
    ::unsetenv("LD_PRELOAD");
    ::unsetenv("PSP_TEST_FAULT");
  }
  UnderPlan(const UnderPlan&) = delete;
  UnderPlan& operator=(const UnderPlan&) = delete;
};

}  // namespace psp::lab
