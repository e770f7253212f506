// SPDX-License-Identifier: Apache-2.0
//
// The commands of psp-pcap. Each returns its exit code, and has then said on standard error what
// was wrong: options.hh has the codes.
//
// main.cc has opened what a Job refers to, and it stays open for as long as the command runs.
// Standard output is for the result alone: a capture, a report or lines.
#pragma once

#include "pcap/file.hh"

#include "frames.hh"
#include "options.hh"

namespace psp::pcap_tool {

// Job is what every command gets: the command line, the open capture, the keys.
struct Job {
  const Options& options;
  pcap::Reader& reader;
  CaptureKeys& keys;
  std::optional<pcap::Configuration::Sealing> sealing;
};

int run_transcode(Job& job);  // encrypt, decrypt
int run_check(Job& job);
int run_explain(Job& job);

}  // namespace psp::pcap_tool
