// SPDX-License-Identifier: Apache-2.0
//
// A state as octets: a head, then the structs as they are, list behind list, each list at a
// multiple of eight octets. What is read was written by this version on this machine, or is
// refused.
//
// Threading: see snapshot.hh.
#include <cstring>
#include <type_traits>

#include "device/snapshot.hh"

namespace psp::device {
namespace {

struct Head {
  std::array<char, 8> magic{'P', 'S', 'P', 's', 't', 'a', 't', 'e'};
  std::uint16_t version = kSavedVersion;
  std::uint16_t size_of_head = 0;
  std::uint32_t devices = 0;
  std::uint64_t size = 0;      // of all
  std::uint64_t checksum = 0;  // of all, this being 0
  std::uint64_t next_iv = 0;
  std::uint64_t records = 0, netdevs = 0, associations = 0;
  SavedRegistry registry;
};

// DeviceHead stands in front of each device.
struct DeviceHead {
  std::uint64_t drivers = 0, slots = 0, free = 0;
  SavedDevice device;
};
static_assert(kArePlain<Head, DeviceHead>);

// Checksum is FNV-1a of 64 bits: each octet changes all that comes, so that a single one that is
// not what it was shows for sure.
class Checksum {
 public:
  void add(std::span<const std::uint8_t> octets) {
    for (const std::uint8_t octet : octets) value_ = (value_ ^ octet) * 0x100'0000'01b3u;
  }
  std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xcbf2'9ce4'8422'2325u;
};

template <typename T>
std::span<const std::uint8_t> octets_of(const T& value) {
  return {reinterpret_cast<const std::uint8_t*>(&value), sizeof value};
}

std::uint64_t checksum_of(Head head, std::span<const std::uint8_t> rest) {
  head.checksum = 0;
  Checksum checksum;
  checksum.add(octets_of(head));
  checksum.add(rest);
  return checksum.value();
}

std::size_t padded(std::size_t size) { return (size + 7) / 8 * 8; }

class Output {
 public:
  explicit Output(std::size_t size) { octets_.reserve(size); }
  template <typename T>
  void put(const T& value) {
    const auto octets = octets_of(value);
    octets_.insert(octets_.end(), octets.begin(), octets.end());
  }
  template <typename List>
  void put_all(const List& list) {
    for (const auto& one : list) put(one);
    octets_.resize(padded(octets_.size()));
  }
  crypto::WipedVector& octets() { return octets_; }

 private:
  crypto::WipedVector octets_;
};

// Input takes values from the front. Once there are too few it has failed.
class Input {
 public:
  explicit Input(std::span<const std::uint8_t> octets) : left_(octets) {}
  template <typename T>
  void get(T& value) {
    if (left_.size() < sizeof value) {
      failed_ = true;
      return;
    }
    std::memcpy(&value, left_.data(), sizeof value);
    left_ = left_.subspan(sizeof value);
  }
  template <typename List>
  void get_all(List& list, std::uint64_t count) {
    using T = typename List::value_type;
    if (failed_ || count > left_.size() / sizeof(T) || padded(count * sizeof(T)) > left_.size()) {
      failed_ = true;
      return;
    }
    list.resize(count);
    if (count != 0) std::memcpy(list.data(), left_.data(), count * sizeof(T));
    left_ = left_.subspan(padded(count * sizeof(T)));
  }
  bool failed() const { return failed_; }
  bool at_end() const { return !failed_ && left_.empty(); }
  std::span<const std::uint8_t> left() const { return left_; }

 private:
  std::span<const std::uint8_t> left_;
  bool failed_ = false;
};

template <typename List>
std::size_t size_of(const List& list) {
  return padded(list.size() * sizeof(typename List::value_type));
}

std::size_t size_of(const HostState& state) {
  std::size_t size = sizeof(Head) + size_of(state.core.records) + size_of(state.core.netdevs) +
                     size_of(state.core.associations);
  for (const DeviceState& device : state.devices)
    size +=
        sizeof(DeviceHead) + size_of(device.drivers) + size_of(device.slots) + size_of(device.free);
  return size;
}

std::expected<Head, std::string> read_head(std::span<const std::uint8_t> octets) {
  const Head ours;
  Head head;
  Input input(octets);
  input.get(head);
  if (input.failed() || head.magic != ours.magic) return std::unexpected("no state of a device");
  if (head.version != kSavedVersion || head.size_of_head != sizeof(Head))
    return std::unexpected("a state of another version: " + std::to_string(head.version));
  if (head.size != octets.size()) return std::unexpected("a state of another size than it says");
  if (head.checksum != checksum_of(head, input.left()))
    return std::unexpected("a state that was changed");
  return head;
}

void get_device(Input& input, DeviceState& device) {
  DeviceHead head;
  input.get(head);
  device.device = head.device;
  input.get_all(device.drivers, head.drivers);
  input.get_all(device.slots, head.slots);
  input.get_all(device.free, head.free);
}

std::string problem_of(const HostState& state) {
  if (auto problem = device::problem_of(state.core); !problem.empty()) return problem;
  std::size_t registered = 0;
  for (const SavedRecord& record : state.core.records) registered += record.registered;
  if (registered != state.devices.size()) return "a device without its keys";
  for (const DeviceState& device : state.devices)
    if (auto problem = device::problem_of(device); !problem.empty()) return problem;
  return {};
}

}  // namespace

crypto::WipedVector write(const HostState& state) {
  Head head;
  head.size_of_head = sizeof head;
  head.devices = static_cast<std::uint32_t>(state.devices.size());
  head.size = size_of(state);
  head.next_iv = state.next_iv;
  head.records = state.core.records.size();
  head.netdevs = state.core.netdevs.size();
  head.associations = state.core.associations.size();
  head.registry = state.core.registry;
  Output output(head.size);
  output.put(head);
  output.put_all(state.core.records);
  output.put_all(state.core.netdevs);
  output.put_all(state.core.associations);
  for (const DeviceState& device : state.devices) {
    output.put(DeviceHead{.drivers = device.drivers.size(),
                          .slots = device.slots.size(),
                          .free = device.free.size(),
                          .device = device.device});
    output.put_all(device.drivers);
    output.put_all(device.slots);
    output.put_all(device.free);
  }
  crypto::WipedVector octets = std::move(output.octets());
  head.checksum = checksum_of(head, std::span(octets).subspan(sizeof head));
  std::memcpy(octets.data(), &head, sizeof head);
  return octets;
}

std::expected<HostState, std::string> read(std::span<const std::uint8_t> octets) {
  const auto head = read_head(octets);
  if (!head) return std::unexpected(head.error());
  HostState state;
  state.next_iv = head->next_iv;
  state.core.registry = head->registry;
  Input input(octets.subspan(sizeof(Head)));
  input.get_all(state.core.records, head->records);
  input.get_all(state.core.netdevs, head->netdevs);
  input.get_all(state.core.associations, head->associations);
  for (std::uint32_t i = 0; i < head->devices && !input.failed(); ++i)
    get_device(input, state.devices.emplace_back());
  if (!input.at_end()) return std::unexpected("a state whose lists do not fit");
  if (auto problem = problem_of(state); !problem.empty()) return std::unexpected(problem);
  return state;
}

}  // namespace psp::device
