// SPDX-License-Identifier: Apache-2.0
//
// pspctl capture: the command line and the line at the end. What goes by the wire is taken in
// capture_wire.cc, what pspd kept in capture_kept.cc.
//
// What does not fit together is refused before anything is opened. Where the packets themselves go
// to standard output, all that is said goes to standard error, the JSON of the summary too.
#include "capture.hh"

#include <fmt/format.h>
#include <unistd.h>

#include "base/counted.hh"

namespace psp::ctl {

namespace {

constexpr std::string_view kHelp =
    R"(Usage: pspctl capture --dev DEV -w FILE [OPTIONS]

       Writes the PSP packets that go by a network device to a pcapng file, as they are on the
       wire, until interrupted. They stay sealed. "-w -" is the standard output.

       --count N       ends after N packets      --duration N[s|m|h]  ends after that time
       --snaplen N     keeps N octets of a packet (64 or more)
       --filter EXPR   only packets that meet it too: pcap-filter(7)
       --port N        PSP by another UDP port than 1000
       --buffer MIB    of memory for packets that wait to be written; default 32

       --failed        instead: the packets that pspd kept since they did not open or could not be
                       sent (with the reason as comment), or since their senders want them
                       sampled; the newest 64 and at most 64 a second; needs CAP_NET_ADMIN

       --key-log FILE  ALSO WRITES THE KEYS of the connections whose packets are captured: whoever
                       has FILE can read them. For root, and only if pspd was started with
                       --allow-key-export, which logs each key that it gives away. FILE has mode
                       0600; psp-pcap --key-log and Wireshark (psp.keylog) read it. Keys of
                       connections that ended before the capture began cannot be had.

Examples:
       pspctl capture --dev eth0 -w eth0.pcapng --duration 1m
       pspctl capture --dev eth0 -w - --filter 'host 192.0.2.2' | tshark -r -
       pspctl capture --dev eth0 -w eth0.pcapng --key-log eth0.keys
       psp-pcap decrypt --key-log eth0.keys -r eth0.pcapng -w clear.pcapng
)";

Outcome<void> check(Context& context) {
  const CaptureOptions& options = context.options.capture;
  if (auto end = context.words.expect_end(); !end) return end;
  if (options.device.empty())
    return usage_error("capture: which network device? For example --dev eth0");
  if (options.file.empty()) return usage_error("capture: where to? For example -w psp.pcapng");
  if (options.file == "-" && ::isatty(STDOUT_FILENO) == 1)
    return usage_error("capture: packets are not for a terminal: use -w FILE, or a pipe");
  if (options.key_log == "-") return usage_error("capture: --key-log needs a file");
  if (options.failed && !(options.key_log.empty() && options.filter.empty()))
    return usage_error("capture: --failed goes with neither --key-log nor --filter");
  if (options.failed && (options.port != CaptureOptions::kUdpPort ||
                         options.buffer_mib != CaptureOptions::kBufferMib))
    return usage_error("capture: --port and --buffer are for the wire, not for --failed");
  return {};
}

void print_json(Context& context, const CaptureSummary& summary) {
  const CaptureOptions& options = context.options.capture;
  nlohmann::ordered_json json{{"ifname", options.device},
                              {"packets", summary.packets},
                              {"octets", summary.octets},
                              {"dropped", summary.dropped}};
  if (summary.keys) json["keys"] = *summary.keys;
  if (summary.without_key) json["without-key"] = *summary.without_key;
  if (options.file != "-") return context.out.document(json);
  fmt::print(context.environment.err, "{}\n", json.dump());
}

void print_text(Context& context, const CaptureSummary& summary) {
  std::string keys = summary.keys ? "; " + counted(*summary.keys, "key") : std::string();
  if (summary.without_key.value_or(0) != 0)
    keys += fmt::format(", {} without", counted(*summary.without_key, "SPI"));
  fmt::print(context.environment.err, "pspctl: {}: {}, {}; dropped {}{}\n",
             context.options.capture.device, counted(summary.packets, "packet"),
             counted(summary.octets, "octet"), summary.dropped, keys);
}

Outcome<void> capture(Context& context) {
  if (auto good = check(context); !good) return good;
  auto summary = context.options.capture.failed ? capture_kept(context) : capture_wire(context);
  if (!summary) return std::unexpected(summary.error());
  if (context.options.json)
    print_json(context, *summary);
  else
    print_text(context, *summary);
  return std::move(summary->outcome);
}

}  // namespace

Noun capture_noun() { return {"capture", kHelp, false, {{"", capture}}, Tail::kCapture}; }

}  // namespace psp::ctl
