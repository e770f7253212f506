// SPDX-License-Identifier: Apache-2.0
//
// What captures have in common, wherever their packets come from: the file that is being made, when
// it is to end, and the signals that end it in order.
//
// The file is pcapng, readable by its owner only: packets are sealed, but who talks to whom is not.
// Signals are taken by a descriptor, to be waited for beside the packets; so the end of the file is
// written.
//
// Threading: one thread; StopSignals holds them back for the thread that makes it.
#pragma once

#include <chrono>
#include <csignal>
#include <cstdint>

#include "base/unique_fd.hh"
#include "pcap/capture_writer.hh"
#include "pcap/file.hh"

#include "capture_options.hh"
#include "failure.hh"

namespace psp::ctl {

// StopSignals holds back SIGINT, SIGTERM and SIGHUP, which then end a capture in order, and
// SIGPIPE.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
  sigset_t before_{};
};

class CaptureFile {
 public:
  // open makes the file, readable by its owner only, and writes its header.
  static Outcome<CaptureFile> open(const CaptureOptions& options, std::string_view filter,
                                   std::uint32_t link_type);

  // add writes a packet, cut to the snap length. False: no more is wanted.
  bool add(pcap::CapturedPacket packet);
  // flush brings to the file what waits in memory.
  void flush();
  // wants_more: no end of count, time or file has come.
  bool wants_more() const;
  // fail ends the capture with an error; the first one counts.
  void fail(Failure failure);
  // end completes the file.
  Outcome<void> end(const pcap::CaptureCounts& counts);

  std::uint64_t packets() const { return packets_; }
  std::uint64_t octets() const { return octets_; }

 private:
  CaptureFile(const CaptureOptions& options, pcap::Writer writer)
      : options_(options), writer_(std::move(writer)) {}

  const CaptureOptions& options_;
  pcap::Writer writer_;
  pcap::Buffer out_;
  std::uint64_t packets_ = 0, octets_ = 0;
  Outcome<void> outcome_;
  bool closed_ = false;  // nobody reads our output any more
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace psp::ctl
