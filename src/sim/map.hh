// SPDX-License-Identifier: Apache-2.0
//
// Map: a BPF map of the modelled kernel: hash, array and socket storage, with the kernel's errors.
// Elements stay where they are until they are deleted, as programs hold pointers to them.
//
// A map belongs to nobody: pspd, the programs that it has loaded and a next pspd share it, and it
// goes with the last of them. That is how a dead pspd's sockets stay blocked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace psp::sim {

class Map {
 public:
  using Octets = std::vector<std::uint8_t>;

  // An array has `max_entries` elements of zeros, and no others.
  static std::shared_ptr<Map> hash(std::size_t key_size, std::size_t value_size,
                                   std::size_t max_entries);
  static std::shared_ptr<Map> array(std::size_t value_size, std::size_t max_entries);

  void* lookup(const void* key);
  // update and erase: 0, or -E2BIG, -EEXIST, -ENOENT; abort: a flag that there is not.
  int update(const void* key, const void* value, std::uint64_t flags);
  int erase(const void* key);

  std::size_t size() const { return elements_.size(); }
  std::size_t key_size() const { return key_size_; }
  std::size_t value_size() const { return value_size_; }
  std::size_t max_entries() const { return max_entries_; }
  const std::map<Octets, std::unique_ptr<std::uint8_t[]>>& elements() const { return elements_; }

 private:
  Map(std::size_t key_size, std::size_t value_size, std::size_t max_entries, bool fixed)
      : key_size_(key_size), value_size_(value_size), max_entries_(max_entries), fixed_(fixed) {}
  Octets key_of(const void* key) const;

  std::size_t key_size_, value_size_, max_entries_;
  bool fixed_;
  std::map<Octets, std::unique_ptr<std::uint8_t[]>> elements_;
};

}  // namespace psp::sim
