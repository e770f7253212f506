// SPDX-License-Identifier: Apache-2.0
//
// The commands of psp-pcap. Each returns its exit code.
#pragma once

#include <psp/pcap/file.hh>

#include "frames.hh"
#include "options.hh"

namespace psp::pcap_tool {

// Job is what every command gets: the command line, the open capture, the keys.
struct Job {
  const Options& options;
  pcap::Reader& reader;
  KeyRing& keys;
  std::optional<pcap::Configuration::Sealing> sealing;
};

int run_transcode(Job& job);  // encrypt, decrypt
int run_check(Job& job);
int run_explain(Job& job);

}  // namespace psp::pcap_tool
