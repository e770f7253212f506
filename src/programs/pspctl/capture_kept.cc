// SPDX-License-Identifier: Apache-2.0
//
// pspctl capture --failed: the packets that pspd's device kept since it did not accept them, could
// not send them or was asked to sample them. pspd keeps the newest and only so many a second.
//
// There is no notification: pspd is asked for all of them again and again, and by their numbers
// those are known that were seen before. A gap in the numbers is what was lost between two
// questions, and counts as dropped.
#include <fmt/format.h>
#include <poll.h>

#include "capture.hh"
#include "devices.hh"

namespace psp::ctl {

namespace {

constexpr int kAskEvery = 200;  // ms

std::string comment_on(const KeptPacket& packet) {
  if (!packet.reason) return "sampled";
  return fmt::format("{}: {}", name(*packet.reason), text(*packet.reason));
}

// take adds the packets behind number `last` to the file.
Outcome<void> take(Client& client, std::uint32_t device, std::uint64_t& last, CaptureFile& file) {
  const auto packets = kept_packets(client);
  if (!packets) return refused("capture --failed", packets.error());
  for (const KeptPacket& packet : *packets) {
    if (packet.dev_id != device || packet.number <= last) continue;
    last = packet.number;
    const std::string comment = comment_on(packet);
    if (!file.add({.nanoseconds = packet.nanoseconds,
                   .direction = packet.transmit ? pcap::Direction::kOut : pcap::Direction::kIn,
                   .octets = packet.octets,
                   .original = packet.length,
                   .comment = comment}))
      return {};
  }
  return {};
}

}  // namespace

Outcome<CaptureSummary> capture_kept(Context& context) {
  const CaptureOptions& options = context.options.capture;
  auto client = context.connect();
  if (!client) return std::unexpected(client.error());
  const auto device =
      find_device(*client, {.ifname = options.device, .id = {}}, "capture --failed");
  if (!device) return std::unexpected(device.error());
  const auto kept = kept_packets(*client);  // refused before there is a file
  if (!kept) return refused("capture --failed", kept.error());
  auto file = CaptureFile::open(options, "failed or sampled", pcap::kLinkRaw);
  if (!file) return std::unexpected(file.error());
  const StopSignals stop;
  CaptureSummary summary;
  std::uint64_t last = 0;
  for (const KeptPacket& packet : *kept)
    if (last == 0 && packet.dev_id == device->id) last = packet.number - 1;
  const std::uint64_t before = last;
  for (bool stopped = false;;) {
    if (auto taken = take(*client, device->id, last, *file); !taken) file->fail(taken.error());
    file->flush();
    if (stopped || !file->wants_more()) break;
    pollfd wait{stop.fd(), POLLIN, 0};
    stopped = ::poll(&wait, 1, kAskEvery) > 0;
  }
  summary.dropped = last - before - file->packets();
  auto ended = file->end({file->packets() + summary.dropped, summary.dropped});
  summary.packets = file->packets();
  summary.octets = file->octets();
  summary.outcome = std::move(ended);
  return summary;
}

}  // namespace psp::ctl
