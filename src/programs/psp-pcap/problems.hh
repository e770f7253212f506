// SPDX-License-Identifier: Apache-2.0
//
// What psp-pcap says on standard error: broken packets by number, progress, the summary. Numbers
// count from 1, as Wireshark's do, so that a packet can be looked up.
//
// -q silences what is said of single packets and the summary, never an error; what was found is in
// the exit code in any case. Thread: one lane at a time, in the order of the file.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <map>
#include <string>
#include <string_view>

#include "pcap/file.hh"

namespace psp::pcap_tool {

// say writes one line to standard error, with the name of the program in front.
void say(const std::string& line);

// failure_of is why a capture was not worked through to its end, empty if it was.
std::string failure_of(const pcap::Reader& reader, const std::expected<void, std::string>& ran);

// Problems names packets with something wrong, neighbours of the same kind on one line.
class Problems {
 public:
  explicit Problems(bool quiet) : quiet_(quiet) {}
  // add: packet `number` has this problem. `label` is a word such as the drop reason, or empty.
  void add(std::uint64_t number, std::string_view label, std::string_view text);
  // flush writes what is still held back. Call at the end.
  void flush();
  std::uint64_t count() const { return count_; }

 private:
  bool quiet_;
  std::uint64_t count_ = 0;
  std::uint64_t first_ = 0, last_ = 0;
  std::string what_;
};

// Unread counts the packets that are not understood here, by the reason. They may be PSP all the
// same, so a command that met some never ends as if all were well.
class Unread {
 public:
  // add: `why` lives as long as the program.
  void add(std::uint64_t number, std::string_view why);
  // tell says how many there were and why.
  void tell() const;
  std::uint64_t count() const { return count_; }

 private:
  struct Reason {
    std::uint64_t packets = 0, first = 0;
  };
  std::uint64_t count_ = 0;
  std::map<std::string_view, Reason> reasons_;
};

// print writes to standard output. Errors: a sentence.
std::expected<void, std::string> print(std::string_view text);

// Progress is a line on the terminal that is written over and over.
class Progress {
 public:
  Progress(bool wanted, std::uint64_t total) : wanted_(wanted), total_(total) {}
  ~Progress();
  void tick(std::uint64_t octets, std::uint64_t packets);

 private:
  using Clock = std::chrono::steady_clock;
  bool wanted_;
  bool shown_ = false;
  std::uint64_t total_;  // 0: not known
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = start_;
};

}  // namespace psp::pcap_tool
