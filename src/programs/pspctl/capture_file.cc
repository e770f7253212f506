// SPDX-License-Identifier: Apache-2.0
//
// Packets are gathered and written a megabyte at a time; the header at once, so that a reader of
// "-w -" knows what is to come. Whoever reads our output may go away: that is the end of the
// capture and no error. The first real error counts, and the file is completed in any case.
#include "capture_file.hh"

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <sys/signalfd.h>
#include <unistd.h>

#include "version_line.hh"

namespace psp::ctl {

namespace {

constexpr std::size_t kFlushAt = std::size_t{1} << 20;  // octets that wait for one write()

std::uint64_t now() {
  timespec time{};
  ::clock_gettime(CLOCK_REALTIME, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000u +
         static_cast<std::uint64_t>(time.tv_nsec);
}

}  // namespace

StopSignals::StopSignals() {
  sigset_t stop;
  ::sigemptyset(&stop);
  ::sigaddset(&stop, SIGINT);
  ::sigaddset(&stop, SIGTERM);
  struct sigaction hangup {};
  if (::sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler != SIG_IGN)  // not by nohup
    ::sigaddset(&stop, SIGHUP);
  fd_ = UniqueFd(::signalfd(-1, &stop, SFD_CLOEXEC | SFD_NONBLOCK));
  ::sigaddset(&stop, SIGPIPE);
  ::pthread_sigmask(SIG_BLOCK, &stop, &before_);
}

// What came meanwhile is taken: it has had its effect.
StopSignals::~StopSignals() {
  signalfd_siginfo taken;
  while (::read(fd_.get(), &taken, sizeof taken) > 0) continue;
  ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

Outcome<CaptureFile> CaptureFile::open(const CaptureOptions& options, std::string_view filter,
                                       std::uint32_t link_type) {
  auto writer = pcap::Writer::open(options.file, -1, true);
  if (!writer) return std::unexpected(Failure{ExitStatus::kFailed, "capture: " + writer.error()});
  CaptureFile file(options, std::move(*writer));
  const std::string program = version_line("pspctl");
  pcap::begin_capture({.name = options.device,
                       .filter = filter,
                       .program = program,
                       .link_type = link_type,
                       .snap_length = options.snap_length},
                      file.out_);
  file.flush();  // a reader of "-w -" learns at once what is to come
  return file;
}

bool CaptureFile::add(pcap::CapturedPacket packet) {
  packet.octets =
      packet.octets.first(std::min<std::size_t>(packet.octets.size(), options_.snap_length));
  pcap::add_packet(packet, out_);
  ++packets_;
  octets_ += packet.original;
  if (out_.size() >= kFlushAt) flush();
  return wants_more();
}

void CaptureFile::flush() {
  if (!outcome_ || closed_ || out_.size() == 0) return;
  errno = 0;
  if (const auto written = writer_.write(out_.span()); !written) {
    closed_ = errno == EPIPE;
    if (!closed_) fail({ExitStatus::kFailed, "capture: " + written.error()});
  }
  out_.clear();
}

bool CaptureFile::wants_more() const {
  const auto passed = std::chrono::steady_clock::now() - start_;
  return outcome_ && !closed_ && (options_.count == 0 || packets_ < options_.count) &&
         (options_.seconds == 0 || passed < std::chrono::seconds(options_.seconds));
}

void CaptureFile::fail(Failure failure) {
  if (outcome_) outcome_ = std::unexpected(std::move(failure));
}

Outcome<void> CaptureFile::end(const pcap::CaptureCounts& counts) {
  pcap::end_capture(now(), counts, out_);
  flush();
  if (auto done = writer_.close(); !done && !closed_)
    fail({ExitStatus::kFailed, "capture: " + done.error()});
  return outcome_;
}

}  // namespace psp::ctl
