// SPDX-License-Identifier: Apache-2.0
//
// Naming devices: the family knows ids and ifindexes, people know interface names.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "command.hh"

namespace psp::ctl {

// DeviceSelector is a device as named on the command line.
struct DeviceSelector {
  std::string ifname;  // empty if by id
  std::optional<std::uint32_t> id;

  std::string words() const;  // as typed, for errors
};

// parse_number reads a decimal number.
std::optional<std::uint32_t> parse_number(std::string_view word);

// take_device reads `[dev] IFNAME` or `[dev] id N`. Errors: kUsage.
Outcome<DeviceSelector> take_device(Words& words);
// take_optional_device is the same where there may be none.
Outcome<std::optional<DeviceSelector>> take_optional_device(Words& words);

// netdev_name is the name of the netdev with that index, or "if<index>" if there is none here.
std::string netdev_name(std::uint32_t ifindex);

// device_name is the netdev by which we know a device: its main one, or where it is visible by
// association only, the first of ours that uses it.
std::string device_name(const DeviceInfo& device);

// print_identity prints name and ifindex, or that it is visible by association: "eth0: ifindex 2".
void print_identity(Emitter& out, const DeviceInfo& device);

// print_associated prints the netdevs that use the device; `before` each for people.
void print_associated(Emitter& out, const DeviceInfo& device, std::string_view before);

// find_device looks the device up; `what` begins the error. Errors: kFailed, or the client's.
Outcome<DeviceInfo> find_device(Client& client, const DeviceSelector& selector,
                                std::string_view what);
// select_devices is the one device selected, or all.
Outcome<std::vector<DeviceInfo>> select_devices(Client& client,
                                                const std::optional<DeviceSelector>& selector,
                                                std::string_view what);

// read_versions reads a list as people write it: "hdr0-aes-gcm-128,aes-gcm-256,2", "none", or
// "all", which is `cap`. Errors: kUsage.
Outcome<VersionSet> read_versions(std::string_view list, VersionSet cap);

// device_of is the device that sockets use whose packets leave by that netdev of ours, or null.
const DeviceInfo* device_of(const std::vector<DeviceInfo>& devices, std::uint32_t ifindex);

// daemon_device is what pspd says of that device itself, or null.
const DaemonInfo::Device* daemon_device(const std::optional<DaemonInfo>& daemon, std::uint32_t id);

// print_statistics prints counters inside the open object; with `daemon` also reasons of drops.
void print_statistics(Emitter& out, const StatsInfo& stats, const DaemonInfo::Device* daemon);

}  // namespace psp::ctl
