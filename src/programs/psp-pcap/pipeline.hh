// SPDX-License-Identifier: Apache-2.0
//
// From file to file: one thread reads, the caller works, one thread writes, with a few batches in
// flight between them, so that neither memory nor order depends on the size of the file.
//
// Threading: a batch has one owner at a time; it moves through queues of fixed length.
#pragma once

#include <cstdint>
#include <expected>
#include <functional>
#include <string>

#include <psp/pcap/file.hh>

namespace psp::pcap_tool {

// Piece is a batch on its way, and what is to be written for it.
struct Piece {
  pcap::Batch in;
  pcap::Buffer out;
};

// run_pipeline calls `work` for each batch of `reader` in order and writes what it leaves in `out`
// to `writer` (null: nothing is written). Errors: reading or writing failed.
std::expected<void, std::string> run_pipeline(pcap::Reader& reader, pcap::Writer* writer,
                                              const std::function<void(Piece&)>& work);

}  // namespace psp::pcap_tool
