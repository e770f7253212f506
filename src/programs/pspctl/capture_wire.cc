// SPDX-License-Identifier: Apache-2.0
//
// pspctl capture: PSP packets off a netdev, sealed as they are on the wire; and if root asks for it
// and pspd allows it, their keys into a key log beside the capture.
//
// The filter is compiled in: nothing but packets to PSP's port is taken off the netdev, whatever
// the user adds. If pspd gives no more keys, that is said once and ends nothing: a capture of
// sealed packets is better than none. Packets that the ring has at the signal are still written.
#include <array>
#include <fmt/format.h>
#include <poll.h>

#include "capture.hh"
#include "key_follower.hh"
#include "packet_ring.hh"
#include "wire_frames.hh"

namespace psp::ctl {

namespace {

constexpr int kFlushEvery = 200;  // ms

std::string filter_of(const CaptureOptions& options) {
  const std::string psp = fmt::format("udp dst port {}", options.port);
  return options.filter.empty() ? psp : fmt::format("({}) and ({})", psp, options.filter);
}

Outcome<std::optional<KeyFollower>> follow_keys(Context& context) {
  const std::string& path = context.options.capture.key_log;
  if (path.empty()) return std::nullopt;
  auto client = context.connect();
  if (!client) return std::unexpected(client.error());
  auto opened = KeyFollower::open(std::move(*client), path);
  if (!opened) return std::unexpected(opened.error());
  fmt::print(context.environment.err,
             "pspctl: warning: {} gets the keys of what is captured: whoever has it can read these "
             "connections\n",
             path);
  return std::optional(std::move(*opened));
}

// Session is one capture.
class Session {
 public:
  Session(PacketRing ring, CaptureFile file, std::optional<KeyFollower> keys)
      : ring_(std::move(ring)), file_(std::move(file)), keys_(std::move(keys)) {}

  CaptureSummary run(std::FILE* err);

 private:
  // wait returns once there is something to do. True: it is to stop.
  bool wait(int stop);
  bool add(const RingFrame& frame, const WireFrame& on_wire);

  PacketRing ring_;
  CaptureFile file_;
  std::optional<KeyFollower> keys_;
  pcap::Buffer room_;
};

bool Session::add(const RingFrame& frame, const WireFrame& on_wire) {
  if (keys_)
    if (auto seen = keys_->see(on_wire.packet); !seen) file_.fail(seen.error());
  return file_.add({.nanoseconds = frame.nanoseconds,
                    .direction = frame.outgoing ? pcap::Direction::kOut : pcap::Direction::kIn,
                    .octets = on_wire.octets,
                    .original = on_wire.length});
}

bool Session::wait(int stop) {
  std::array<pollfd, 2> waits = {{{ring_.fd(), POLLIN, 0}, {stop, POLLIN, 0}}};
  ::poll(waits.data(), waits.size(), kFlushEvery);
  if ((waits[0].revents & POLLERR) != 0)
    if (auto error = ring_.check(); !error) file_.fail(error.error());
  if (waits[1].revents == 0) return false;
  PacketRing::settle();
  return true;
}

CaptureSummary Session::run(std::FILE* err) {
  const StopSignals stop;
  bool warned = false;
  for (bool stopped = false; file_.wants_more() && !stopped;) {
    stopped = wait(stop.fd());
    ring_.take([&](RingFrame& frame) {
      return for_each_wire_frame(frame, room_,
                                 [&](const WireFrame& on_wire) { return add(frame, on_wire); });
    });
    file_.flush();
    if (keys_ && !keys_->problem().empty() && !std::exchange(warned, true))
      fmt::print(err, "pspctl: warning: no more keys: {}\n", keys_->problem());
  }
  const auto counts = ring_.counts();
  CaptureSummary summary{.dropped = counts.dropped,
                         .outcome = file_.end({counts.received, counts.dropped})};
  summary.packets = file_.packets();
  summary.octets = file_.octets();
  if (keys_) summary.keys = keys_->keys();
  if (keys_) summary.without_key = keys_->without();
  return summary;
}

}  // namespace

Outcome<CaptureSummary> capture_wire(Context& context) {
  const CaptureOptions& options = context.options.capture;
  const std::string filter = filter_of(options);
  // In this order a refusal leaves no file behind.
  auto ring = PacketRing::open(options.device, filter, options.buffer_mib);
  if (!ring) return std::unexpected(ring.error());
  auto keys = follow_keys(context);
  if (!keys) return std::unexpected(keys.error());
  auto file = CaptureFile::open(options, filter, pcap::kLinkEthernet);
  if (!file) return std::unexpected(file.error());
  return Session(std::move(*ring), std::move(*file), std::move(*keys)).run(context.environment.err);
}

}  // namespace psp::ctl
