// SPDX-License-Identifier: Apache-2.0
//
// Trace: what was on the link in a run, as a pcapng file with a comment on what the enemy has sent.
// To be opened with Wireshark or psp-pcap, at the step where a promise was broken.
//
// finish() writes the end of the file, and says what could not be written on the way. One run a
// file: the next one begins it anew.
#pragma once

#include <cstdio>
#include <expected>
#include <memory>
#include <string>

#include "pcap/capture_writer.hh"
#include "sim/world.hh"

namespace psp::sim_tool {

class Trace {
 public:
  // open begins the file. Errors, here and below: a sentence.
  static std::expected<std::unique_ptr<Trace>, std::string> open(const std::string& path);
  ~Trace();
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  void add(sim::Time at, unsigned to, const sim::Octets& packet, bool forged);
  std::expected<void, std::string> finish();

 private:
  Trace(std::FILE* file, std::string path) : file_(file), path_(std::move(path)) {}
  void write();

  std::FILE* file_;
  std::string path_;
  pcap::Buffer buffer_;
  pcap::CaptureCounts counts_;
  sim::Time last_ = 0;
  int error_ = 0;
};

}  // namespace psp::sim_tool
