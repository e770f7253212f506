// SPDX-License-Identifier: Apache-2.0
//
// Capture files, pcap and pcapng, as what they are on disk: a row of records. A Splitter finds the
// records in octets that were read, a Rewriter writes them again with other packets inside and all
// else as it was: byte order, time stamps, interfaces, options, blocks that nobody here knows.
// libpcap reads both formats too, but writes only pcap and keeps none of that.
//
// Nothing here opens a file or allocates by what a file claims: limits are below.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace psp::pcap {

// kMaxPacket is the most octets a packet may have, the limit of libpcap; kMaxRecord the most that a
// record of another kind may have.
inline constexpr std::size_t kMaxPacket = 262144;
inline constexpr std::size_t kMaxRecord = 16u << 20;
// kMaxInterfaces is how many interfaces one section of a pcapng file may describe.
inline constexpr std::size_t kMaxInterfaces = 65536;

// Link types (https://www.tcpdump.org/linktypes.html) that are understood here.
inline constexpr std::uint32_t kLinkNull = 0;
inline constexpr std::uint32_t kLinkEthernet = 1;
// Raw IP as it is in files, and as libpcap's number of it leaked into files: of most systems,
// OpenBSD.
inline constexpr std::uint32_t kLinkRaw = 101;
inline constexpr std::uint32_t kLinkRawBsd = 12;
inline constexpr std::uint32_t kLinkRawOpenBsd = 14;
inline constexpr std::uint32_t kLinkLoop = 108;
inline constexpr std::uint32_t kLinkSll = 113;
inline constexpr std::uint32_t kLinkIpv4 = 228;
inline constexpr std::uint32_t kLinkIpv6 = 229;
inline constexpr std::uint32_t kLinkSll2 = 276;

// Buffer is octets that grow without being cleared first. Growing keeps what is there.
class Buffer {
 public:
  std::uint8_t* data() { return octets_.get(); }
  const std::uint8_t* data() const { return octets_.get(); }
  std::size_t size() const { return size_; }
  std::size_t capacity() const { return capacity_; }
  std::span<const std::uint8_t> span() const { return {octets_.get(), size_}; }
  void clear() { size_ = 0; }
  void resize(std::size_t size);
  // room returns where `size` more octets can be written; add makes them part of the content.
  std::uint8_t* room(std::size_t size);
  void add(std::size_t size) { size_ += size; }
  void append(std::span<const std::uint8_t> octets);

 private:
  void grow(std::size_t wanted);
  std::unique_ptr<std::uint8_t[]> octets_;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

enum class Format : std::uint8_t { kPcap, kPcapng };

// Record is one record of a file. Offsets count from the start of the octets that were split.
struct Record {
  enum class Kind : std::uint8_t {
    kFileHeader,  // pcap: the header of the file; pcapng: section header block
    kInterface,   // pcapng: interface description block
    kPacket,
    kBroken,  // a packet that can be passed over; `problem` says why
    kOther,   // pcapng: any other block
  };
  enum class Layout : std::uint8_t { kPcap, kEnhanced, kSimple, kObsolete, kNone };

  Kind kind = Kind::kOther;
  Layout layout = Layout::kNone;
  bool swapped = false;      // the file has the other byte order
  bool nanoseconds = false;  // pcap: time stamps count nanoseconds
  std::size_t at = 0;
  std::size_t size = 0;
  std::size_t data_at = 0;  // packet: its first octet
  std::uint32_t captured = 0;
  std::uint32_t original = 0;
  std::uint32_t link_type = 0;
  std::uint64_t number = 0;  // of packets, from 1; broken ones count
  const char* problem = "";

  std::span<const std::uint8_t> packet(std::span<const std::uint8_t> octets) const {
    return octets.subspan(data_at, captured);
  }
};

// Splitter finds records. Feed it the file piece by piece; what it did not consume comes again at
// the start of the next piece.
class Splitter {
 public:
  // split appends the records that stand whole in `octets` and returns how many octets they are.
  // `last`: nothing follows; what is left is a broken packet or damage. Once damaged() it consumes
  // everything and finds nothing more.
  std::size_t split(std::span<const std::uint8_t> octets, bool last, std::vector<Record>& records);

  // damaged is why nothing more can be found in this file; empty if all is well.
  const std::string& damaged() const { return damaged_; }
  bool started() const { return started_; }
  Format format() const { return format_; }

 private:
  struct Interface {
    std::uint32_t link_type = 0;
    std::uint32_t snap_length = 0;
  };
  // One record at `at`: its size, 0 if more octets are needed.
  std::size_t next(std::span<const std::uint8_t> octets, std::size_t at, Record& record);
  std::size_t start(std::span<const std::uint8_t> octets, std::size_t at, Record& record);
  std::size_t next_pcap(std::span<const std::uint8_t> octets, std::size_t at, Record& record);
  std::size_t next_block(std::span<const std::uint8_t> octets, std::size_t at, Record& record);
  void read_block(const std::uint8_t* block, std::uint32_t type, Record& record);
  void read_section(const std::uint8_t* block, Record& record);
  void read_interface(const std::uint8_t* block, Record& record);
  void read_packet_block(const std::uint8_t* block, std::uint32_t type, Record& record);
  void read_simple_block(const std::uint8_t* block, Record& record);
  void finish(std::span<const std::uint8_t> octets, std::size_t at, std::vector<Record>& records);
  std::uint32_t word(const std::uint8_t* p) const;
  std::uint16_t half(const std::uint8_t* p) const;

  bool started_ = false;
  Format format_ = Format::kPcap;
  bool swapped_ = false;
  bool nanoseconds_ = false;
  std::uint32_t link_type_ = 0;  // pcap
  std::vector<Interface> interfaces_;
  std::uint64_t packets_ = 0;
  std::string damaged_;
};

// Rewriter writes records again. It has no state: thread: any.
class Rewriter {
 public:
  struct Options {
    std::uint32_t growth = 0;  // octets that packets may gain: snap lengths are raised by it
    // reference: the header of a pcap file over Ethernet is that of the reference implementation:
    // little-endian, microseconds, snap length 9014.
    bool reference = false;
  };
  explicit Rewriter(Options options) : options_(options) {}

  // copy writes a record without packet, adapted where growth asks for it, or a packet unchanged.
  void copy(std::span<const std::uint8_t> octets, const Record& record, Buffer& out) const;

  // begin returns where up to `most` octets of the packet that takes the place of `record` can be
  // written; end completes the record with the first `size` of them. Between the two nothing else
  // is done to `out`. A packet that is begun and not ended was never there.
  std::uint8_t* begin(const Record& record, std::size_t most, Buffer& out) const;
  void end(std::span<const std::uint8_t> octets, const Record& record, std::size_t size,
           Buffer& out) const;

 private:
  bool as_reference(const Record& record) const;
  void copy_file_header(std::span<const std::uint8_t> octets, const Record& record,
                        Buffer& out) const;
  void end_pcap(const std::uint8_t* old, const Record& record, std::uint32_t size,
                Buffer& out) const;
  void end_block(const std::uint8_t* old, const Record& record, std::uint32_t size,
                 Buffer& out) const;
  Options options_;
};

}  // namespace psp::pcap
