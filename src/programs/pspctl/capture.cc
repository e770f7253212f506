// SPDX-License-Identifier: Apache-2.0
//
// pspctl capture: PSP packets of a netdev into a pcapng file, sealed as they are on the wire; and
// if root asks for it and pspd allows it, their keys into a key log beside it.
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fmt/format.h>
#include <optional>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <psp/pcap/capture_writer.hh>
#include <psp/pcap/file.hh>

#include "command.hh"
#include "key_follower.hh"
#include "packet_ring.hh"
#include "wire_frames.hh"

namespace psp::ctl {

namespace {

using std::chrono::steady_clock;

constexpr std::string_view kHelp =
    R"(Usage: pspctl capture --dev DEV -w FILE [OPTIONS]

       Writes the PSP packets that go by a network device to a pcapng file, as they are on the
       wire, until interrupted. They stay sealed. "-w -" is the standard output.

       --count N       ends after N packets      --duration N[s|m|h]  ends after that time
       --snaplen N     keeps N octets of a packet (64 or more)
       --filter EXPR   only packets that meet it too: pcap-filter(7)
       --port N        PSP by another UDP port than 1000
       --buffer MIB    of memory for packets that wait to be written; default 32

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

constexpr std::size_t kWriteAt = std::size_t{1} << 20;  // octets that wait for one write()
constexpr auto kWriteEvery = std::chrono::milliseconds(200);

// StopSignals holds back SIGINT and SIGTERM, which then end a capture in order, and SIGPIPE.
class StopSignals {
 public:
  StopSignals() {
    sigset_t stop;
    ::sigemptyset(&stop);
    ::sigaddset(&stop, SIGINT);
    ::sigaddset(&stop, SIGTERM);
    fd_ = UniqueFd(::signalfd(-1, &stop, SFD_CLOEXEC | SFD_NONBLOCK));
    ::sigaddset(&stop, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &stop, &before_);
  }
  // What came meanwhile is taken: it has had its effect.
  ~StopSignals() {
    signalfd_siginfo taken;
    while (::read(fd_.get(), &taken, sizeof taken) > 0) continue;
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
  sigset_t before_{};
};

std::string filter_of(const CaptureOptions& options) {
  const std::string psp = fmt::format("udp dst port {}", options.port);
  return options.filter.empty() ? psp : fmt::format("({}) and ({})", psp, options.filter);
}

std::uint64_t now() {
  timespec time{};
  ::clock_gettime(CLOCK_REALTIME, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000u +
         static_cast<std::uint64_t>(time.tv_nsec);
}

// Session is one capture.
class Session {
 public:
  Session(const CaptureOptions& options, PacketRing ring, pcap::Writer writer,
          std::optional<KeyFollower> keys)
      : options_(options),
        ring_(std::move(ring)),
        writer_(std::move(writer)),
        keys_(std::move(keys)) {}

  Outcome<void> run(std::FILE* err);
  void print(Context& context);

 private:
  bool done() const { return options_.count != 0 && packets_ == options_.count; }
  bool take(RingFrame& frame);
  bool add(const RingFrame& frame, const WireFrame& on_wire);
  void write();
  int wait(int stop) const;

  const CaptureOptions& options_;
  PacketRing ring_;
  pcap::Writer writer_;
  std::optional<KeyFollower> keys_;
  pcap::Buffer out_, room_;
  std::uint64_t packets_ = 0, octets_ = 0;
  Outcome<void> outcome_;
  bool closed_ = false;  // nobody reads our output any more
  const steady_clock::time_point start_ = steady_clock::now();
};

bool Session::take(RingFrame& frame) {
  return for_each_wire_frame(frame, room_,
                             [&](const WireFrame& on_wire) { return add(frame, on_wire); });
}

bool Session::add(const RingFrame& frame, const WireFrame& on_wire) {
  if (keys_)
    if (auto seen = keys_->see(on_wire.packet); !seen) outcome_ = std::move(seen);
  const auto kept =
      on_wire.octets.first(std::min<std::size_t>(on_wire.octets.size(), options_.snap_length));
  pcap::add_packet(frame.nanoseconds, frame.outgoing ? pcap::Direction::kOut : pcap::Direction::kIn,
                   kept, on_wire.length, out_);
  ++packets_;
  octets_ += on_wire.length;
  if (out_.size() >= kWriteAt) write();
  return outcome_ && !closed_ && !done();
}

void Session::write() {
  if (!outcome_ || closed_ || out_.size() == 0) return;
  errno = 0;
  if (const auto written = writer_.write(out_.span()); !written) {
    closed_ = errno == EPIPE;
    if (!closed_)
      outcome_ = std::unexpected(Failure{ExitStatus::kFailed, "capture: " + written.error()});
  }
  out_.clear();
}

// wait returns once there is something to do: 1 to stop, 0 to go on, -1 for an error of the socket.
int Session::wait(int stop) const {
  std::array<pollfd, 2> waits = {{{ring_.fd(), POLLIN, 0}, {stop, POLLIN, 0}}};
  ::poll(waits.data(), waits.size(), static_cast<int>(kWriteEvery.count()));
  if (waits[1].revents != 0) return 1;
  return (waits[0].revents & POLLERR) != 0 ? -1 : 0;
}

Outcome<void> Session::run(std::FILE* err) {
  const StopSignals stop;
  const std::string filter = filter_of(options_);
  pcap::begin_capture({.name = options_.device,
                       .filter = filter,
                       .program = "pspctl " PSP_VERSION " (softpsp)",
                       .snap_length = options_.snap_length},
                      out_);
  write();  // a reader of "-w -" learns at once what is to come
  bool warned = false;
  for (int next = 0; outcome_ && !closed_ && !done() && next == 0;) {
    const auto passed = steady_clock::now() - start_;
    if (options_.seconds != 0 && passed >= std::chrono::seconds(options_.seconds)) break;
    next = wait(stop.fd());
    if (next > 0) PacketRing::settle();
    ring_.take([&](RingFrame& frame) { return take(frame); });
    write();
    if (keys_ && !keys_->problem().empty() && !std::exchange(warned, true))
      fmt::print(err, "pspctl: warning: no more keys: {}\n", keys_->problem());
    if (next < 0) outcome_ = ring_.check();
  }
  const auto counts = ring_.counts();
  pcap::end_capture(now(), {counts.received, counts.dropped}, out_);
  write();
  if (auto done = writer_.close(); !done && outcome_ && !closed_)
    outcome_ = std::unexpected(Failure{ExitStatus::kFailed, "capture: " + done.error()});
  return outcome_;
}

void Session::print(Context& context) {
  const auto dropped = ring_.counts().dropped;
  if (context.options.json) {
    nlohmann::ordered_json summary{{"ifname", options_.device},
                                   {"packets", packets_},
                                   {"octets", octets_},
                                   {"kernel-drops", dropped}};
    if (keys_) summary["keys"] = keys_->keys();
    if (keys_) summary["without-key"] = keys_->without();
    if (options_.file != "-") return context.out.document(summary);
    fmt::print(context.environment.err, "{}\n", summary.dump());
    return;
  }
  std::string keys;
  if (keys_)
    keys = fmt::format(
        "; {} keys{}", keys_->keys(),
        keys_->without() == 0 ? std::string() : fmt::format(", {} SPIs without", keys_->without()));
  fmt::print(context.environment.err, "pspctl: {}: {} packets, {} octets; dropped {}{}\n",
             options_.device, packets_, octets_, dropped, keys);
}

Outcome<void> check(Context& context) {
  const CaptureOptions& options = context.options.capture;
  if (auto end = context.words.expect_end(); !end) return end;
  if (options.device.empty())
    return usage_error("capture: which network device? For example --dev eth0");
  if (options.file.empty()) return usage_error("capture: where to? For example -w psp.pcapng");
  if (options.file == "-" && ::isatty(STDOUT_FILENO) == 1)
    return usage_error("capture: packets are not for a terminal: use -w FILE, or a pipe");
  if (options.key_log == "-") return usage_error("capture: --key-log needs a file");
  return {};
}

Outcome<void> capture(Context& context) {
  const CaptureOptions& options = context.options.capture;
  if (auto good = check(context); !good) return good;
  // In this order a refusal leaves no file behind.
  auto ring = PacketRing::open(options.device, filter_of(options), options.buffer_mib);
  if (!ring) return std::unexpected(ring.error());
  std::optional<KeyFollower> keys;
  if (!options.key_log.empty()) {
    auto client = context.connect();
    if (!client) return std::unexpected(client.error());
    auto opened = KeyFollower::open(std::move(*client), options.key_log);
    if (!opened) return std::unexpected(opened.error());
    keys.emplace(std::move(*opened));
    fmt::print(context.environment.err,
               "pspctl: warning: {} gets the keys of what is captured: whoever has it can read "
               "these connections\n",
               options.key_log);
  }
  auto writer = pcap::Writer::open(options.file, -1, true);
  if (!writer) return std::unexpected(Failure{ExitStatus::kFailed, "capture: " + writer.error()});
  Session session(options, std::move(*ring), std::move(*writer), std::move(keys));
  auto outcome = session.run(context.environment.err);
  session.print(context);
  return outcome;
}

}  // namespace

Noun capture_noun() { return {"capture", kHelp, false, {{"", capture}}, Tail::kCapture}; }

}  // namespace psp::ctl
