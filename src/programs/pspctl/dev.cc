// SPDX-License-Identifier: Apache-2.0
//
// pspctl dev: the PSP devices and the versions that they accept. Show, set, and which other netdevs
// may use a device (assoc, disassoc).
//
// The family knows netdevs by index and namespaces by number; users say names. The index is asked
// for in the namespace that the netdev is in, since the same number is another netdev elsewhere. A
// mistake in the words is found before anybody is asked.
#include <cerrno>
#include <fmt/format.h>

#include "command.hh"
#include "devices.hh"
#include "named_netns.hh"
#include "netlink_query.hh"

namespace psp::ctl {

namespace {

constexpr std::string_view kHelp = R"(Usage: pspctl dev show [IFNAME | id N]
       pspctl dev set IFNAME|id N psp-versions-ena LIST
       pspctl dev assoc|disassoc IFNAME|id N netdev NAME [netns NAME | nsid N | pid PID]

show   id, netdev, versions that the device can and versions enabled for receive;
       -s adds counters, -d what pspd knows beside (TAP, MTU, key generation, SPIs left)
set    enables exactly the versions of LIST for receive: names or numbers separated by
       commas, or all, or none. Transmit does not look at it. Needs CAP_NET_ADMIN.
assoc  lets another netdev use the device: one here, or in a namespace that is named as
       for ip-netns(8), by number, or by a process in it. Connections made there are then
       secured by this device. Needs CAP_NET_ADMIN; in the device's namespace only, if one
       is named. disassoc takes it back.

       hdr0-aes-gcm-128  (0)  encrypted          hdr0-aes-gmac-128 (2)  authenticated only
       hdr0-aes-gcm-256  (1)  encrypted          hdr0-aes-gmac-256 (3)  authenticated only

Examples:
       pspctl dev set eth0 psp-versions-ena hdr0-aes-gcm-128,hdr0-aes-gcm-256
       pspctl dev assoc eth0 netdev eth0 netns container1
       pspctl -j dev show eth0
)";

void print_details(Emitter& out, const DaemonInfo::Device& daemon) {
  out.print("tap", "    tap {}", daemon.tap);
  out.print("mtu", " mtu {}", daemon.mtu);
  out.print("generation", " generation {}", daemon.generation);
  out.print("spi-remaining", " spi-remaining {}", daemon.spi_remaining);
  out.print("refused", " refused {}", daemon.refused);
  out.print("repairs", " repairs {}\n", daemon.repairs);
  if (!daemon.trouble.empty()) out.print("trouble", "    trouble: {}\n", daemon.trouble);
}

Outcome<void> print_device(Context& context, Client& client, const DeviceInfo& device,
                           const std::optional<DaemonInfo>& daemon) {
  Emitter& out = context.out;
  const auto element = out.element();
  out.print("id", "{}: ", device.id);
  print_identity(out, client, device);
  out.text("\n");
  out.print_versions("psp-versions-cap", "    ", device.versions_cap);
  out.print_versions("psp-versions-ena", "\n    ", device.versions_ena);
  print_associated(out, device, "\n    ");
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
  auto shown = devices_to_show(context, "dev show");
  if (!shown) return std::unexpected(shown.error());
  for (const DeviceInfo& device : shown->devices)
    if (auto printed = print_device(context, shown->client, device, shown->daemon); !printed)
      return printed;
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

// Location is where a netdev is, and the words that said so.
struct Location {
  std::optional<std::int32_t> nsid;  // none: here
  std::string words;
};

Outcome<Location> location_of(const Outcome<UniqueFd>& netns, std::string words) {
  if (!netns) return std::unexpected(netns.error());
  const auto nsid = nsid_of(*netns, words);
  if (!nsid) return std::unexpected(nsid.error());
  return Location{*nsid, " " + std::move(words)};
}

// take_place reads `[netns NAME | nsid N | pid PID]`.
Outcome<Location> take_place(Words& words) {
  const std::string key(words.peek());
  if (key != "netns" && key != "nsid" && key != "pid") return Location{};
  words.accept(key);
  const auto word = words.take(fmt::format("value behind \"{}\"", key));
  if (!word) return std::unexpected(word.error());
  const std::string both = fmt::format("{} {}", key, *word);
  if (key == "netns") return location_of(open_netns(*word), both);
  const auto number = parse_number(*word);
  if (!number || *number > INT32_MAX)
    return usage_error(fmt::format("\"{}\" is no {}", *word, key));
  if (key == "pid") return location_of(open_netns_of(*number), both);
  return Location{static_cast<std::int32_t>(*number), " " + both};
}

using Change = ClientResult<void> (Client::*)(std::uint32_t, std::uint32_t,
                                              std::optional<std::int32_t>);

// associate is dev assoc and dev disassoc.
Outcome<void> associate(Context& context, std::string_view verb, Change change) {
  const auto selector = take_device(context.words);
  if (!selector) return std::unexpected(selector.error());
  const std::string what = fmt::format("dev {} {}", verb, selector->words());
  if (!context.words.accept("netdev"))
    return usage_error(fmt::format("dev {}: netdev NAME is missing", verb));
  const auto name = context.words.take("NAME behind \"netdev\"");
  if (!name) return std::unexpected(name.error());
  const auto place = take_place(context.words);
  if (!place) return std::unexpected(place.error());
  if (auto end = context.words.expect_end(); !end) return end;

  const auto ifindex = link_index(*name, place->nsid);
  if (!ifindex) {
    ClientError error;
    error.sys_errno = ifindex.error();
    if (error.sys_errno == ENODEV) error.text = "no such network interface";
    if (error.sys_errno == EINVAL && place->nsid) error.text = "no such network namespace";
    return refused(fmt::format("{}: netdev {}{}", what, *name, place->words), error);
  }
  auto client = context.connect();
  if (!client) return std::unexpected(client.error());
  const auto device = find_device(*client, *selector, fmt::format("dev {}", verb));
  if (!device) return std::unexpected(device.error());
  if (auto done = ((*client).*change)(device->id, *ifindex, place->nsid); !done)
    return refused(what, done.error());
  context.out.finish();
  return {};
}

Outcome<void> assoc(Context& context) { return associate(context, "assoc", &Client::dev_assoc); }
Outcome<void> disassoc(Context& context) {
  return associate(context, "disassoc", &Client::dev_disassoc);
}

}  // namespace

Noun dev_noun() {
  return {"dev",
          kHelp,
          true,
          {{"show", show, "list"}, {"set", set}, {"assoc", assoc}, {"disassoc", disassoc}}};
}

}  // namespace psp::ctl
