// SPDX-License-Identifier: Apache-2.0
//
// pspctl stats: the counters of the PSP specification, and why packets were dropped.
#include <algorithm>
#include <fmt/format.h>

#include "command.hh"
#include "devices.hh"

namespace psp::ctl {

namespace {

constexpr std::string_view kHelp = R"(Usage: pspctl stats show [IFNAME | id N]

show   the counters of each device; with -s or -d also how many packets were dropped for
       which reason, as far as pspd tells (pspctl(8) lists the reasons)

       key-rotations   device keys made since start
       stale-events    connections that lost their device key by rotation
       rx-packets      authenticated              tx-packets   sealed
       rx-auth-fail    ICV does not match         tx-error     could not be sealed or sent
       rx-error        malformed
       rx-bad          wrong version or SPI
       Bytes count what stands behind the IV, up to the ICV.
)";

Outcome<void> show(Context& context) {
  const auto selector = take_optional_device(context.words);
  if (!selector) return std::unexpected(selector.error());
  if (auto end = context.words.expect_end(); !end) return end;
  auto client = context.connect();
  if (!client) return std::unexpected(client.error());
  const auto devices = select_devices(*client, *selector, "stats show");
  if (!devices) return std::unexpected(devices.error());
  const auto daemon = context.daemon_info(*client);
  if (!daemon) return std::unexpected(daemon.error());
  Emitter& out = context.out;
  for (const DeviceInfo& device : *devices) {
    const auto stats = client->stats(device.id);
    if (!stats) return refused(fmt::format("stats show id {}", device.id), stats.error());
    const auto element = out.element();
    out.print("dev-id", "{}: ", device.id);
    out.print("ifname", "{}", device_name(device), Colour::kName);
    out.text(":");
    print_provider(out, *client, device.provider);
    out.text("\n");
    print_statistics(out, *stats, daemon_device(*daemon, device.id));
  }
  out.finish();
  return {};
}

}  // namespace

Noun stats_noun() { return {"stats", kHelp, true, {{"show", show, "list"}}}; }

}  // namespace psp::ctl
