// SPDX-License-Identifier: Apache-2.0
//
// Blocks are written as they come. An error is kept for the end: a run does not stop for it, since
// what it finds must not depend on a disk.
//
// Times are those of the simulation. The direction is as seen by host 0; who is meant by a packet,
// and whether the enemy made it, stands in its comment.
#include "trace.hh"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>

namespace psp::sim_tool {

std::expected<std::unique_ptr<Trace>, std::string> Trace::open(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return std::unexpected(fmt::format("{}: {}", path, std::strerror(errno)));
  std::unique_ptr<Trace> trace(new Trace(file, path));
  pcap::begin_capture({.name = "link", .filter = "all packets", .program = "psp-sim"},
                      trace->buffer_);
  trace->write();
  return trace;
}

Trace::~Trace() {
  if (file_ != nullptr) std::fclose(file_);
}

void Trace::write() {
  if (std::fwrite(buffer_.data(), 1, buffer_.size(), file_) != buffer_.size() && error_ == 0)
    error_ = errno;
  buffer_.clear();
}

void Trace::add(sim::Time at, unsigned to, const sim::Octets& packet, bool forged) {
  last_ = at;
  ++counts_.received;
  const std::string comment = fmt::format("to host {}{}", to, forged ? ", by the enemy" : "");
  pcap::add_packet({.nanoseconds = at,
                    .direction = to == 0 ? pcap::Direction::kIn : pcap::Direction::kOut,
                    .octets = packet,
                    .original = static_cast<std::uint32_t>(packet.size()),
                    .comment = comment},
                   buffer_);
  write();
}

std::expected<void, std::string> Trace::finish() {
  pcap::end_capture(last_, counts_, buffer_);
  write();
  if (std::fclose(std::exchange(file_, nullptr)) != 0 && error_ == 0) error_ = errno;
  if (error_ == 0) return {};
  return std::unexpected(fmt::format("{}: {}", path_, std::strerror(error_)));
}

}  // namespace psp::sim_tool
