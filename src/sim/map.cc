// SPDX-License-Identifier: Apache-2.0
//
// By an ordered map, so that what walks over one does so in the same order in each run. A hash
// would order by addresses or by a seed of its own, and the same seed would no longer be the same
// run.
//
// An element that is overwritten stays where it is, and a value that is null is one of zeros, as
// socket storage has it.
#include "map.hh"

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace psp::sim {
namespace {

constexpr std::uint64_t kAny = 0, kNoExist = 1, kExist = 2;  // BPF_ANY ...

}  // namespace

std::shared_ptr<Map> Map::hash(std::size_t key_size, std::size_t value_size,
                               std::size_t max_entries) {
  return std::shared_ptr<Map>(new Map(key_size, value_size, max_entries, false));
}

std::shared_ptr<Map> Map::array(std::size_t value_size, std::size_t max_entries) {
  std::shared_ptr<Map> map(new Map(sizeof(std::uint32_t), value_size, max_entries, true));
  for (std::uint32_t i = 0; i < max_entries; ++i)
    map->elements_[map->key_of(&i)] = std::make_unique<std::uint8_t[]>(value_size);
  return map;
}

Map::Octets Map::key_of(const void* key) const {
  const auto* octets = static_cast<const std::uint8_t*>(key);
  return {octets, octets + key_size_};
}

void* Map::lookup(const void* key) {
  const auto found = elements_.find(key_of(key));
  return found == elements_.end() ? nullptr : found->second.get();
}

int Map::update(const void* key, const void* value, std::uint64_t flags) {
  if (flags != kAny && flags != kNoExist && flags != kExist) std::abort();
  auto* there = static_cast<std::uint8_t*>(lookup(key));
  if (there != nullptr && flags == kNoExist) return -EEXIST;
  if (there == nullptr && flags == kExist) return -ENOENT;
  if (there == nullptr) {
    if (fixed_ || elements_.size() >= max_entries_) return -E2BIG;
    there = (elements_[key_of(key)] = std::make_unique<std::uint8_t[]>(value_size_)).get();
  }
  if (value != nullptr)
    std::memcpy(there, value, value_size_);
  else
    std::memset(there, 0, value_size_);
  return 0;
}

int Map::erase(const void* key) {
  if (fixed_) std::abort();
  return elements_.erase(key_of(key)) != 0 ? 0 : -ENOENT;
}

}  // namespace psp::sim
