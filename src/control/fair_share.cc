// SPDX-License-Identifier: Apache-2.0
//
// Virtual time is the latest stamp that had its turn. A flow's next stamp lies behind its last by
// what the turn took, times the number of the user's flows: so users are equal first, and then
// processes within a user's share. A user's own next stamp, where its new flows begin, lies behind
// by what its turns took, whichever flows had them.
#include "fair_share.hh"

#include <algorithm>
#include <limits>

namespace psp::control {
namespace {

// What a connection is charged for its first work beforehand: a thousand that come at once must not
// have one stamp, or everybody would wait for all of them. About what a small request takes.
constexpr std::chrono::microseconds kNewcomer{50};

// Behind this are those that wait in a queue.
constexpr FairShare::Stamp kBehindAll = std::numeric_limits<FairShare::Stamp>::max() / 2;

// cost is at least one: two turns of a flow never have the same stamp, so none is passed over for
// ever.
FairShare::Stamp cost(std::chrono::nanoseconds spent, std::size_t siblings) {
  return std::max<FairShare::Stamp>(spent.count(), 1) * static_cast<FairShare::Stamp>(siblings);
}

}  // namespace

FairShare::Turn FairShare::enter(uid_t uid, pid_t pid) {
  Turn turn{.place = std::list<Turn*>(1)};
  forget_passed();
  User& user = user_of(uid);
  const auto [entry, fresh] = flows_.try_emplace({uid, pid});
  Flow& flow = entry->second;
  if (fresh) {
    flow.key_ = entry->first;
    flow.user_ = &user;
    // Not before: a new process would have a claim to all the past, or to its user's.
    flow.next_ = std::max(user.next, clock_);
    user.next = flow.next_ + cost(kNewcomer, 1);
    if (user.flows++ == 0) user.place.splice(user.place.end(), quiet_, user.self);
  }
  flow.references_++;
  turn.flow = &flow;
  turn.stamp = std::max({flow.next_, flow.newcomer_, clock_});
  flow.newcomer_ = turn.stamp + cost(kNewcomer, user.flows);
  return turn;
}

// user_of: a user that is new is quiet, and so forgotten again, until it has a flow.
FairShare::User& FairShare::user_of(uid_t uid) {
  if (const auto found = users_.find(uid); found != users_.end()) return found->second;
  std::list<User*> place(1);
  User& user = users_[uid];
  user.uid = uid;
  user.next = clock_;
  user.self = place.begin();
  *user.self = &user;
  quiet_.splice(quiet_.end(), place);
  return user;
}

void FairShare::leave(Flow& flow) {
  if (--flow.references_ != 0) return;
  User& user = *flow.user_;
  if (--user.flows == 0) quiet_.splice(quiet_.end(), user.place);
  flows_.erase(flows_.find(flow.key_));
  forget_passed();
}

// forget_passed forgets users that have nothing here and whose turn it would be at once; and if
// there are too many others, those that have been quiet longest.
void FairShare::forget_passed() {
  while (!quiet_.empty() && (quiet_.size() > kQuietMax || quiet_.front()->next <= clock_))
    users_.erase(users_.find(quiet_.front()->uid)), quiet_.pop_front();
}

bool FairShare::is_next(Turn& turn) {
  Flow& flow = *turn.flow;
  if (flow.queue_.empty() && turn.stamp >= flow.next_) return true;
  const bool first = turn.queued && flow.queue_.front() == &turn;
  if (turn.queued && (!first || turn.stamp >= flow.next_)) {
    withdraw(turn);  // behind all stamps it has its turn if nobody with a stamp wants one
    return true;
  }
  if (!turn.queued) {
    turn.place.front() = &turn;
    turn.self = turn.place.begin();
    turn.queued = true;
    flow.queue_.splice(flow.queue_.end(), turn.place);
    stamp(turn, kBehindAll + ++queued_);
  }
  call_first(flow);
  return false;
}

void FairShare::begin(const Turn& turn) { clock_ = std::max(clock_, turn.stamp); }

void FairShare::charge(Turn& turn, std::chrono::nanoseconds spent) {
  Flow& flow = *turn.flow;
  User& user = *flow.user_;
  user.next = std::max(user.next, clock_) + cost(spent, 1);
  flow.next_ = std::max(flow.next_, clock_) + cost(spent, user.flows);
  // Newcomers and who waits already come before it.
  stamp(turn, std::max(flow.next_ + (flow.queue_.empty() ? 0 : 1), flow.newcomer_));
  call_first(flow);
}

void FairShare::withdraw(Turn& turn) {
  if (!std::exchange(turn.queued, false)) return;
  turn.place.splice(turn.place.end(), turn.flow->queue_, turn.self);
  stamp(turn, turn.flow->next_);
  call_first(*turn.flow);
}

void FairShare::stamp(Turn& turn, Stamp stamp) {
  turn.stamp = stamp;
  if (turn.on_stamp) turn.on_stamp(stamp);
}

// call_first: who is first in the queue has the flow's stamp.
void FairShare::call_first(Flow& flow) {
  if (!flow.queue_.empty() && flow.queue_.front()->stamp != flow.next_)
    stamp(*flow.queue_.front(), flow.next_);
}

}  // namespace psp::control
