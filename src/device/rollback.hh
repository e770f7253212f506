// SPDX-License-Identifier: Apache-2.0
//
// What a request has done so far, undone at the end of the scope unless it is committed. A request
// takes all its places first and then does what cannot be taken back, so that it is done or has
// left nothing, also where memory ran out in between. Private to the device layer.
#pragma once

#include <cstdint>
#include <utility>

#include "device/driver.hh"

namespace psp::device {

// uncount takes one of `key` away. True: it was the last.
template <typename Map>
bool uncount(Map& counts, typename Map::key_type key) {
  const auto found = counts.find(key);
  if (--found->second != 0) return false;
  counts.erase(found);
  return true;
}

// Counted is one more of `key`, until its end if it is not committed.
template <typename Map>
class Counted {
 public:
  Counted(Map& counts, typename Map::key_type key) : counts_(&counts), key_(key) { ++counts[key]; }
  ~Counted() {
    if (counts_ != nullptr) uncount(*counts_, key_);
  }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  void commit() { counts_ = nullptr; }

 private:
  Map* counts_;
  typename Map::key_type key_;
};

// Inserted is a new element of a map, until its end if it is not committed.
template <typename Map>
class Inserted {
 public:
  Inserted(Map& map, typename Map::key_type key, typename Map::mapped_type value)
      : map_(&map), position_(map.emplace(key, std::move(value)).first) {}
  ~Inserted() {
    if (map_ != nullptr) map_->erase(position_);
  }
  Inserted(const Inserted&) = delete;
  Inserted& operator=(const Inserted&) = delete;
  void commit() { map_ = nullptr; }

 private:
  Map* map_;
  typename Map::iterator position_;
};

// TxKeyOf is a driver's Tx key, until its end if it is not committed.
class TxKeyOf {
 public:
  TxKeyOf(Driver& driver, std::uint64_t netns, std::uint32_t handle)
      : driver_(&driver), netns_(netns), handle_(handle) {}
  ~TxKeyOf() {
    if (driver_ != nullptr) driver_->tx_key_del(netns_, handle_);
  }
  TxKeyOf(const TxKeyOf&) = delete;
  TxKeyOf& operator=(const TxKeyOf&) = delete;
  void commit() { driver_ = nullptr; }

 private:
  Driver* driver_;
  std::uint64_t netns_;
  std::uint32_t handle_;
};

}  // namespace psp::device
