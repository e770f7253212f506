// SPDX-License-Identifier: Apache-2.0
//
// Records with other packets inside. Lengths are written in the byte order of the file; time stamps
// and interface numbers are copied as octets. An option that speaks of the packet as it was
// (epb_hash) would be a lie about another one and is left out, all others stay. Snap lengths rise
// by what packets may grow, else libpcap would cut them. With `reference` the file header is that
// of the reference implementation, so that outputs can be compared octet by octet.
#include <algorithm>

#include "pcap/record.hh"

#include "octets.hh"

namespace psp::pcap {
namespace {

// The header of the reference implementation's output.
constexpr std::uint32_t kReferenceSnapLength = 9014;

std::size_t header_size(const Record& record) {
  switch (record.layout) {
    case Record::Layout::kPcap:
      return kPcapRecordHeader;
    case Record::Layout::kSimple:
      return kBlockHeader + kSimpleBody;
    default:
      return kBlockHeader + kEnhancedBody;
  }
}

// raised is a snap length that lets packets grow; 0 stands for no limit.
std::uint32_t raised(std::uint32_t snap_length, std::uint32_t growth) {
  if (snap_length == 0 || snap_length >= kMaxPacket) return snap_length;
  return std::min<std::uint32_t>(snap_length + growth, kMaxPacket);
}

// kept_options appends those options of a packet block that are still true, with the end of options
// if there are any. Options that do not add up are left out from there on.
void keep_options(std::span<const std::uint8_t> options, bool swapped, Buffer& out) {
  std::size_t kept = 0;
  while (options.size() >= 4) {
    const std::uint16_t code = load16(options.data(), swapped);
    const std::size_t size = 4 + padded(load16(options.data() + 2, swapped));
    if (code == kOptionEnd || size > options.size()) break;
    if (code != kOptionHash) {
      out.append(options.first(size));
      ++kept;
    }
    options = options.subspan(size);
  }
  constexpr std::uint8_t kEnd[4] = {};
  if (kept != 0) out.append(kEnd);
}

}  // namespace

// as_reference: a reader of the reference's files expects Ethernet; any other link type stays what
// it is.
bool Rewriter::as_reference(const Record& record) const {
  return options_.reference && record.link_type == kLinkEthernet;
}

void Rewriter::copy(std::span<const std::uint8_t> octets, const Record& record, Buffer& out) const {
  if (record.kind == Record::Kind::kFileHeader) return copy_file_header(octets, record, out);
  if (record.kind == Record::Kind::kPacket && record.layout == Record::Layout::kPcap) {
    // The header of the file may have another byte order than it had.
    std::uint8_t* to = begin(record, record.captured, out);
    if (record.captured != 0) std::memcpy(to, octets.data() + record.data_at, record.captured);
    end_pcap(octets.data() + record.at, record, record.captured, out);
    std::uint8_t* header = out.data() + out.size() - record.captured - kPcapRecordHeader;
    store32(header + 12, record.original, record.swapped && !as_reference(record));
    return;
  }
  const std::size_t start = out.size();
  out.append(octets.subspan(record.at, record.size));
  if (record.kind != Record::Kind::kInterface) return;
  std::uint8_t* snap_length = out.data() + start + kInterfaceSnapLengthAt;
  store32(snap_length, raised(load32(snap_length, record.swapped), options_.growth),
          record.swapped);
}

void Rewriter::copy_file_header(std::span<const std::uint8_t> octets, const Record& record,
                                Buffer& out) const {
  const std::size_t start = out.size();
  out.append(octets.subspan(record.at, record.size));
  std::uint8_t* header = out.data() + start;
  if (record.layout != Record::Layout::kPcap) {
    std::memset(header + kSectionLengthAt, 0xff, 8);  // length of the section: not said
    return;
  }
  if (as_reference(record)) {
    constexpr bool swapped = std::endian::native == std::endian::big;
    std::memset(header, 0, kPcapFileHeader);
    store32(header, kMagicMicro, swapped);
    header[4] = 2;
    header[6] = 4;
    store32(header + kPcapSnapLengthAt, kReferenceSnapLength, swapped);
    store32(header + kPcapLinkTypeAt, kLinkEthernet, swapped);
    return;
  }
  std::uint8_t* snap_length = header + kPcapSnapLengthAt;
  store32(snap_length, raised(load32(snap_length, record.swapped), options_.growth),
          record.swapped);
}

std::uint8_t* Rewriter::begin(const Record& record, std::size_t most, Buffer& out) const {
  return out.room(header_size(record) + most + 3) + header_size(record);
}

void Rewriter::end(std::span<const std::uint8_t> octets, const Record& record, std::size_t size,
                   Buffer& out) const {
  const std::uint8_t* old = octets.data() + record.at;
  if (record.layout == Record::Layout::kPcap)
    end_pcap(old, record, static_cast<std::uint32_t>(size), out);
  else
    end_block(old, record, static_cast<std::uint32_t>(size), out);
}

void Rewriter::end_pcap(const std::uint8_t* old, const Record& record, std::uint32_t size,
                        Buffer& out) const {
  std::uint8_t* header = out.room(0);
  bool swapped = record.swapped;
  std::memcpy(header, old, 8);
  if (as_reference(record)) {
    swapped = std::endian::native == std::endian::big;
    const std::uint32_t fraction = load32(old + 4, record.swapped);
    store32(header, load32(old, record.swapped), swapped);
    store32(header + 4, record.nanoseconds ? fraction / 1000 : fraction, swapped);
  }
  store32(header + 8, size, swapped);
  store32(header + 12, size, swapped);
  out.add(kPcapRecordHeader + size);
}

void Rewriter::end_block(const std::uint8_t* old, const Record& record, std::uint32_t size,
                         Buffer& out) const {
  const std::size_t start = out.size();
  const std::size_t fixed = header_size(record);
  const bool swapped = record.swapped;
  std::uint8_t* block = out.room(0);
  std::memcpy(block, old, fixed);
  std::memset(block + fixed + size, 0, padded(size) - size);
  store32(block + fixed - 4, size, swapped);
  if (record.layout != Record::Layout::kSimple) store32(block + fixed - 8, size, swapped);
  out.add(fixed + padded(size));
  const std::size_t options_at = fixed + padded(record.captured);
  if (record.layout != Record::Layout::kSimple && options_at + kBlockTrailer < record.size)
    keep_options({old + options_at, record.size - kBlockTrailer - options_at}, swapped, out);
  std::uint8_t* trailer = out.room(kBlockTrailer);
  out.add(kBlockTrailer);
  const auto total = static_cast<std::uint32_t>(out.size() - start);
  store32(trailer, total, swapped);
  store32(out.data() + start + 4, total, swapped);
}

}  // namespace psp::pcap
