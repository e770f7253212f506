// SPDX-License-Identifier: Apache-2.0
//
// Devices: the PSP devices of this host, and the core that has their associations. It gives netdevs
// their devices, looks after them while others change the host, and takes them away; and it is what
// the core asks for netdevs of other namespaces (dev-assoc).
//
// Threading: the control thread. It enters a namespace for one piece of work and comes back.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/log.hh"
#include "device/core.hh"
#include "kernel/host_device.hh"
#include "kernel/upkeep.hh"

#include "failed_devices.hh"
#include "secured_sockets.hh"
#include "settings.hh"
#include "wanted_netdevs.hh"

namespace psp::host {

class Devices final : private device::NetdevOps {
 public:
  // Given is what the devices work with; all that is passed by reference outlives them.
  struct Given {
    SecuredSockets& sockets;
    const Settings& settings;  // as they are now
    kernel::HostDeviceOptions options;
    const Log& log;
    // entered: a namespace has its first netdev, or one more.
    std::function<void(const kernel::Netns&)> entered;
  };
  explicit Devices(Given given);
  ~Devices() override;
  Devices(const Devices&) = delete;
  Devices& operator=(const Devices&) = delete;

  device::Core& core() { return core_; }
  using All = std::vector<std::unique_ptr<kernel::HostDevice>>;
  const All& all() const { return all_; }
  // find is null for a number that no device has.
  const kernel::HostDevice* find(std::uint16_t id) const { return device(id); }

  // want notes a netdev of the settings that is not there yet.
  void want(const std::string& name) { wanted_.add(name); }
  std::vector<std::string> waiting_for() const { return wanted_.without_device(); }
  // add gives a netdev of the home namespace, whose lock this is, a PSP device. Errors: a sentence.
  std::expected<void, std::string> add(const kernel::Netdev& netdev, UniqueFd lock);
  // look_after sees what others have done to the devices, and mends it. Netdevs that have gone lose
  // their devices, those that have come get theirs; a device whose TAP has gone is made anew.
  void look_after(std::chrono::steady_clock::time_point now);
  // look_on does so with netdevs that are associated, of which there can be thousands: with some at
  // each turn, where the turn before ended. False: it has been round.
  bool look_on(std::chrono::steady_clock::time_point now);
  // find_wanted gives netdevs that have come their devices.
  void find_wanted(std::chrono::steady_clock::time_point now);

  // apply makes these the netdevs that have a device, but for find_wanted. What cannot be is said
  // in the log.
  void apply(const std::vector<std::string>& names);
  // set_versions enables these for all devices. False: none has changed.
  [[nodiscard]] bool set_versions(VersionSet versions);
  // rotate gives each device a new key.
  void rotate();

  // references is how many references to a namespace are those of netdevs here.
  std::size_t references(std::uint64_t netns) const;
  // leave gives up all netdevs of a namespace that has ended.
  void leave(std::uint64_t netns);

  // end_all takes all devices away; not `clean`: their programs stay in place and block. False:
  // something stays that should not.
  [[nodiscard]] bool end_all(bool clean);

 private:
  std::expected<std::uint16_t, std::string> make(const kernel::Netdev& netdev, UniqueFd lock);
  std::expected<std::uint16_t, std::string> make_later(const std::string& name);
  std::expected<std::size_t, std::string> end_connections(std::uint16_t id);
  void end(std::uint16_t id);
  void end_failed(std::chrono::steady_clock::time_point now);
  void retire(std::uint16_t id);
  void remove(std::uint16_t id);
  std::optional<std::string> lost(kernel::Attachment& attachment, bool mend,
                                  std::chrono::steady_clock::time_point now);
  void put_back(kernel::Attachment& attachment, std::chrono::steady_clock::time_point now);
  kernel::HostDevice* device(std::uint16_t id) const;
  bool shares_address(const kernel::Netdev& netdev) const;
  std::expected<void, std::string> check_address(const kernel::Netdev& netdev) const;
  void welcome(const kernel::HostDevice& host, const kernel::Netdev& netdev,
               std::span<const Taken> earlier);

  device::Result<std::uint64_t> netns_of(std::uint64_t caller_netns, std::int32_t nsid) override;
  std::int32_t nsid_of(std::uint64_t caller_netns, std::uint64_t netns) override;
  device::Result<void> attach(const device::Device& device, device::NetdevKey netdev) override;
  device::Result<void> detach(const device::Device& device, device::NetdevKey netdev) override;
  void abandon(const device::Device& device, device::NetdevKey netdev) override;

  Given given_;
  device::Core core_;
  All all_;
  WantedNetdevs wanted_;
  FailedDevices failed_;
  std::optional<std::pair<std::uint16_t, device::NetdevKey>> looked_at_;  // last, in a round
  bool again_ = false;           // something has changed since the round began
  bool leave_programs_ = false;  // at a stop that has to leave sockets blocked
};

}  // namespace psp::host
