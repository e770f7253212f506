// SPDX-License-Identifier: Apache-2.0
//
// pspctl dev: the PSP devices and the versions that they accept.
#include <fmt/format.h>

#include "command.hh"
#include "devices.hh"

namespace psp::ctl {

namespace {

constexpr std::string_view kHelp = R"(Usage: pspctl dev show [IFNAME | id N]
       pspctl dev set IFNAME|id N psp-versions-ena LIST

show   id, netdev, versions that the device can and versions enabled for receive;
       -s adds counters, -d what pspd knows beside (TAP, MTU, key generation, SPIs left)
set    enables exactly the versions of LIST for receive: names or numbers separated by
       commas, or all, or none. Transmit does not look at it. Needs CAP_NET_ADMIN.

       hdr0-aes-gcm-128  (0)  encrypted          hdr0-aes-gmac-128 (2)  authenticated only
       hdr0-aes-gcm-256  (1)  encrypted          hdr0-aes-gmac-256 (3)  authenticated only

Examples:
       pspctl dev set eth0 psp-versions-ena hdr0-aes-gcm-128,hdr0-aes-gcm-256
       pspctl -j dev show eth0
)";

void print_details(Emitter& out, const DaemonInfo::Device& daemon) {
  out.print("tap", "    tap {}", daemon.tap);
  out.print("mtu", " mtu {}", daemon.mtu);
  out.print("generation", " generation {}", daemon.generation);
  out.print("spi-remaining", " spi-remaining {}\n", daemon.spi_remaining);
}

Outcome<void> print_device(Context& context, Client& client, const DeviceInfo& device,
                           const std::optional<DaemonInfo>& daemon) {
  Emitter& out = context.out;
  const auto element = out.element();
  out.print("id", "{}: ", device.id);
  out.print("ifname", "{}", netdev_name(device.ifindex), Colour::kName);
  out.print("ifindex", ": ifindex {}\n", device.ifindex);
  out.print_versions("psp-versions-cap", "    ", device.versions_cap);
  out.print_versions("psp-versions-ena", "\n    ", device.versions_ena);
  out.text("\n");
  const auto* details = daemon_device(daemon, device.id);
  if (context.options.details && details != nullptr) print_details(out, *details);
  if (context.options.statistics) {
    const auto stats = client.stats(device.id);
    if (!stats) return refused(fmt::format("stats show id {}", device.id), stats.error());
    const auto object = out.object("stats");
    print_statistics(out, *stats, details);
  }
  return {};
}

Outcome<void> show(Context& context) {
  const auto selector = take_optional_device(context.words);
  if (!selector) return std::unexpected(selector.error());
  if (auto end = context.words.expect_end(); !end) return end;
  auto client = context.connect();
  if (!client) return std::unexpected(client.error());
  const auto devices = select_devices(*client, *selector, "dev show");
  if (!devices) return std::unexpected(devices.error());
  const auto daemon = context.daemon_info(*client);
  if (!daemon) return std::unexpected(daemon.error());
  for (const DeviceInfo& device : *devices)
    if (auto printed = print_device(context, *client, device, *daemon); !printed) return printed;
  context.out.finish();
  return {};
}

Outcome<void> set(Context& context) {
  const auto selector = take_device(context.words);
  if (!selector) return std::unexpected(selector.error());
  if (!context.words.accept("psp-versions-ena"))
    return usage_error(context.words.done()
                           ? "dev set: nothing to set (psp-versions-ena LIST is missing)"
                           : fmt::format("dev set: \"{}\" cannot be set (psp-versions-ena can)",
                                         context.words.peek()));
  const auto list = context.words.take("LIST behind \"psp-versions-ena\"");
  if (!list) return std::unexpected(list.error());
  if (auto end = context.words.expect_end(); !end) return end;
  if (auto checked = read_versions(*list, {}); !checked) return std::unexpected(checked.error());

  auto client = context.connect();
  if (!client) return std::unexpected(client.error());
  const auto device = find_device(*client, *selector, "dev set");
  if (!device) return std::unexpected(device.error());
  const auto versions = read_versions(*list, device->versions_cap);
  if (auto done = client->set_versions(device->id, *versions); !done)
    return refused("dev set " + selector->words(), done.error());
  context.out.finish();
  return {};
}

}  // namespace

Noun dev_noun() { return {"dev", kHelp, true, {{"show", show, "list"}, {"set", set}}}; }

}  // namespace psp::ctl
