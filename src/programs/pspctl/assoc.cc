// SPDX-License-Identifier: Apache-2.0
//
// pspctl assoc: the secured connections. Their keys are not shown, by no option.
#include <algorithm>
#include <fmt/format.h>

#include <psp/device/state_table.h>

#include "command.hh"
#include "devices.hh"

namespace psp::ctl {

namespace {

constexpr std::string_view kHelp =
    R"(Usage: pspctl assoc show [dev IFNAME | dev id N] [state rx|tx|full]

show   per connection: addresses and ports, state, TCP state, device, version, SPIs,
       generation of the device key (stale: that key is gone, nothing gets through),
       packets and octets of TCP payload each way, segments refused; -d adds the cookie

state  rx    has an Rx key; receives clear and PSP, sends clear
       tx    has a Tx key too; sends PSP; the peer may not have switched yet
       full  both sides speak PSP; nothing in clear is accepted any more

Only pspd can tell; the kernel's own family has no such request. Keys are never shown.
)";

struct Filter {
  std::optional<DeviceSelector> device;
  std::optional<unsigned> state;
};

Outcome<Filter> take_filter(Words& words) {
  Filter filter;
  while (!words.done()) {
    if (words.accept("state")) {
      const auto word = words.take("rx, tx or full behind \"state\"");
      if (!word) return std::unexpected(word.error());
      for (unsigned state = PSP_STATE_RX; state < PSP_STATES; ++state)
        if (*word == psp_state_name(state)) filter.state = state;
      if (!filter.state)
        return usage_error(fmt::format("\"{}\" is no state (rx, tx, full)", *word));
    } else if (words.peek() == "dev") {
      auto device = take_device(words);
      if (!device) return std::unexpected(device.error());
      filter.device = std::move(*device);
    } else {
      if (auto end = words.expect_end(); !end) return std::unexpected(end.error());
    }
  }
  return filter;
}

std::string endpoint(const AssocInfo& assoc, const std::string& address, std::uint16_t port) {
  return assoc.family == 6 ? fmt::format("[{}]:{}", address, port)
                           : fmt::format("{}:{}", address, port);
}

void print_endpoints(Emitter& out, const AssocInfo& assoc) {
  out.set("family", assoc.family == 6 ? "inet6" : "inet");
  out.set("local-address", assoc.local_address);
  out.set("local-port", assoc.local_port);
  out.set("peer-address", assoc.peer_address);
  out.set("peer-port", assoc.peer_port);
  out.text(endpoint(assoc, assoc.local_address, assoc.local_port), Colour::kAddress);
  out.text(" -> ");
  out.text(endpoint(assoc, assoc.peer_address, assoc.peer_port), Colour::kAddress);
}

void print_association(Context& context, const AssocInfo& assoc) {
  Emitter& out = context.out;
  const auto element = out.element();
  print_endpoints(out, assoc);
  out.print("state", ": state {}", std::string_view(psp_state_name(assoc.state)));
  out.print("tcp-state", " tcp-state {}", assoc.tcp_state);
  out.set("stale", assoc.stale);
  if (assoc.stale) out.text(" stale", Colour::kBad);
  out.print("dev-id", "\n    dev-id {}", assoc.dev_id);
  out.print("ifname", " ifname {}", assoc.ifname);
  out.print("version", " version {}", name(assoc.version));
  out.print("generation", " generation {}", assoc.generation);
  out.print("rx-spi", "\n    rx-spi {:#010x}", assoc.rx_spi.value);
  out.print("rx-packets", " rx-packets {}", assoc.rx_packets);
  out.print("rx-bytes", " rx-bytes {}", assoc.rx_bytes);
  out.print("rx-drops", " rx-drops {}", assoc.rx_drops);
  if (assoc.tx_spi)
    out.print("tx-spi", "\n    tx-spi {:#010x}", assoc.tx_spi->value);
  else
    out.text("\n    tx-spi none");
  out.print("tx-packets", " tx-packets {}", assoc.tx_packets);
  out.print("tx-bytes", " tx-bytes {}", assoc.tx_bytes);
  if (context.options.details) out.print("cookie", "\n    cookie {}", assoc.cookie);
  out.text("\n");
}

Outcome<void> show(Context& context) {
  const auto filter = take_filter(context.words);
  if (!filter) return std::unexpected(filter.error());
  auto client = context.connect();
  if (!client) return std::unexpected(client.error());
  std::optional<std::uint32_t> dev_id;
  if (filter->device) {
    const auto device = find_device(*client, *filter->device, "assoc show");
    if (!device) return std::unexpected(device.error());
    dev_id = device->id;
  }
  const auto associations = client->associations();
  if (!associations) return refused("assoc show", associations.error());
  for (const AssocInfo& assoc : *associations) {
    if (dev_id && assoc.dev_id != *dev_id) continue;
    if (filter->state && assoc.state != *filter->state) continue;
    print_association(context, assoc);
  }
  context.out.finish();
  return {};
}

}  // namespace

Noun assoc_noun() { return {"assoc", kHelp, true, {{"show", show}}}; }

}  // namespace psp::ctl
