// SPDX-License-Identifier: Apache-2.0
//
// Files and pipes: whole records in, octets out. A file that gzip compressed is read as what is in
// it. Plain read() and write() rather than mmap(), which would end the program when a file is cut
// while it is read.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <vector>

#include "base/unique_fd.hh"
#include "pcap/record.hh"

struct gzFile_s;  // zlib's

namespace psp::pcap {

// Batch is a piece of a file with the records that stand whole in it.
struct Batch {
  Buffer octets;
  std::vector<Record> records;
};

// Reader reads a capture file from front to back. Thread: one user.
class Reader {
 public:
  // open: `path` "-" is standard input. Errors: a sentence with the path in it.
  static std::expected<Reader, std::string> open(const std::string& path);

  // next replaces the content of `batch` by the next records; false at the end. Memory of a batch:
  // some 512 KiB, up to twice kMaxRecord for a file with records of that size. Errors: the
  // file cannot be read.
  std::expected<bool, std::string> next(Batch& batch);

  // damaged is why the rest of the file could not be read as records; empty if it could.
  const std::string& damaged() const { return damaged_.empty() ? splitter_.damaged() : damaged_; }
  // size is that of the file in octets, 0 if it is not known (a pipe, a compressed file).
  std::uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }
  int fd() const { return fd_.get(); }

 private:
  struct CloseStream {
    void operator()(gzFile_s* stream) const;
  };
  using Stream = std::unique_ptr<gzFile_s, CloseStream>;
  Reader(UniqueFd fd, Stream stream, std::string path, std::uint64_t size);
  std::expected<void, std::string> fill(Buffer& octets);

  UniqueFd fd_;
  Stream stream_;  // reads fd_, inflates what gzip made
  std::string path_;
  std::uint64_t size_;
  bool at_end_ = false;
  std::string damaged_;  // what gzip made
  Buffer left_;          // the beginning of a record
  Splitter splitter_;
};

// Writer writes a file, or standard output for "-". Thread: one user.
class Writer {
 public:
  // open makes or empties the file, readable by its owner only if `secret`. Refuses a file that is
  // also `input` (a descriptor, or -1).
  static std::expected<Writer, std::string> open(const std::string& path, int input,
                                                 bool secret = false);
  std::expected<void, std::string> write(std::span<const std::uint8_t> octets);
  // close reports what the system only says at the end.
  std::expected<void, std::string> close();

 private:
  Writer(UniqueFd fd, std::string path);
  UniqueFd fd_;
  std::string path_;
};

// read_text reads a small file of at most `limit` octets as a whole; "-" is standard input.
std::expected<std::string, std::string> read_text(const std::string& path, std::size_t limit);

}  // namespace psp::pcap
