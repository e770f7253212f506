// SPDX-License-Identifier: Apache-2.0
//
// pspctl assoc: the secured connections. Their keys are not shown, by no option: they are not in
// what pspd answers. An operator who needs them has `pspctl capture --key-log`.
//
// Only pspd can tell; the kernel's family has no such request. pspd gives all that the caller may
// see, and the conditions are looked at here. An address is compared in the form of inet_ntop, so
// each way of writing it is found.
#include <arpa/inet.h>
#include <array>
#include <charconv>
#include <fmt/format.h>

#include "device/state_table.h"
#include "wire/version_text.hh"

#include "command.hh"
#include "devices.hh"

namespace psp::ctl {

namespace {

constexpr std::string_view kHelp =
    R"(Usage: pspctl assoc show [dev IFNAME | dev id N] [state rx|tx|full] [stale]
              [version V] [local ADDR] [peer ADDR] [port N] [sport N] [dport N]

show   per connection: addresses and ports, state, TCP state, device, version, SPIs,
       generation of the device key (stale: that key is gone, nothing gets through),
       packets and octets of TCP payload each way, segments refused; -d adds the cookie

state  rx    has an Rx key; receives clear and PSP, sends clear
       tx    has a Tx key too; sends PSP; the peer may not have switched yet
       full  both sides speak PSP; nothing in clear is accepted any more

All that is said must fit. sport is the local port, dport the peer's, port either.
Only pspd can tell; the kernel's own family has no such request. Keys are never shown.

Examples:
       pspctl assoc show state full dport 443
       pspctl -j assoc show dev eth0 stale
)";

struct Filter {
  std::optional<DeviceSelector> device;
  std::optional<unsigned> state;
  std::optional<Version> version;
  std::optional<std::string> local, peer;  // as inet_ntop writes them
  std::optional<std::uint16_t> port, sport, dport;
  bool stale = false;

  bool fits(const AssocInfo& assoc) const {
    return (!state || assoc.state == *state) && (!version || assoc.version() == *version) &&
           (!local || assoc.local_address == *local) && (!peer || assoc.peer_address == *peer) &&
           (!sport || assoc.local_port == *sport) && (!dport || assoc.peer_port == *dport) &&
           (!port || assoc.local_port == *port || assoc.peer_port == *port) &&
           (!stale || assoc.stale);
  }
};

Outcome<unsigned> read_state(const std::string& word) {
  for (unsigned state = PSP_STATE_RX; state < PSP_STATES; ++state)
    if (word == psp_state_name(state)) return state;
  return usage_error(fmt::format("\"{}\" is no state (rx, tx, full)", word));
}

Outcome<Version> read_version(const std::string& word) {
  if (const auto version = parse_version(word)) return *version;
  return usage_error(fmt::format("\"{}\" is no PSP version ({})", word, kVersionWords));
}

Outcome<std::string> read_address(const std::string& word) {
  const bool brackets = word.size() > 2 && word.front() == '[' && word.back() == ']';
  const std::string bare = brackets ? word.substr(1, word.size() - 2) : word;
  for (const int family : {AF_INET, AF_INET6}) {
    in6_addr address{};
    std::array<char, INET6_ADDRSTRLEN> text{};
    if (inet_pton(family, bare.c_str(), &address) == 1 &&
        inet_ntop(family, &address, text.data(), text.size()) != nullptr)
      return text.data();
  }
  return usage_error(fmt::format("\"{}\" is no address", word));
}

Outcome<std::uint16_t> read_port(const std::string& word) {
  std::uint16_t port = 0;
  const char* end = word.data() + word.size();
  const auto parsed = std::from_chars(word.data(), end, port);
  if (parsed.ec == std::errc{} && parsed.ptr == end && port != 0) return port;
  return usage_error(fmt::format("\"{}\" is no port", word));
}

// take_value reads the word behind `key` into `value`.
template <typename T>
Outcome<void> take_value(Words& words, std::string_view key, Outcome<T> (*read)(const std::string&),
                         std::optional<T>& value) {
  const auto word = words.take(fmt::format("value behind \"{}\"", key));
  if (!word) return std::unexpected(word.error());
  auto parsed = read(*word);
  if (!parsed) return std::unexpected(parsed.error());
  value = std::move(*parsed);
  return {};
}

Outcome<void> take_condition(Words& words, Filter& filter) {
  if (words.accept("stale")) {
    filter.stale = true;
    return {};
  }
  if (words.peek() == "dev") {
    auto device = take_device(words);
    if (!device) return std::unexpected(device.error());
    filter.device = std::move(*device);
    return {};
  }
  if (words.accept("state")) return take_value(words, "state", read_state, filter.state);
  if (words.accept("version")) return take_value(words, "version", read_version, filter.version);
  if (words.accept("local")) return take_value(words, "local", read_address, filter.local);
  if (words.accept("peer")) return take_value(words, "peer", read_address, filter.peer);
  if (words.accept("port")) return take_value(words, "port", read_port, filter.port);
  if (words.accept("sport")) return take_value(words, "sport", read_port, filter.sport);
  if (words.accept("dport")) return take_value(words, "dport", read_port, filter.dport);
  return words.expect_end();
}

Outcome<Filter> take_filter(Words& words) {
  Filter filter;
  while (!words.done())
    if (auto taken = take_condition(words, filter); !taken) return std::unexpected(taken.error());
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
  out.print("dev-id", "\n    dev-id {}", assoc.rx.dev_id);
  out.print("ifname", " ifname {}", assoc.ifname);
  out.print("version", " version {}", name(assoc.version()));
  out.print("generation", " generation {}", unsigned{assoc.rx.generation});
  out.print("rx-spi", "\n    rx-spi {:#010x}", assoc.rx.spi);
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
    if (dev_id && assoc.rx.dev_id != *dev_id) continue;
    if (!filter->fits(assoc)) continue;
    print_association(context, assoc);
  }
  context.out.finish();
  return {};
}

}  // namespace

Noun assoc_noun() { return {"assoc", kHelp, true, {{"show", show, "list"}}}; }

}  // namespace psp::ctl
