// SPDX-License-Identifier: Apache-2.0
//
// Whether an IV was used twice under one key. A sender's IVs grow, so what has been seen is a
// sorted row to which most are appended; the few that come late are kept beside it. Memory is
// limited: over the limit the older half is forgotten, and what then falls into it cannot be
// judged.
#pragma once

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace psp::pcap_tool {

class IvTracker {
 public:
  // Budget is how many IVs all trackers together may remember.
  struct Budget {
    std::size_t left = std::size_t{16} << 20;  // 256 MiB
  };
  enum class Verdict : std::uint8_t {
    kIncreasing,  // larger than all before
    kLate,        // smaller, but new: the network changed the order
    kDuplicate,   // the same packet again
    kReused,      // another packet with an IV that was used: this breaks GCM
    kUnknown,     // too far back to tell
  };

  // add notes a packet; `tag` stands for its content (the ICV).
  Verdict add(std::uint64_t iv, std::uint64_t tag, Budget& budget) {
    if (budget.left == 0) forget(budget);
    if (row_.empty() ? !any_ : iv > row_.back().first) {
      any_ = true;
      remember(budget, [&] { row_.emplace_back(iv, tag); });
      return Verdict::kIncreasing;
    }
    const auto at = std::lower_bound(row_.begin(), row_.end(), std::pair{iv, std::uint64_t{0}});
    if (at != row_.end() && at->first == iv)
      return at->second == tag ? Verdict::kDuplicate : Verdict::kReused;
    if (const auto late = late_.find(iv); late != late_.end())
      return late->second == tag ? Verdict::kDuplicate : Verdict::kReused;
    if (iv < forgotten_below_ || row_.empty()) return Verdict::kUnknown;
    remember(budget, [&] { late_.emplace(iv, tag); });
    return Verdict::kLate;
  }

 private:
  template <typename Store>
  void remember(Budget& budget, Store store) {
    if (budget.left == 0) return;
    store();
    --budget.left;
  }
  void forget(Budget& budget) {
    const auto half = static_cast<std::ptrdiff_t>(row_.size() / 2);
    if (half == 0) return;
    forgotten_below_ = row_[static_cast<std::size_t>(half)].first;
    row_.erase(row_.begin(), row_.begin() + half);
    const auto gone =
        std::erase_if(late_, [this](const auto& late) { return late.first < forgotten_below_; });
    budget.left += static_cast<std::size_t>(half) + gone;
  }

  std::vector<std::pair<std::uint64_t, std::uint64_t>> row_;  // IV, tag
  std::unordered_map<std::uint64_t, std::uint64_t> late_;
  std::uint64_t forgotten_below_ = 0;
  bool any_ = false;
};

}  // namespace psp::pcap_tool
