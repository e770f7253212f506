// SPDX-License-Identifier: Apache-2.0
//
// Naming devices: the family knows ids and ifindexes, people know interface names. All commands
// that take a device read it by this, and print it by this, so that they have one grammar and one
// look.
//
// Between the look-up of a name and the request the netdev can go or get another name. The request
// is by the device's id; ids are given out in turn, so an old one names nobody rather than another.
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

// print_identity prints name and ifindex, or that it is visible by association: "eth0: ifindex 2";
// and whose device it is where that is not clear.
void print_identity(Emitter& out, const Client& client, const DeviceInfo& device);
// print_provider is that last part.
void print_provider(Emitter& out, const Client& client, Provider provider);

// print_associated prints the netdevs that use the device; `before` each for people.
void print_associated(Emitter& out, const DeviceInfo& device, std::string_view before);

// find_device looks the device up; `what` begins the error. Errors: kFailed, or the client's.
Outcome<DeviceInfo> find_device(Client& client, const DeviceSelector& selector,
                                std::string_view what);
// select_devices is the one device selected, or all.
Outcome<std::vector<DeviceInfo>> select_devices(Client& client,
                                                const std::optional<DeviceSelector>& selector,
                                                std::string_view what);

// Shown is what a command that shows devices needs: who is asked, the devices, and what pspd says
// of itself.
struct Shown {
  Client client;
  std::vector<DeviceInfo> devices;
  std::optional<DaemonInfo> daemon;
};
// devices_to_show reads the words, which may name a device, and asks; `what` begins errors.
Outcome<Shown> devices_to_show(Context& context, std::string_view what);

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
