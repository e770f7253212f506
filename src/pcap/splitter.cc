// SPDX-License-Identifier: Apache-2.0
//
// Where records begin and end. A length that cannot be is judged before anything is read by it. In
// pcapng a block's length leads past a broken packet; in pcap a wrong length loses the place for
// good, which is damage.
#include <algorithm>
#include <fmt/format.h>

#include "pcap/record.hh"

#include "octets.hh"

namespace psp::pcap {

void Buffer::grow(std::size_t wanted) {
  std::size_t capacity = std::max<std::size_t>(capacity_ * 2, 4096);
  while (capacity < wanted) capacity *= 2;
  auto octets = std::make_unique_for_overwrite<std::uint8_t[]>(capacity);
  if (size_ != 0) std::memcpy(octets.get(), octets_.get(), size_);
  octets_ = std::move(octets);
  capacity_ = capacity;
}

void Buffer::resize(std::size_t size) {
  if (size > capacity_) grow(size);
  size_ = size;
}

std::uint8_t* Buffer::room(std::size_t size) {
  if (size_ + size > capacity_) grow(size_ + size);
  return octets_.get() + size_;
}

void Buffer::append(std::span<const std::uint8_t> octets) {
  if (octets.empty()) return;
  std::memcpy(room(octets.size()), octets.data(), octets.size());
  size_ += octets.size();
}

std::uint32_t Splitter::word(const std::uint8_t* p) const { return load32(p, swapped_); }
std::uint16_t Splitter::half(const std::uint8_t* p) const { return load16(p, swapped_); }

std::size_t Splitter::split(std::span<const std::uint8_t> octets, bool last,
                            std::vector<Record>& records) {
  std::size_t at = 0;
  while (at < octets.size() && damaged_.empty()) {
    Record record;
    record.at = at;
    const std::size_t size = next(octets, at, record);
    if (!damaged_.empty()) break;
    if (size == 0) {
      if (last) finish(octets, at, records);
      break;
    }
    record.size = size;
    records.push_back(record);
    at += size;
  }
  if (last && !started_ && damaged_.empty()) damaged_ = "the file is empty";
  return last || !damaged_.empty() ? octets.size() : at;
}

// finish: the file ends inside the record at `at`.
void Splitter::finish(std::span<const std::uint8_t> octets, std::size_t at,
                      std::vector<Record>& records) {
  if (!started_) {
    damaged_ = "not a pcap or pcapng file";
    return;
  }
  Record record;
  record.kind = Record::Kind::kBroken;
  record.at = at;
  record.size = octets.size() - at;
  record.number = ++packets_;
  record.problem = "the file ends inside this record";
  records.push_back(record);
}

std::size_t Splitter::next(std::span<const std::uint8_t> octets, std::size_t at, Record& record) {
  if (!started_) return start(octets, at, record);
  return format_ == Format::kPcap ? next_pcap(octets, at, record) : next_block(octets, at, record);
}

// start reads the first octets of the file.
std::size_t Splitter::start(std::span<const std::uint8_t> octets, std::size_t at, Record& record) {
  if (octets.size() - at < 4) return 0;
  const std::uint8_t* p = octets.data() + at;
  const std::uint32_t magic = load32(p, false);
  const std::uint32_t other = std::byteswap(magic);
  if (magic == kSectionHeader) {
    format_ = Format::kPcapng;
    const std::size_t size = next_block(octets, at, record);
    started_ = size != 0;
    return size;
  }
  swapped_ = other == kMagicMicro || other == kMagicNano;
  const std::uint32_t known = swapped_ ? other : magic;
  if (known != kMagicMicro && known != kMagicNano) {
    damaged_ = "not a pcap or pcapng file";
    return 0;
  }
  if (octets.size() - at < kPcapFileHeader) return 0;
  if (half(p + 4) != 2) {
    damaged_ = fmt::format("pcap version {} is not known, only 2", half(p + 4));
    return 0;
  }
  nanoseconds_ = known == kMagicNano;
  link_type_ = word(p + kPcapLinkTypeAt) & kPcapLinkTypeMask;
  started_ = true;
  record.kind = Record::Kind::kFileHeader;
  record.layout = Record::Layout::kPcap;
  record.swapped = swapped_;
  record.nanoseconds = nanoseconds_;
  record.link_type = link_type_;
  return kPcapFileHeader;
}

std::size_t Splitter::next_pcap(std::span<const std::uint8_t> octets, std::size_t at,
                                Record& record) {
  const std::size_t left = octets.size() - at;
  if (left < kPcapRecordHeader) return 0;
  const std::uint8_t* p = octets.data() + at;
  record.captured = word(p + 8);
  record.original = word(p + 12);
  if (record.captured > kMaxPacket) {
    damaged_ = fmt::format("packet {}: its record claims {} octets, more than the {} that can be",
                           packets_ + 1, record.captured, kMaxPacket);
    return 0;
  }
  if (left - kPcapRecordHeader < record.captured) return 0;
  record.kind = Record::Kind::kPacket;
  record.layout = Record::Layout::kPcap;
  record.swapped = swapped_;
  record.nanoseconds = nanoseconds_;
  record.data_at = at + kPcapRecordHeader;
  record.link_type = link_type_;
  record.number = ++packets_;
  return kPcapRecordHeader + record.captured;
}

std::size_t Splitter::next_block(std::span<const std::uint8_t> octets, std::size_t at,
                                 Record& record) {
  const std::size_t left = octets.size() - at;
  if (left < kBlockHeader + kBlockTrailer) return 0;
  const std::uint8_t* block = octets.data() + at;
  const bool section = load32(block, false) == kSectionHeader;
  if (section) {
    // Its byte order is its own.
    const std::uint32_t magic = load32(block + kBlockHeader, false);
    swapped_ = magic == std::byteswap(kByteOrderMagic);
    if (!swapped_ && magic != kByteOrderMagic) {
      damaged_ = "a pcapng section has no byte order";
      return 0;
    }
  }
  const std::size_t size = word(block + 4);
  const std::size_t least = kBlockHeader + kBlockTrailer + (section ? kSectionBody : 0);
  if (size < least || size % 4 != 0 || size > kMaxRecord) {
    damaged_ = fmt::format("behind packet {}: a pcapng block claims {} octets", packets_, size);
    return 0;
  }
  if (left < size) return 0;
  if (word(block + size - kBlockTrailer) != size) {
    damaged_ = fmt::format("behind packet {}: the two lengths of a pcapng block differ", packets_);
    return 0;
  }
  record.size = size;
  record.swapped = swapped_;
  read_block(block, section ? kSectionHeader : word(block), record);
  return damaged_.empty() ? size : 0;
}

void Splitter::read_block(const std::uint8_t* block, std::uint32_t type, Record& record) {
  switch (type) {
    case kSectionHeader:
      return read_section(block, record);
    case kInterfaceDescription:
      return read_interface(block, record);
    case kEnhancedPacket:
    case kObsoletePacket:
      return read_packet_block(block, type, record);
    case kSimplePacket:
      return read_simple_block(block, record);
    default:
      return;
  }
}

void Splitter::read_section(const std::uint8_t* block, Record& record) {
  if (half(block + 12) != 1) {
    damaged_ = fmt::format("pcapng version {} is not known, only 1", half(block + 12));
    return;
  }
  record.kind = Record::Kind::kFileHeader;
  interfaces_.clear();
}

void Splitter::read_interface(const std::uint8_t* block, Record& record) {
  if (record.size < kBlockHeader + kInterfaceBody + kBlockTrailer) {
    damaged_ = fmt::format("behind packet {}: an interface description is too short", packets_);
    return;
  }
  if (interfaces_.size() == kMaxInterfaces) {
    damaged_ = fmt::format("more than {} interfaces", kMaxInterfaces);
    return;
  }
  record.kind = Record::Kind::kInterface;
  interfaces_.push_back({half(block + 8), word(block + kInterfaceSnapLengthAt)});
}

void Splitter::read_packet_block(const std::uint8_t* block, std::uint32_t type, Record& record) {
  record.number = ++packets_;
  record.kind = Record::Kind::kBroken;
  record.problem = "its block is too short for a packet";
  const std::size_t fixed = kBlockHeader + kEnhancedBody;
  if (record.size < fixed + kBlockTrailer) return;
  const std::size_t interface = type == kEnhancedPacket ? word(block + 8) : half(block + 8);
  record.captured = word(block + kEnhancedCapturedAt);
  record.original = word(block + kEnhancedCapturedAt + 4);
  record.problem = "its length does not fit its block";
  if (record.captured > record.size - fixed - kBlockTrailer || record.captured > kMaxPacket) return;
  record.problem = "it names an interface that was not described";
  if (interface >= interfaces_.size()) return;
  record.kind = Record::Kind::kPacket;
  record.problem = "";
  record.layout = type == kEnhancedPacket ? Record::Layout::kEnhanced : Record::Layout::kObsolete;
  record.data_at = record.at + fixed;
  record.link_type = interfaces_[interface].link_type;
}

void Splitter::read_simple_block(const std::uint8_t* block, Record& record) {
  record.number = ++packets_;
  record.kind = Record::Kind::kBroken;
  record.problem = "its block is too short for a packet";
  const std::size_t fixed = kBlockHeader + kSimpleBody;
  if (record.size < fixed + kBlockTrailer) return;
  record.problem = "it names an interface that was not described";
  if (interfaces_.empty()) return;
  record.original = word(block + kBlockHeader);
  const std::size_t room = record.size - fixed - kBlockTrailer;
  const std::uint32_t snap = interfaces_[0].snap_length;
  record.captured = snap == 0 ? record.original : std::min(record.original, snap);
  record.problem = "its length does not fit its block";
  if (record.captured > room || record.captured > kMaxPacket) return;
  record.kind = Record::Kind::kPacket;
  record.problem = "";
  record.layout = Record::Layout::kSimple;
  record.data_at = record.at + fixed;
  record.link_type = interfaces_[0].link_type;
}

}  // namespace psp::pcap
