// SPDX-License-Identifier: Apache-2.0
//
// One list is being made, one is wanted; those before live for as long as they are read. Who lets
// go of the one that is wanted has changed his mind: where nobody else has it, it is not made.
//
// Who asks all the time has the credit once (DutyCycle). Lists that are read slowly hold memory:
// above kSocketsMax the oldest are emptied, and their readers told.
#include "socket_lists.hh"

#include <algorithm>

namespace psp::host {

std::shared_ptr<const SocketLists::List> SocketLists::ask() {
  if (!next_) {
    next_ = std::make_shared<List>();
    wanted_();
  }
  return next_;
}

bool SocketLists::turn(TimePoint now) {
  if (making_) {
    auto result = walk_.result();
    if (!result) return true;
    making_time_.ran(begun_, result->took);
    making_->state = result->found ? List::State::kMade : List::State::kFailed;
    if (result->found) making_->found = std::move(*result->found);
    making_.reset();
    make_room();
  }
  if (next_ && next_.use_count() == 1) next_.reset();
  if (next_ && making_time_.due(now)) begin(now);
  return next_ || making_;
}

void SocketLists::begin(TimePoint now) {
  read_.push_back(next_);
  walk_.begin();
  begun_ = now;
  making_ = std::move(next_);
}

// make_room: the oldest are dropped first, whoever reads them so slowly.
void SocketLists::make_room() {
  std::erase_if(read_, [](const auto& list) { return list.expired(); });
  std::size_t sockets = 0;
  for (const auto& list : read_) sockets += list.lock()->found.sockets.size();
  while (sockets > kSocketsMax && read_.size() > 1) {
    const std::shared_ptr<List> oldest = read_.front().lock();
    sockets -= oldest->found.sockets.size();
    oldest->state = List::State::kDropped;
    oldest->found = Found();
    read_.pop_front();
  }
}

}  // namespace psp::host
