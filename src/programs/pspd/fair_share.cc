// SPDX-License-Identifier: Apache-2.0
#include "fair_share.hh"

#include <algorithm>

namespace psp {
namespace {

// What a connection is charged for its first work beforehand: a thousand that come at once must not
// have one stamp, or everybody would wait for all of them. About what a small request takes.
constexpr std::chrono::microseconds kNewcomer{50};

}  // namespace

FairShare::Place FairShare::enter(uid_t uid, pid_t pid) {
  std::size_t& siblings =
      flows_of_[uid];  // first: a flow without would be none, should memory run out
  const auto [entry, fresh] = flows_.try_emplace({uid, pid});
  Flow& flow = entry->second;
  if (fresh) {
    flow.key_ = entry->first;
    flow.next_ = clock_;  // not before: a new process would have a claim to all the past
    flow.siblings_ = &siblings;
    ++siblings;
  }
  flow.users_++;
  const Stamp stamp = std::max(flow.next_, clock_);
  charge(flow, kNewcomer);
  return {&flow, stamp};
}

void FairShare::leave(Flow& flow) {
  if (--flow.users_ != 0) return;
  const auto key = flow.key_;
  if (--*flow.siblings_ == 0) flows_of_.erase(key.first);
  flows_.erase(key);
}

void FairShare::begin(Stamp stamp) { clock_ = std::max(clock_, stamp); }

FairShare::Stamp FairShare::charge(Flow& flow, std::chrono::nanoseconds spent) {
  // At least one: two turns of a flow never have the same stamp, so none is passed over for ever.
  const auto cost = std::max<Stamp>(spent.count(), 1) * static_cast<Stamp>(*flow.siblings_);
  flow.next_ = std::max(flow.next_, clock_) + cost;
  return flow.next_;
}

}  // namespace psp
