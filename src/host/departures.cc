// SPDX-License-Identifier: Apache-2.0
//
// All wait equally long, so the queue is in the order of its ends. What was inherited has no event:
// the kernel is asked for some of them at a time, in turn.
//
// What the kernel does not drop is tried again with those that were inherited. An association that
// waits is marked as ended, so that an end which is heard late, or found by a recount, does not
// begin its time anew. What ends with its namespace comes first.
//
// What takes memory comes before what it is for: where there is none, nothing has happened yet, and
// the next look finds it again.
#include "departures.hh"

#include <algorithm>
#include <vector>

namespace psp::host {

void Departures::depart(std::uint64_t cookie, TimePoint now) {
  const device::Association* association = core_.associations().find(cookie);
  if (association == nullptr) return;
  if (!association->tx_spi) return forget(cookie);  // a tx-assoc that failed may have left a note
  departed_.push_back({now + kTimeWait, cookie});
  core_.end(cookie);
}

std::vector<std::uint64_t> Departures::open() const {
  std::vector<std::uint64_t> cookies;
  cookies.reserve(core_.associations().size());
  core_.associations().for_each([&](const device::Association& association) {
    if (!association.ended) cookies.push_back(association.cookie);
  });
  return cookies;
}

bool Departures::depart_unheard(std::uint64_t cookie, TimePoint now) {
  const device::Association* association = core_.associations().find(cookie);
  if (association == nullptr || association->ended) return true;
  const std::optional<bool> released = sockets_.is_released(cookie);
  if (released.value_or(false)) depart(cookie, now);
  return released.has_value();
}

void Departures::release_all(std::uint64_t netns, TimePoint now) {
  std::vector<std::uint64_t> ended;
  core_.associations().for_each([&](const device::Association& association) {
    if (association.netdev.netns == netns) ended.push_back(association.cookie);
  });
  for (const std::uint64_t cookie : ended) {
    departed_.push_front({now, cookie});
    core_.release(cookie);
  }
}

void Departures::look_again() { to_look_at_ = std::min(inherited_.size(), kInheritedAtALook); }

bool Departures::expire(TimePoint now) {
  std::size_t left = kAtOnce;
  for (; left > 0 && due(now); left--) {
    forget(departed_.front().cookie);
    departed_.pop_front();
  }
  for (; left > 0 && to_look_at_ > 0; left--, to_look_at_--) look_at_inherited();
  return due(now) || to_look_at_ > 0;
}

// look_at_inherited: one that has new keys of ours departs as all do.
void Departures::look_at_inherited() {
  const std::uint64_t cookie = inherited_.front();
  inherited_.push_back(cookie);
  inherited_.pop_front();
  if (core_.associations().find(cookie) != nullptr) return inherited_.pop_back();
  if (sockets_.is_released(cookie).value_or(false) && sockets_.forget(cookie))
    inherited_.pop_back();
}

void Departures::forget(std::uint64_t cookie) {
  inherited_.push_back(cookie);  // again, later, if something stays
  core_.release(cookie);
  if (sockets_.forget(cookie)) inherited_.pop_back();
}

}  // namespace psp::host
