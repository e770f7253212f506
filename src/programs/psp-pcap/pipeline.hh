// SPDX-License-Identifier: Apache-2.0
//
// From file to file in lanes: each lane is a thread that takes a batch all the way, from reading to
// writing, so that its octets stay in the cache of one processor. Lanes take turns where the order
// of the file matters and work side by side where it does not. Neither memory nor order depends on
// the size of the file.
//
// Threading: a batch belongs to its lane. `begin` and `end` are called by one lane at a time, in
// the order of the file; `middle` by several at once.
#pragma once

#include <cstdint>
#include <expected>
#include <functional>
#include <string>

#include "pcap/file.hh"

namespace psp::pcap_tool {

// Piece is a batch on its way, and what is to be written for it.
struct Piece {
  pcap::Batch in = {};
  pcap::Buffer out = {};
  std::size_t lane = 0;  // 0..lanes() - 1
};

// lanes is how many there are: one for each processor, two at least since one may wait for a file.
std::size_t lanes();

// Stages is what is done with each batch.
struct Stages {
  std::function<void(Piece&)> begin;
  std::function<void(Piece&)> middle = {};  // may be empty
  std::function<void(Piece&)> end = {};     // may be empty; what is in `out` is written behind it
};

// run_pipeline takes all batches of `reader` through the stages and writes what they leave in `out`
// to `writer` (null: nothing is written). Errors: reading or writing failed.
std::expected<void, std::string> run_pipeline(pcap::Reader& reader, pcap::Writer* writer,
                                              const Stages& stages);

}  // namespace psp::pcap_tool
