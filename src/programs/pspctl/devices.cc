// SPDX-License-Identifier: Apache-2.0
//
// Devices by name, sets of versions by name. A name is looked up in this network namespace; a
// device that is only visible by association (in a container) is known by our netdev that uses it.
//
// Names of netdevs in other namespaces are asked for there, and are "if<index>" where they cannot
// be had: a list must not fail for one name. Which counters there are, and in which order they are
// shown, stands here once for dev and stats.
#include "devices.hh"

#include <algorithm>
#include <array>
#include <charconv>
#include <fmt/format.h>
#include <net/if.h>

#include "wire/version_text.hh"

#include "netlink_query.hh"

namespace psp::ctl {

std::optional<std::uint32_t> parse_number(std::string_view word) {
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (error != std::errc{} || end != word.data() + word.size()) return {};
  return number;
}

std::string DeviceSelector::words() const { return id ? fmt::format("id {}", *id) : ifname; }

Outcome<DeviceSelector> take_device(Words& words) {
  words.accept("dev");
  if (words.accept("id")) {
    const auto word = words.take("N behind \"id\"");
    if (!word) return std::unexpected(word.error());
    const auto id = parse_number(*word);
    if (!id || *id == 0) return usage_error(fmt::format("\"{}\" is no device id", *word));
    return DeviceSelector{{}, id};
  }
  auto ifname = words.take("IFNAME (or \"id N\")");
  if (!ifname) return std::unexpected(ifname.error());
  return DeviceSelector{std::move(*ifname), {}};
}

Outcome<std::optional<DeviceSelector>> take_optional_device(Words& words) {
  if (words.done()) return std::nullopt;
  return take_device(words);
}

std::string netdev_name(std::uint32_t ifindex) {
  std::array<char, IF_NAMESIZE> buffer{};
  if (if_indextoname(ifindex, buffer.data()) == nullptr) return fmt::format("if{}", ifindex);
  return buffer.data();
}

std::string device_name(const DeviceInfo& device) {
  if (!device.by_association) return netdev_name(device.ifindex);
  return device.associated.empty() ? "?" : netdev_name(device.associated.front().ifindex);
}

void print_identity(Emitter& out, const Client& client, const DeviceInfo& device) {
  out.print("ifname", "{}", device_name(device), Colour::kName);
  if (device.by_association) {
    out.set("by-association", true);
    out.text(": by-association");
  } else {
    out.print("ifindex", ": ifindex {}", device.ifindex);
  }
  print_provider(out, client, device.provider);
}

void print_provider(Emitter& out, const Client& client, Provider provider) {
  if (client.has(Provider::kKernel) && client.has(Provider::kDaemon))
    out.print("provider", " provider {}", provider == Provider::kKernel ? "kernel" : "pspd");
}

void print_associated(Emitter& out, const DeviceInfo& device, std::string_view before) {
  if (device.associated.empty()) return;
  const auto list = out.array("assoc-list");
  for (const AssociatedNetdev& netdev : device.associated) {
    const auto element = out.element();
    const bool ours = netdev.nsid < 0;
    const auto name =
        link_name(netdev.ifindex, ours ? std::nullopt : std::optional<std::int32_t>(netdev.nsid));
    out.text(before);
    out.print("ifname", "assoc {}", name.value_or(fmt::format("if{}", netdev.ifindex)),
              Colour::kName);
    out.print("ifindex", " ifindex {}", netdev.ifindex);
    if (ours)
      out.set("nsid", netdev.nsid);
    else
      out.print("nsid", " nsid {}", netdev.nsid);
  }
}

Outcome<DeviceInfo> find_device(Client& client, const DeviceSelector& selector,
                                std::string_view what) {
  if (selector.id) {
    auto device = client.device(*selector.id);
    if (!device) return refused(fmt::format("{} {}", what, selector.words()), device.error());
    return *device;
  }
  const unsigned ifindex = if_nametoindex(selector.ifname.c_str());
  if (ifindex == 0)
    return std::unexpected(
        Failure{ExitStatus::kFailed,
                fmt::format("{} {}: no such network interface", what, selector.ifname)});
  const auto devices = client.devices();
  if (!devices) return refused(fmt::format("{} {}", what, selector.ifname), devices.error());
  const DeviceInfo* found = device_of(*devices, ifindex);
  if (found == nullptr)
    return std::unexpected(
        Failure{ExitStatus::kFailed,
                fmt::format("{} {}: this interface is no PSP device", what, selector.ifname)});
  return *found;
}

const DeviceInfo* device_of(const std::vector<DeviceInfo>& devices, std::uint32_t ifindex) {
  const auto found = std::ranges::find_if(devices, [&](const DeviceInfo& device) {
    return device.ifindex == ifindex ||
           std::ranges::any_of(device.associated, [&](const AssociatedNetdev& netdev) {
             return netdev.nsid < 0 && netdev.ifindex == ifindex;
           });
  });
  return found != devices.end() ? &*found : nullptr;
}

Outcome<std::vector<DeviceInfo>> select_devices(Client& client,
                                                const std::optional<DeviceSelector>& selector,
                                                std::string_view what) {
  if (selector) {
    auto device = find_device(client, *selector, what);
    if (!device) return std::unexpected(device.error());
    return std::vector{*device};
  }
  auto devices = client.devices();
  if (!devices) return refused(what, devices.error());
  std::ranges::sort(*devices, {}, &DeviceInfo::id);
  return std::move(*devices);
}

Outcome<Shown> devices_to_show(Context& context, std::string_view what) {
  const auto selector = take_optional_device(context.words);
  if (!selector) return std::unexpected(selector.error());
  if (auto end = context.words.expect_end(); !end) return std::unexpected(end.error());
  auto client = context.connect();
  if (!client) return std::unexpected(client.error());
  auto devices = select_devices(*client, *selector, what);
  if (!devices) return std::unexpected(devices.error());
  auto daemon = context.daemon_info(*client);
  if (!daemon) return std::unexpected(daemon.error());
  return Shown{std::move(*client), std::move(*devices), std::move(*daemon)};
}

Outcome<VersionSet> read_versions(std::string_view list, VersionSet cap) {
  if (list == "all") return cap;
  const auto versions = parse_versions(list);
  if (!versions)
    return usage_error(fmt::format("\"{}\" is no PSP version ({}; or all, or none)",
                                   versions.error(), kVersionWords));
  return *versions;
}

const DaemonInfo::Device* daemon_device(const std::optional<DaemonInfo>& daemon, std::uint32_t id) {
  if (!daemon) return nullptr;
  const auto found = std::ranges::find(daemon->devices, id, &DaemonInfo::Device::id);
  return found == daemon->devices.end() ? nullptr : &*found;
}

void print_statistics(Emitter& out, const StatsInfo& stats, const DaemonInfo::Device* daemon) {
  const std::pair<std::string_view, std::uint64_t> counters[] = {
      {"key-rotations", stats.key_rotations},
      {"stale-events", stats.stale_events},
      {"rx-packets", stats.rx_packets},
      {"rx-bytes", stats.rx_bytes},
      {"rx-auth-fail", stats.rx_auth_fail},
      {"rx-error", stats.rx_error},
      {"rx-bad", stats.rx_bad},
      {"tx-packets", stats.tx_packets},
      {"tx-bytes", stats.tx_bytes},
      {"tx-error", stats.tx_error},
  };
  for (const auto& [key, value] : counters) {
    out.text(fmt::format("    {:<16}", key));
    out.print(key, "{:>20}\n", value);
  }
  if (daemon == nullptr) return;
  out.text(daemon->drops.empty() ? "    drops           none\n" : "    drops\n");
  const auto drops = out.object("drops");
  for (const auto& [reason, packets] : daemon->drops) {
    out.text(fmt::format("      {:<18}", reason));
    out.print(reason, "{:>16}\n", packets);
  }
}

}  // namespace psp::ctl
