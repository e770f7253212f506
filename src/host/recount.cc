// SPDX-License-Identifier: Apache-2.0
//
// What is looked up was open before the first list was begun: a socket that is secured later may be
// in none of them, and is there.
//
// A socket that a list leaves out is looked up in the next ones, and only what kLists in a row do
// not have is told to Departures, which asks once more whether the application has closed it. If a
// list fails, all of it is for another time: nothing is forgotten, and nobody ended by mistake.
#include "recount.hh"

#include <algorithm>
#include <new>

namespace psp::host {

void Recount::gone(std::uint64_t cookie, Departures::TimePoint now) noexcept {
  try {
    departures_.depart(cookie, now);
  } catch (const std::bad_alloc&) {
    missed_ = true;
  }
}

void Recount::begin() {
  if (!missed_ || list_) return;
  left_ = departures_.open();
  unlisted_.clear();
  lists_before_ = 0;
  list_ = lists_.ask();
  missed_ = false;
}

bool Recount::turn(Departures::TimePoint now) {
  using State = SocketLists::List::State;
  if (!list_) return false;
  if (list_->state == State::kWanted) return true;
  if (list_->state != State::kMade) {
    missed_ = true;  // another time
    list_.reset();
    return false;
  }
  for (std::size_t i = 0; i < kAtOnce && !left_.empty(); i++) {
    look_at(left_.back(), now);
    left_.pop_back();
  }
  if (!left_.empty()) return true;
  if (unlisted_.empty()) {
    list_.reset();
    return false;
  }
  list_ = lists_.ask();
  left_.swap(unlisted_);
  lists_before_++;
  return true;
}

void Recount::look_at(std::uint64_t cookie, Departures::TimePoint now) {
  if (std::ranges::binary_search(list_->found.cookies, cookie)) return;
  if (lists_before_ + 1 < kLists)
    unlisted_.push_back(cookie);
  else if (!departures_.depart_unheard(cookie, now))
    missed_ = true;  // another time
}

}  // namespace psp::host
